"""Views of the fitted Gaussians from where no picture was taken: colours for what no picture sees."""

from collections.abc import Callable

import numpy as np

from backend.geometry.eight_bit import EightBit, levels_of
from backend.geometry.looks import look_cameras
from backend.geometry.rasterize import rasterize
from backend.geometry.splat_share import shares_and_backdrop
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.texture.sources import render_depth

SIZE = 384
"""Pixels at most."""
SOLID = 0.97
"""Opacity from which a picture of Gaussians is taken to be as solid as they can be."""
DEPTH_AGREEMENT = 0.03
"""The Gaussians are believed where their depth is this near the mesh's, in extents of the mesh."""
LEAST_SEEN = 0.1
"""Gaussians that make up less of the views than this, against the mean, were never fitted: under an object
on the ground and inside of vessels they are confetti."""
_BLACK = np.zeros(3)


def seen_splats(splats: Splats, views: Views, on_view: Callable[[int], None]) -> Splats:
    """The Gaussians that the views show, without painted backdrop; `on_view(i)` is called before view i."""
    share, backdrop = shares_and_backdrop(splats, views, on_view)
    seen = (share > LEAST_SEEN * share.mean()) & ~backdrop
    return Splats(
        splats.positions[seen], splats.scales[seen], splats.rotations[seen], splats.opacities[seen],
        splats.harmonics[seen], antialiased=splats.antialiased,
    )  # fmt: skip


def splat_views(splats: Splats, mesh: Mesh, views: Views, on_view: Callable[[int], None]) -> Views:
    """Pictures of the Gaussians from LOOKS around the mesh, with the lens and distance of the views.

    Their pixel confidence falls with the distance of Gaussians and mesh: what floats before the surface,
    and what was never seen and so never fitted, is not believed. `on_view(i)` is called before view i.
    """
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    cameras = look_cameras(mesh.vertices, views.cameras, SIZE)
    splats = seen_splats(splats, views, on_view)
    shape = len(cameras), cameras.height, cameras.width
    levels, trust = np.empty((*shape, 4), dtype=np.uint8), np.empty(shape, dtype=np.float32)
    for view in range(len(cameras)):
        on_view(view)
        drawn = rasterize(
            splats, cameras.take([view]), background=_BLACK, antialiased=splats.antialiased,
            median_depth=True, differentiable=False,
        )  # fmt: skip
        alpha = drawn.alpha[0]
        levels[view, ..., :3] = levels_of(drawn.color[0] / np.maximum(alpha, 1e-3)[..., None])
        levels[view, ..., 3] = levels_of(np.where(alpha > SOLID, 1, alpha))
        surface = render_depth(mesh, cameras, view, 1)
        median = drawn.median_depth[0]
        both = np.isfinite(surface) & np.isfinite(median)
        apart = np.full(surface.shape, np.inf, dtype=np.float32)
        np.subtract(median, surface, out=apart, where=both)
        trust[view] = 1 / (1 + (apart / (DEPTH_AGREEMENT * extent)) ** 4)
    return Views(EightBit(levels), cameras, pixel_confidence=trust)
