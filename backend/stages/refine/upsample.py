"""Upsampling that treats every view alike, so that what was consistent stays so."""

import cv2
import numpy as np

from backend.pipeline.options import RefineOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views


class UpsampleRefine:
    """Lanczos with a bounded unsharp mask; the front view is the cut-out at full size."""

    version = "1"

    def refine(self, cutout: Picture, orbit: Views, options: RefineOptions, context: StageContext) -> Views:
        """See run.py."""
        size = options.size
        rgba = np.empty((len(orbit), size, size, 4), dtype=np.float32)
        depth = None if orbit.depth is None else np.empty((len(orbit), size, size), dtype=np.float32)
        for index in range(len(orbit)):
            context.step(index, len(orbit), "Upsampling the views")
            rgba[index] = resize_rgba(cutout.rgba if index == 0 else orbit.rgba[index], size)
            if depth is not None:
                depth[index] = cv2.resize(orbit.depth[index], (size, size), interpolation=cv2.INTER_NEAREST)
        return Views(rgba, orbit.cameras.resized(size, size), orbit.confidence, depth)


def resize_rgba(rgba: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 4) straight alpha -> (size, size, 4); resampled premultiplied."""
    if rgba.shape[:2] == (size, size):
        return rgba
    premultiplied = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]])
    shrink = size < rgba.shape[1]
    resized = cv2.resize(
        premultiplied, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LANCZOS4
    )
    alpha = np.clip(resized[..., 3:], 0, 1)
    colour = np.clip(resized[..., :3] / np.maximum(alpha, 1e-3), 0, 1)
    return np.dstack([colour, alpha]).astype(np.float32)
