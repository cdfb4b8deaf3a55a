"""Puts the cut-out object on camera 0's square frame."""

from typing import Any

import cv2
import numpy as np

from backend.geometry.images import bleed
from backend.pipeline.values import Picture
from shared_protocol.errors import InvalidInput, StageFailed

SPECK = 0.005
"""Parts smaller than this share of the largest part are dropped."""
LEAST_OBJECT = 32
"""Pixels, the object's longest side in the user's picture."""


def frame(rgba: np.ndarray, alpha: np.ndarray, size: int, fill: float) -> tuple[Picture, dict[str, Any]]:
    """Crop to the object, scale its longest side to `fill * size`, centre it.

    rgba (H, W, 4), alpha (H, W) the object's. Resampled premultiplied; averaged when shrinking, cubic
    when enlarging. Colours are bled outward under alpha 0.

    Returns the framed picture (size, size, 4) and facts for the report (crop box, original size).
    Raises InvalidInput for an object below LEAST_OBJECT pixels, StageFailed when nothing is left.
    """
    alpha = _without_specks(alpha)
    rows, columns = np.flatnonzero((alpha > 0.5).any(1)), np.flatnonzero((alpha > 0.5).any(0))
    if not len(rows):
        raise StageFailed(
            "no object was found in the picture", "one object that stands out from its background",
            "Give a picture with a transparent background, or another picture.",
        )  # fmt: skip
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    longest = max(bottom - top, right - left)
    if longest < LEAST_OBJECT:
        raise InvalidInput(
            f"the object is only {right - left} x {bottom - top} pixels",
            f"at least {LEAST_OBJECT} on its longest side",
            "Use a larger picture.",
        )
    scale = fill * size / longest
    premultiplied = np.dstack([rgba[..., :3] * alpha[..., None], alpha]).astype(np.float32)
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    framed = _resample(premultiplied, centre, scale, size)
    framed_alpha = np.clip(framed[..., 3], 0, 1)
    colour = np.clip(framed[..., :3] / np.maximum(framed_alpha, 1e-4)[..., None], 0, 1)
    framed_alpha[framed_alpha < 1 / 255] = 0
    colour = bleed(colour, framed_alpha)
    facts = {
        "picture_size": [int(rgba.shape[1]), int(rgba.shape[0])],
        "crop_box": [int(left), int(top), int(right), int(bottom)],
        "scale": round(float(scale), 4),
    }
    return Picture(np.dstack([colour, framed_alpha]).astype(np.float32)), facts


def _resample(premultiplied: np.ndarray, centre: np.ndarray, scale: float, size: int) -> np.ndarray:
    """Scale about `centre` (x, y, pixels) and put it in the middle of a (size, size) frame."""
    if scale < 1:  # average over areas first, to the exact target scale
        height, width = premultiplied.shape[:2]
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        premultiplied = cv2.resize(premultiplied, target, interpolation=cv2.INTER_AREA)
        centre = centre * np.array([target[0] / width, target[1] / height])
        scale_x, scale_y = scale * width / target[0], scale * height / target[1]
        flags = cv2.INTER_LINEAR
    else:
        scale_x = scale_y = scale
        flags = cv2.INTER_CUBIC
    # Pixel centres at +0.5 in ours, at 0 in OpenCV's.
    offset_x = size / 2 - scale_x * centre[0] + 0.5 * scale_x - 0.5
    offset_y = size / 2 - scale_y * centre[1] + 0.5 * scale_y - 0.5
    matrix = np.array([[scale_x, 0, offset_x], [0, scale_y, offset_y]])
    return cv2.warpAffine(premultiplied, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT)


def _without_specks(alpha: np.ndarray) -> np.ndarray:
    """Alpha with every small separate part removed."""
    count, labels = cv2.connectedComponents((alpha > 0.1).astype(np.uint8), connectivity=8)
    # A part counts by its solid pixels, so that a large faint veil is a speck too.
    solid = np.bincount(labels.ravel(), (alpha > 0.5).ravel(), count)
    solid[0] = 0
    keep = solid >= max(1.0, SPECK * solid.max())
    keep[0] = True
    return np.where(keep[labels], alpha, 0).astype(np.float32)
