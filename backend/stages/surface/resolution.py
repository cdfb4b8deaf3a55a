"""How fine the grid must be for the thin parts that the pictures show."""

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Silhouettes

_FINER = (1.0, 1.25, 1.5, 1.75)
_LEAST_WIDTH = 1.4
_THIN_SHARE = 1.5e-3


def cells_for(masks: Silhouettes, cameras: Cameras, low: np.ndarray, high: np.ndarray, cells: int) -> int:
    """`cells` along the longest side of low..high, or up to 1.75 times as many.

    A part is lost when it is narrower than about `_LEAST_WIDTH` cells. Cells are made smaller until no
    more than `_THIN_SHARE` of the silhouette in the front view, and in the median view, is so narrow.
    """
    middle, extent = (low + high) / 2, float((high - low).max())
    depth = np.abs(cameras.project(middle[None])[1][:, 0])
    for finer in _FINER:
        pixels = extent / (cells * finer) * masks.focal / depth
        shares = [_thin_share(d, _LEAST_WIDTH * p) for d, p in zip(masks.distance, pixels, strict=True)]
        if max(shares[0], float(np.median(shares))) <= _THIN_SHARE:
            break
    return round(cells * finer)


def _thin_share(distance: np.ndarray, width: float) -> float:
    """Share of the mask (signed pixel distance > 0) in parts narrower than `width` pixels."""
    mask = (distance > 0).astype(np.uint8)
    if width < 2:
        return 0.0
    # What is left of a disc's opening: points within its radius of a point that deep inside.
    core = (distance >= width / 2).astype(np.uint8)
    near = cv2.distanceTransform(1 - core, cv2.DIST_L2, 3) if core.any() else np.full(mask.shape, np.inf)
    thin = mask & (near > width / 2 + 1.0)
    return float(thin.sum() / max(int(mask.sum()), 1))
