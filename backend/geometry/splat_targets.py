"""What Gaussians are fitted to: pictures over white, cropped to the object, each with its crop's camera,
weighted by confidence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.eight_bit import EightBit
from backend.geometry.parallel import map_parallel

WHITE = np.ones(3, dtype=np.float32)
_MARGIN = 16
"""Pixels kept around the object: three times the SSIM window's reach, so a spill is seen and punished."""


class ViewArrays(Protocol):
    """`Views`, or the like: pictures, cameras, how far they are trusted."""

    rgba: np.ndarray | EightBit
    cameras: Cameras
    confidence: np.ndarray
    pixel_confidence: np.ndarray | None


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
    def share(self) -> float:
        """Of the crop in the whole picture: a mean over the one times this is a mean over the other."""
        return self.height * self.width / self.pixels

    @property
    def height(self) -> int:
        return self.planes.shape[1]

    @property
    def width(self) -> int:
        return self.planes.shape[2]


def resize_views(
    rgba: np.ndarray | EightBit, size: int, check: Callable[[], None] = lambda: None
) -> np.ndarray | EightBit:
    """(N, H, W, 4) straight alpha -> longest side `size` at most, by areas, colour weighted by alpha.

    `check` is called before each view, from several threads.
    """
    width, height = resized_shape(rgba.shape[2], rgba.shape[1], size)
    if (height, width) == rgba.shape[1:3]:
        return rgba
    result = np.empty((len(rgba), height, width, 4), dtype=np.float32)

    def resize(view: int) -> None:
        check()
        result[view] = resize_view(rgba[view], size)

    map_parallel(resize, range(len(rgba)))
    return result


def resized_shape(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height with a longest side of `size` at most."""
    scale = min(1.0, size / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_view(rgba: np.ndarray, size: int) -> np.ndarray:
    """As `resize_views`, of one view (H, W, 4)."""
    shape = resized_shape(rgba.shape[1], rgba.shape[0], size)
    if shape == rgba.shape[1::-1]:
        return rgba
    import cv2

    alpha = rgba[..., 3:]
    small = cv2.resize(np.concatenate([rgba[..., :3] * alpha, alpha], axis=2), shape,
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return small


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) straight alpha -> (..., 3) over white."""
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + (1 - alpha)


def crop_target(
    rgba: np.ndarray, cameras: Cameras, view: int, shown: np.ndarray, weights: np.ndarray | None
) -> Target | None:
    """The Target of one picture; None where it shows nothing.

    rgba (H, W, 4) straight alpha, as camera number `view` of `cameras` sees it; weights (H, W) or None;
    shown (h, w) bool: where the object is, at any size. The box is the same share of the picture at every
    size, rounded outwards.
    """
    if not shown.any():
        return None
    height, width = rgba.shape[:2]
    scale_y, scale_x = height / shown.shape[0], width / shown.shape[1]
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    top = max(int(rows[0] * scale_y) - _MARGIN, 0)
    bottom = min(int(np.ceil((rows[-1] + 1) * scale_y)) + _MARGIN, height)
    left = max(int(columns[0] * scale_x) - _MARGIN, 0)
    right = min(int(np.ceil((columns[-1] + 1) * scale_x)) + _MARGIN, width)
    crop = rgba[top:bottom, left:right]
    planes = np.concatenate([over_white(crop), crop[..., 3:]], axis=2).transpose(2, 0, 1)
    intrinsics = cameras.intrinsics[view].copy()
    intrinsics[:2, 2] -= (left, top)
    counts = None if weights is None else np.ascontiguousarray(weights[top:bottom, left:right])
    return Target(
        np.ascontiguousarray(planes),
        cameras.world_from_camera[view],
        intrinsics,
        height * width,
        counts,
        view,
    )


def pixel_weights(
    views: ViewArrays, width: int, height: int, check: Callable[[], None] = lambda: None
) -> np.ndarray | None:
    """(N, height, width) float32: confidence of views times that of pixels, over its mean on the object.

    None where all are alike. ReconX's equation 7 multiplies each frame's error with its map of confidence;
    dividing by the mean leaves the learning rates and the other terms of a loss what they are.
    """
    weights, count = views.confidence, len(views.rgba)
    if views.pixel_confidence is None and np.ptp(weights) == 0:
        return None
    object_pixels = np.stack([views.rgba[view, ..., 3] >= 0.5 for view in range(count)])
    if views.pixel_confidence is None:
        mean = np.average(weights, weights=object_pixels.sum(axis=(1, 2)) + 1e-9)
        return np.broadcast_to(
            (weights / max(mean, 1e-9)).astype(np.float32)[:, None, None], (count, height, width)
        )
    import cv2

    weights = views.pixel_confidence * weights[:, None, None]
    mean = weights[object_pixels].mean() if object_pixels.any() else 1.0
    result = np.empty((count, height, width), dtype=np.float32)
    for i, view in enumerate(weights):
        check()
        result[i] = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA)
    return result / np.float32(max(mean, 1e-9))


def make_targets(views: ViewArrays, size: int, check: Callable[[], None] = lambda: None) -> list[Target]:
    """The views at `size`, one Target each; views that show nothing are left out.

    `check` is called before each view, from several threads.
    """
    width, height = resized_shape(views.cameras.width, views.cameras.height, size)
    cameras = views.cameras.resized(width, height)
    weights = pixel_weights(views, width, height, check)

    def target(view: int) -> Target | None:
        check()
        rgba = views.rgba[view]
        shown = rgba[..., 3] > 0.5 / 255
        counts = None if weights is None else weights[view]
        return crop_target(resize_view(rgba, size), cameras, view, shown, counts)

    return [one for one in map_parallel(target, range(len(views.rgba))) if one is not None]
