"""The embedded surface engine: hull from silhouettes, carved by depth where views agree, decimated."""

import numpy as np

from backend.geometry.carving import Grid, Silhouettes, bounds_of, extract_surface, field_of, silhouettes
from backend.geometry.decimate import decimate
from backend.geometry.fusion import fuse_depth, merge_fused
from backend.geometry.rims import keep_outlines
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.surface.base import cut_base
from backend.stages.surface.depth import DepthMaps, Matcher, given_depth
from backend.stages.surface.finish import reduced
from backend.stages.surface.parts import drop_floaters, fill_cavities
from backend.stages.surface.resolution import cells_for
from backend.stages.surface.vessel import hollow_vessels
from shared_protocol.errors import StageFailed

_PROXY_FACES = 20_000
"""Triangles of the hull that the sweep starts from."""


class HullSurface:
    """Visual hull from signed-distance silhouettes; needs masks and cameras only."""

    version = "2"

    def reconstruct(
        self, views: Views, splats: Splats, options: SurfaceOptions, context: StageContext
    ) -> Mesh:
        """A closed mesh of at most `options.faces` triangles; the splats are not used."""
        passes = 2 if options.carve and views.depth is None else 0
        steps = 5 + passes * len(views)
        context.step(0, steps, "measuring silhouettes")
        alpha = np.ascontiguousarray(views.rgba[..., 3])
        masks = silhouettes(alpha, views.cameras)
        if len(masks.focal) < len(views):
            context.warn(
                f"{len(views) - len(masks.focal)} of {len(views)} views are empty and were not used."
            )
        low, high = bounds_of(masks, views.cameras)
        context.step(1, steps, "carving the visual hull")
        cameras = views.cameras.take(masks.used)
        grid = field_of(masks, low, high, cells_for(masks, cameras, low, high, options.grid))
        context.check()
        grid = cut_base(grid, masks, cameras)
        if views.depth is not None:
            grid = self._fused(grid, given_depth(views), masks, views, context)
        elif options.carve:
            grid = self._matched(grid, alpha, masks, views, context, steps)
            grid = hollow_vessels(grid, views, context) if options.hollow else grid
        context.step(steps - 2, steps, "extracting the surface")
        vertices, faces = self._surface(grid, alpha, views, context)
        context.step(steps - 1, steps, "reducing triangles")
        mesh = reduced(vertices, faces, options, context.check)
        context.step(steps, steps, "surface done")
        return mesh

    def _matched(
        self,
        hull: Grid,
        alpha: np.ndarray,
        masks: Silhouettes,
        views: Views,
        context: StageContext,
        steps: int,
    ) -> Grid:
        """The hull's field, lowered where the pictures agree that there is nothing."""
        matcher, better, grid, count = None, None, hull, len(views)
        for turn, words in enumerate(("matching", "matching again")):
            vertices, faces = self._surface(grid, alpha, views, context)
            mesh = decimate(vertices, faces, _PROXY_FACES, context.check)
            if matcher is None:
                matcher = Matcher(views, *mesh)
            else:
                better = mesh
            maps, share = matcher.match(
                better,
                context.check,
                lambda done, turn=turn, words=words: context.step(
                    2 + turn * count + done, steps, f"{words}: view {done} of {count}"
                ),
            )
            grid = self._fused(hull, maps, masks, views, context)
        context.note(confirmed_share=round(share, 4))
        return grid

    def _fused(
        self, hull: Grid, maps: DepthMaps, masks: Silhouettes, views: Views, context: StageContext
    ) -> Grid:
        """The hull's field, lowered where depth says that there is nothing."""
        context.check()
        fused = fuse_depth(maps.depth, maps.weight, maps.cameras, hull, 3 * hull.cell)
        context.check()
        carved = merge_fused(hull, fused)
        context.check()
        return keep_outlines(hull, carved, masks, views.cameras.take(masks.used))

    def _surface(
        self, grid: Grid, alpha: np.ndarray, views: Views, context: StageContext
    ) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces = extract_surface(fill_cavities(grid))
        context.check()
        if not len(faces):
            raise StageFailed(
                "the object is thinner than one cell of the surface grid everywhere",
                "a part at least a few pixels wide",
                "Use a finer grid: --surface.grid 256.",
            )
        return drop_floaters(vertices, faces, alpha, views.cameras)
