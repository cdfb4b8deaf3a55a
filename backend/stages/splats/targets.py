"""What the Gaussians are fitted to: the views at the fitting size, over white, cropped to the object."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.pipeline.values import Views

WHITE = np.ones(3, dtype=np.float32)
_MARGIN = 16
"""Pixels kept around the object: three times the SSIM window's reach, so a spill is seen and punished."""


@dataclass(frozen=True)
class Target:
    """One view, cropped; the camera sees just this crop.

    planes             (4, h, w) float32: R, G, B over white, alpha
    world_from_camera  (4, 4); intrinsics (3, 3) with the crop's own principal point
    pixels             of the whole view, for errors measured over the whole picture
    """

    planes: np.ndarray
    world_from_camera: np.ndarray
    intrinsics: np.ndarray
    pixels: int

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


def make_targets(views: Views, size: int, check: Callable[[], None] = lambda: None) -> list[Target]:
    """The views at `size`, one Target each; views that show nothing are left out.

    `check` is called between views.
    """
    rgba = resize_views(views.rgba, size, check)
    height, width = rgba.shape[1:3]
    cameras: Cameras = views.cameras.resized(width, height)
    targets = []
    for i, view in enumerate(rgba):
        check()
        seen = view[..., 3] > 0.5 / 255
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if not len(rows):
            continue
        top, bottom = max(rows[0] - _MARGIN, 0), min(rows[-1] + 1 + _MARGIN, height)
        left, right = max(columns[0] - _MARGIN, 0), min(columns[-1] + 1 + _MARGIN, width)
        crop = view[top:bottom, left:right]
        planes = np.concatenate([over_white(crop), crop[..., 3:]], axis=2).transpose(2, 0, 1)
        intrinsics = cameras.intrinsics[i].copy()
        intrinsics[:2, 2] -= (left, top)
        targets.append(
            Target(np.ascontiguousarray(planes), cameras.world_from_camera[i], intrinsics, height * width)
        )
    return targets
