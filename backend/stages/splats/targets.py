"""What the Gaussians are fitted to: the views at the fitting size, over white, cropped to the object."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.pipeline.options import SplatsOptions
from backend.pipeline.values import Views

WHITE = np.ones(3, dtype=np.float32)
SMALLEST_HALF = 128
"""Pixels; below, Gaussians are smaller than pixels at half size, and what they learn there has to be
unlearned."""
_MARGIN = 16
"""Pixels kept around the object: three times the SSIM window's reach, so a spill is seen and punished."""


@dataclass(frozen=True)
class Target:
    """One view, cropped; the camera sees just this crop.

    planes             (4, h, w) float32: R, G, B over white, alpha
    world_from_camera  (4, 4); intrinsics (3, 3) with the crop's own principal point
    pixels             of the whole view, for errors measured over the whole picture
    weights            (h, w) float32: how much each pixel counts; the mean over the object in all views is 1
    view               its number among the views
    """

    planes: np.ndarray
    world_from_camera: np.ndarray
    intrinsics: np.ndarray
    pixels: int
    weights: np.ndarray | None = None
    view: int = 0

    @property
    def height(self) -> int:
        return self.planes.shape[1]

    @property
    def width(self) -> int:
        return self.planes.shape[2]


def resize_views(rgba: np.ndarray, size: int, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """(N, H, W, 4) straight alpha -> longest side `size` at most, by areas, colour weighted by alpha.

    `check` is called between views.
    """
    height, width = rgba.shape[1:3]
    if max(height, width) <= size:
        return rgba
    import cv2

    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    result = np.empty((len(rgba), shape[1], shape[0], 4), dtype=np.float32)
    for i, view in enumerate(rgba):
        check()
        alpha = view[..., 3:]
        small = cv2.resize(np.concatenate([view[..., :3] * alpha, alpha], axis=2), shape,
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        result[i] = small
        result[i, ..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return result


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) straight alpha -> (..., 3) over white."""
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + (1 - alpha)


def pixel_weights(
    views: Views, width: int, height: int, check: Callable[[], None] = lambda: None
) -> np.ndarray | None:
    """(N, height, width) float32: confidence of views times that of pixels, over its mean on the object.

    None where all are alike. ReconX's equation 7 multiplies each frame's error with its map of confidence;
    dividing by the mean leaves the learning rates and the other terms of a loss what they are.
    """
    weights = views.confidence
    if views.pixel_confidence is None and np.ptp(weights) == 0:
        return None
    object_pixels = views.rgba[..., 3] >= 0.5
    if views.pixel_confidence is None:
        mean = np.average(weights, weights=object_pixels.sum(axis=(1, 2)) + 1e-9)
        return np.broadcast_to(
            (weights / max(mean, 1e-9)).astype(np.float32)[:, None, None], (len(views), height, width)
        )
    import cv2

    weights = views.pixel_confidence * weights[:, None, None]
    mean = weights[object_pixels].mean() if object_pixels.any() else 1.0
    result = np.empty((len(views), height, width), dtype=np.float32)
    for i, view in enumerate(weights):
        check()
        result[i] = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA)
    return result / np.float32(max(mean, 1e-9))


def half_targets(
    views: Views, options: SplatsOptions, check: Callable[[], None] = lambda: None
) -> list[Target] | None:
    """The views at half the size of the fit; None where the options or the size want no such steps."""
    size = options.size // 2
    if not options.coarse or min(size, max(views.rgba.shape[1:3]) // 2) < SMALLEST_HALF:
        return None
    return make_targets(views, size, check)


def make_targets(views: Views, size: int, check: Callable[[], None] = lambda: None) -> list[Target]:
    """The views at `size`, one Target each; views that show nothing are left out.

    `check` is called between views.
    """
    rgba = resize_views(views.rgba, size, check)
    height, width = rgba.shape[1:3]
    cameras: Cameras = views.cameras.resized(width, height)
    weights = pixel_weights(views, width, height, check)
    targets = []
    for i, view in enumerate(rgba):
        check()
        seen = views.rgba[i, ..., 3] > 0.5 / 255
        if not seen.any():
            continue
        # The same box at every size: its share of the picture, rounded outwards.
        scale_y, scale_x = height / seen.shape[0], width / seen.shape[1]
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        top = max(int(rows[0] * scale_y) - _MARGIN, 0)
        bottom = min(int(np.ceil((rows[-1] + 1) * scale_y)) + _MARGIN, height)
        left = max(int(columns[0] * scale_x) - _MARGIN, 0)
        right = min(int(np.ceil((columns[-1] + 1) * scale_x)) + _MARGIN, width)
        crop = view[top:bottom, left:right]
        planes = np.concatenate([over_white(crop), crop[..., 3:]], axis=2).transpose(2, 0, 1)
        intrinsics = cameras.intrinsics[i].copy()
        intrinsics[:2, 2] -= (left, top)
        counts = None if weights is None else np.ascontiguousarray(weights[i, top:bottom, left:right])
        targets.append(
            Target(
                np.ascontiguousarray(planes), cameras.world_from_camera[i], intrinsics, height * width,
                counts, i,
            )
        )  # fmt: skip
    return targets
