"""How much of the views each Gaussian makes up."""

from collections.abc import Callable

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.rasterize import SplatArrays, rasterize
from backend.geometry.splat_raster import Gaussians

_SIZE = 256
"""Pixels at most: enough to tell."""


def view_shares(splats: SplatArrays, cameras: Cameras, on_view: Callable[[int], None]) -> np.ndarray:
    """(G,) sum of each Gaussian's weights in all pixels of all views; `on_view(i)` is called before view i.

    It is the gradient of the pixels' sum to its colour. All are drawn grey: a colour that is cut off at 0
    has no gradient.
    """
    shrink = min(1.0, _SIZE / max(cameras.width, cameras.height))
    small = cameras.resized(max(round(shrink * cameras.width), 8), max(round(shrink * cameras.height), 8))
    grey = np.zeros((len(splats.positions), 1, 3), dtype=np.float32)
    gaussians = Gaussians(splats.positions, splats.scales, splats.rotations, splats.opacities, grey)
    antialiased = bool(getattr(splats, "antialiased", False))
    share = np.zeros(len(splats.positions))
    for view in range(len(cameras)):
        on_view(view)
        drawn = rasterize(gaussians, small.take([view]), background=np.zeros(3), antialiased=antialiased)
        share += drawn.backward(color=np.ones_like(drawn.color)).splats.harmonics[:, 0].max(axis=1)
    return share
