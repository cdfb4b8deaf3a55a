"""Upsampling that treats every view alike, so that what was consistent stays so."""

import cv2
import numpy as np

from backend.geometry.images import resize_rgba
from backend.pipeline.options import RefineOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views

SHARPEN = 0.35
"""Weight of the unsharp mask: what cubic interpolation takes from the finest octave, no more."""


class UpsampleRefine:
    """Cubic interpolation and a bounded unsharp mask; the front view is the cut-out at full size."""

    version = "1"

    def refine(self, cutout: Picture, orbit: Views, options: RefineOptions, context: StageContext) -> Views:
        """See run.py."""
        size = options.size
        rgba = np.empty((len(orbit), size, size, 4), dtype=np.float32)
        depth = None if orbit.depth is None else np.empty((len(orbit), size, size), dtype=np.float32)
        trust = None if orbit.pixel_confidence is None else np.empty((len(orbit), size, size), np.float32)
        for index in range(len(orbit)):
            context.step(index, len(orbit), f"Upsampling view {index + 1} of {len(orbit)}")
            rgba[index] = resize_rgba(cutout.rgba, size) if index == 0 else upsample(orbit.rgba[index], size)
            if depth is not None:
                # Nearest: a mean of object and nothing would be a depth that nothing has.
                depth[index] = cv2.resize(orbit.depth[index], (size, size), interpolation=cv2.INTER_NEAREST)
            if trust is not None:
                trust[index] = cv2.resize(orbit.pixel_confidence[index], (size, size))
        return Views(rgba, orbit.cameras.resized(size, size), orbit.confidence, depth, trust)


def upsample(rgba: np.ndarray, size: int) -> np.ndarray:
    """(S, S, 4) -> (size, size, 4); alpha steepened to the same width in pixels, no colour overshoot."""
    factor = size / rgba.shape[0]
    if factor <= 1:
        return resize_rgba(rgba, size)
    large = resize_rgba(rgba, size)
    colour = large[..., :3]
    sharper = colour + SHARPEN * (colour - cv2.GaussianBlur(colour, (0, 0), 0.6 * factor))
    # Within the range of the neighbourhood: sharp, but no bright or dark rims.
    reach = np.ones((2 * round(factor) + 1,) * 2, np.uint8)
    sharper = np.clip(sharper, cv2.erode(colour, reach), cv2.dilate(colour, reach))
    alpha = np.clip((large[..., 3:] - 0.5) * factor + 0.5, 0, 1)
    return np.dstack([sharper, alpha]).astype(np.float32)
