"""How much of the views each Gaussian makes up, and which ones are painted backdrop."""

from collections.abc import Callable

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.harmonics import SH0
from backend.geometry.rasterize import SplatArrays, rasterize
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import ViewArrays

SPILL = 0.35
"""Share of a Gaussian's weights that lies where views show nothing, from which on it may be backdrop."""
PALE = 0.7
"""And its darkest channel: views are fitted over white."""
_SIZE = 256
"""Pixels at most: enough to tell."""


def view_shares(splats: SplatArrays, cameras: Cameras, on_view: Callable[[int], None]) -> np.ndarray:
    """(G,) sum of each Gaussian's weights in all pixels of all views; `on_view(i)` comes before view i."""
    ones = np.ones((1, 1))
    return _sums(splats, cameras, on_view, lambda view, small: ones)[:, 0]


def shares_and_backdrop(
    splats: SplatArrays, views: ViewArrays, on_view: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """As `view_shares`, and (G,) bool: Gaussians that are painted backdrop.

    Where views disagree, white ones beside the object cost a fit next to nothing over white, and hide what
    other views show there. On any other background they are flecks.
    """
    import cv2

    def empty(view: int, small: Cameras) -> np.ndarray:
        alpha = np.ascontiguousarray(views.rgba[view, ..., 3])
        return 1 - cv2.resize(alpha, (small.width, small.height), interpolation=cv2.INTER_AREA)

    share, beside = _sums(splats, views.cameras, on_view, empty).T
    pale = (0.5 + SH0 * splats.harmonics[:, 0]).min(axis=1) > PALE
    return share, pale & (beside > SPILL * share)


def _sums(
    splats: SplatArrays,
    cameras: Cameras,
    on_view: Callable[[int], None],
    weigh: Callable[[int, Cameras], np.ndarray],
) -> np.ndarray:
    """(G, 2): each Gaussian's weights in all pixels, plain and times `weigh(view, cameras as drawn)`.

    They are the gradients of the pixels' sums to its colour. All are drawn grey: a colour that is cut off
    at 0 has no gradient.
    """
    shrink = min(1.0, _SIZE / max(cameras.width, cameras.height))
    small = cameras.resized(max(round(shrink * cameras.width), 8), max(round(shrink * cameras.height), 8))
    grey = np.zeros((len(splats.positions), 1, 3), dtype=np.float32)
    gaussians = Gaussians(splats.positions, splats.scales, splats.rotations, splats.opacities, grey)
    antialiased = bool(getattr(splats, "antialiased", False))
    sums = np.zeros((len(splats.positions), 2))
    for view in range(len(cameras)):
        on_view(view)
        drawn = rasterize(gaussians, small.take([view]), background=np.zeros(3), antialiased=antialiased)
        slope = np.ones_like(drawn.color)
        slope[..., 1] = weigh(view, small)
        sums += drawn.backward(color=slope).splats.harmonics[:, 0, :2]
    return sums
