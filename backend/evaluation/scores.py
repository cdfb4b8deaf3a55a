"""Figures of one result against the truth: its pictures, its shape."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from backend.evaluation.protocols import ShapeRules
from backend.geometry import metrics
from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import over
from backend.geometry.perceptual import SMALLEST, Features, PerceptualNet

WHITE = (1.0, 1.0, 1.0)

PERCEPTUAL = "ST-LPIPS (AlexNet, Ghildyal 2022)"
"""What stands in for the papers' LPIPS; its figures are not comparable with theirs."""


def load_perceptual() -> PerceptualNet | None:
    """The network; None where its weights are not here."""
    from backend.weights import stlpips

    return PerceptualNet.of(stlpips.load()) if stlpips.present() else None


class PictureJudge:
    """Compares renderings with the truth's pictures, whose deep features are computed once."""

    def __init__(
        self, truth: np.ndarray, net: PerceptualNet | None, check: Callable[[], None] = lambda: None
    ) -> None:
        """truth (N, H, W, 4) straight alpha; judged over white."""
        self._truth, self._check = over(truth, WHITE), check
        self._net = net if min(truth.shape[1:3]) >= SMALLEST else None
        self._features: dict[int, Features] = {}

    def score(self, pictures: Mapping[int, np.ndarray]) -> dict[str, float]:
        """Means over pictures (H, W, 4 or 3) of the truth's views: psnr (dB, at most 100), ssim, perceptual.

        Without the network there is no perceptual figure.
        """
        figures: dict[str, list[float]] = {"psnr": [], "ssim": [], "perceptual": []}
        for view, picture in pictures.items():
            self._check()
            picture = over(picture, WHITE) if picture.shape[-1] == 4 else picture
            figures["psnr"].append(self.psnr({view: picture}))
            figures["ssim"].append(metrics.ssim(picture, self._truth[view]))
            if self._net is not None:
                self._check()
                if view not in self._features:
                    self._features[view] = self._net.features(_planes(self._truth[view]))
                    self._check()
                figures["perceptual"].append(self._net.distance(_planes(picture), self._features[view]))
        return {name: float(np.mean(values)) for name, values in figures.items() if values}

    def psnr(self, pictures: Mapping[int, np.ndarray]) -> float:
        """Mean PSNR alone, dB."""
        values = []
        for view, picture in pictures.items():
            picture = over(picture, WHITE) if picture.shape[-1] == 4 else picture
            values.append(min(metrics.psnr(picture, self._truth[view]), 100.0))
        return float(np.mean(values))


def _planes(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)


def score_shape(
    vertices: np.ndarray,
    faces: np.ndarray,
    true_vertices: np.ndarray,
    true_faces: np.ndarray,
    rules: ShapeRules,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """chamfer, f_T for each threshold T, iou; both meshes in the protocol's frame."""
    meshes = vertices, faces, true_vertices, true_faces
    if rules.points == "visible":
        chamfer = metrics.sync_chamfer(*meshes)
        check()
        return {"chamfer": chamfer, "iou": metrics.sync_iou(*meshes)}
    score = metrics.score_shape(
        *meshes, thresholds=rules.thresholds, samples=rules.samples, cells=rules.cells, check=check
    )
    return {
        "chamfer": score.chamfer,
        **{f_name(threshold): value for threshold, value in score.fscore.items()},
        "iou": score.iou,
    }


def f_name(threshold: float) -> str:
    """Column of the F-score: f_005 for 0.005."""
    return "f_" + f"{threshold:g}".removeprefix("0.")


def seen_from(frame: np.ndarray, own: Cameras, camera: Cameras) -> np.ndarray:
    """A generated frame (H, W, 4) as another, nearly equal camera would see it: (h, w, 4).

    own, camera  one camera each, in the same frame. Exact for a plane through the origin that faces `own`.
    """
    pose = own.world_from_camera[0]
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 0.3
    points = corners @ pose[:3, :3].T
    source, _ = own.project(points)
    target, _ = camera.project(points)
    # OpenCV's pixel centres are whole numbers, ours at +0.5.
    matrix = cv2.getPerspectiveTransform(
        (source[0] - 0.5).astype(np.float32), (target[0] - 0.5).astype(np.float32)
    )
    premultiplied = np.dstack([frame[..., :3] * frame[..., 3:], frame[..., 3]]).astype(np.float32)
    shrink = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    fine = max(1, round(1 / max(shrink, 1e-3)))  # averaged where the frame is finer than the picture
    enlarge = np.array([[fine, 0, (fine - 1) / 2], [0, fine, (fine - 1) / 2], [0, 0, 1]])
    size = (camera.width * fine, camera.height * fine)
    moved = cv2.warpPerspective(premultiplied, enlarge @ matrix, size, flags=cv2.INTER_LINEAR)
    if fine > 1:
        moved = cv2.resize(moved, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    alpha = moved[..., 3:]
    return np.dstack([moved[..., :3] / np.maximum(alpha, 1e-6), alpha]).astype(np.float32)
