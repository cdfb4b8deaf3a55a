"""The views as targets of the fit: at its size, weighted by confidence."""

from collections.abc import Callable

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.parallel import map_parallel
from backend.geometry.splat_targets import Target, crop_target, resize_view, resized_shape
from backend.pipeline.options import SplatsOptions
from backend.pipeline.values import Views

SMALLEST_HALF = 128
"""Pixels; below, Gaussians are smaller than pixels at half size, and what they learn there has to be
unlearned."""


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
    object_pixels = np.stack([alpha >= 0.5 for alpha in views.alpha])
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

    `check` is called before each view, from several threads.
    """
    width, height = resized_shape(views.cameras.width, views.cameras.height, size)
    cameras: Cameras = views.cameras.resized(width, height)
    weights = pixel_weights(views, width, height, check)

    def target(view: int) -> Target | None:
        check()
        rgba = views.rgba[view]
        shown = rgba[..., 3] > 0.5 / 255
        counts = None if weights is None else weights[view]
        return crop_target(resize_view(rgba, size), cameras, view, shown, counts)

    return [one for one in map_parallel(target, range(len(views))) if one is not None]
