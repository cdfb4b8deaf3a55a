"""The embedded surface engine: hull from silhouettes, carved by depth where views agree, decimated."""

from dataclasses import dataclass, replace

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import (
    Grid,
    Silhouettes,
    bounds_of,
    extract_surface,
    field_of,
    looked_at,
    silhouettes,
)
from backend.geometry.consensus import agreeing_pictures
from backend.geometry.fusion import fuse_depth, merge_fused, smoothed, without_terraces
from backend.geometry.rims import keep_outlines
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.surface.agreement import DISAGREE, contradicted, outline_gaps, without
from backend.stages.surface.base import cut_base
from backend.stages.surface.depth import DepthMaps, Matcher, given_depth
from backend.stages.surface.finish import reduced
from backend.stages.surface.parts import drop_floaters, fill_cavities
from backend.stages.surface.resolution import cells_for
from backend.stages.surface.vessel import hollow_vessels
from shared_protocol.errors import StageFailed

_LEFT = 0.8
"""Share of the volume that a grid of half as many cells must hold to serve as the sweep's start."""
_DOUBTED = 0.2
"""Share of the views that may see the base too low where views do not agree."""
_LARGEST_GAP = 3.0
"""Pixels of 512: an outline further out is that of a part lost, not of a view that stands beside others."""

_STILL_DISAGREE = 0.8
_SMOOTHING, _SMOOTHINGS = 1.4, (0.8, 2.0)
"""Pixels of 512 by which aligned views still disagree, from which what they say is smoothed; cells for each
such pixel, and their bounds. Outlines that contradict one another put pimples back, and depth its pits:
published orbits at .9 and 1.7 pixels. Where alignment brings views nearer it would cost detail."""
_STEPS_FROM, _STEPS = 1.2, 0.8
"""Pixels of 512 from which outlines cut visible steps all around, and the share of those cells over which
the whole is then averaged along z: at 1 a published orbit fits its own views .4 dB worse, at .8 .25 dB, at .6
its steps remain. Views that alignment brings nearer than that have no such steps: averaging made a ball 2 %
less exact."""


@dataclass(frozen=True)
class _Hull:
    """Views and the hull of their silhouettes.

    cameras   of the views in `masks`
    gap       pixels of 512 by which outlines lie outside the hull: their upper quartile
    disagree  the views do not quite show one object
    """

    views: Views
    masks: Silhouettes
    cameras: Cameras
    grid: Grid
    gap: float
    disagree: bool

    @property
    def smoothing(self) -> float:
        """Cells over which what depth and outlines say is averaged; 0 where the views agree."""
        if not (self.disagree and self.gap > _STILL_DISAGREE):
            return 0.0
        return float(np.clip(_SMOOTHING * self.gap, *_SMOOTHINGS))


class HullSurface:
    """Visual hull from signed-distance silhouettes; needs masks and cameras only."""

    version = "5"

    def reconstruct(
        self, views: Views, splats: Splats, options: SurfaceOptions, context: StageContext
    ) -> Mesh:
        """A closed mesh of at most `options.faces` triangles; the splats are not used."""
        passes = 2 if options.carve and views.depth is None else 0
        steps = 5 + passes * len(views)
        context.step(0, steps, "measuring silhouettes")
        views, masks = self._consistent(views, context)
        context.step(1, steps, "carving the visual hull")
        hull = self._hull(views, masks, options)
        context.note(outline_gap=round(hull.gap, 3))
        if hull.disagree and views.depth is None:
            hull = self._aligned(hull, views, options, context)
        grid = hull.grid
        if views.depth is not None:
            grid = self._fused(hull, given_depth(views), context)
        elif options.carve:
            hull, grid = self._matched(hull, views, options, context, steps)
        views = hull.views
        del hull, masks  # the silhouettes are as large as the views
        if options.carve and options.hollow and views.depth is None:
            grid = hollow_vessels(grid, views, context)
        context.step(steps - 2, steps, "extracting the surface")
        vertices, faces = self._surface(grid, views, context)
        context.step(steps - 1, steps, "reducing triangles")
        mesh = reduced(vertices, faces, options, context.check)
        context.step(steps, steps, "surface done")
        return mesh

    def _consistent(self, views: Views, context: StageContext) -> tuple[Views, Silhouettes]:
        """The views without those whose silhouettes contradict the others', and the silhouettes."""
        masks = silhouettes(views.alpha, views.cameras)
        if len(masks.focal) < len(views):
            context.warn(
                f"{len(views) - len(masks.focal)} of {len(views)} views are empty and were not used."
            )
        context.check()
        wrong = [int(masks.used[n]) for n in contradicted(masks, views.cameras.take(masks.used))]
        if wrong:
            named = ", ".join(str(n) for n in sorted(wrong))
            context.warn(f"The silhouettes of views {named} contradict the others and were not used.")
            views = without(views, wrong)
            masks = silhouettes(views.alpha, views.cameras)
        return views, masks

    def _hull(
        self, views: Views, masks: Silhouettes, options: SurfaceOptions, disagree: bool = False
    ) -> _Hull:
        """The hull of the views; where they do not agree, as large as their outlines are on average.

        disagree  known from before: views that were aligned since
        """
        low, high = bounds_of(masks, views.cameras)
        cameras = views.cameras.take(masks.used)
        grid = field_of(masks, low, high, cells_for(masks, cameras, low, high, options.grid))
        gaps = outline_gaps(grid, masks, cameras)
        gap = float(np.percentile(gaps, 75)) if len(gaps) else 0.0
        given = options.agreement == "generated" or (options.agreement == "auto" and gap > DISAGREE)
        disagree = disagree or given
        if disagree:
            depth = cameras.project(looked_at(cameras)[0][None])[1][:, 0]
            pixel = float(np.median(depth / masks.focal)) * max(cameras.width, cameras.height) / 512
            swollen = grid.field + np.float32(float(gaps.clip(0, _LARGEST_GAP).mean()) * pixel)
            grid = replace(grid, field=swollen)
        grid = cut_base(grid, masks, cameras, _DOUBTED if disagree else 0.0)
        return _Hull(views, masks, cameras, grid, gap, disagree)

    def _aligned(
        self,
        hull: _Hull,
        views: Views,
        options: SurfaceOptions,
        context: StageContext,
        surface: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> _Hull:
        """The hull of the views, as they came, once they are warped to agree on a surface.

        surface  vertices and faces; None takes the hull, which knows of the outlines only
        """
        vertices, faces = surface or self._surface(hull.grid, hull.views, context)
        rgba, moved = agreeing_pictures(
            views.rgba, views.cameras, vertices, faces, context.check, texture=surface is not None
        )
        context.note(views_moved=round(moved, 3))
        views = replace(views, rgba=rgba)
        return self._hull(views, silhouettes(views.alpha, views.cameras), options, disagree=True)

    def _matched(
        self, hull: _Hull, views: Views, options: SurfaceOptions, context: StageContext, steps: int
    ) -> tuple[_Hull, Grid]:
        """The hull, and its field lowered where the pictures agree that there is nothing.

        views  as they came
        """
        count = len(hull.views)

        def match(matcher: Matcher, better, turn: int, words: str) -> DepthMaps:
            maps, share = matcher.match(
                better,
                context.check,
                lambda done: context.step(2 + turn * count + done, steps, f"{words}: view {done} of {count}"),
            )
            context.note(confirmed_share=round(share, 4))
            return maps

        matcher = self._matcher(hull, context)
        grid = self._fused(hull, match(matcher, None, 0, "matching"), context)
        better = self._proxy(grid, hull, context)
        if hull.disagree:
            del matcher, grid  # of the views as they were
            hull = self._aligned(hull, views, options, context, better)
            matcher = self._matcher(hull, context)
        return hull, self._fused(hull, match(matcher, better, 1, "matching again"), context)

    def _matcher(self, hull: _Hull, context: StageContext) -> Matcher:
        distance = hull.masks.distance if len(hull.cameras) == len(hull.views) else None
        return Matcher(hull.views, *self._proxy(hull.grid, hull, context), distance)

    def _proxy(self, grid: Grid, hull: _Hull, context: StageContext) -> tuple[np.ndarray, np.ndarray]:
        """The surface that a sweep starts from: that of every second point, where nothing thin is lost.

        Smoother, its normals tell planes better than those of the whole reduced to as many triangles
        (armchair: F-score at 1 % .707 for .692), and it takes a twentieth of the time.
        """
        half = Grid(np.ascontiguousarray(grid.field[::2, ::2, ::2]), grid.origin, 2 * grid.cell)
        held = 8 * np.count_nonzero(half.field > 0)
        enough = held > _LEFT * np.count_nonzero(grid.field > 0)
        return self._surface(half if enough else grid, hull.views, context)

    def _fused(self, hull: _Hull, maps: DepthMaps, context: StageContext) -> Grid:
        """The hull's field, lowered where depth says that there is nothing."""
        context.check()
        fused = fuse_depth(maps.depth, maps.weight, maps.cameras, hull.grid, 3 * hull.grid.cell)
        context.check()
        sigma = hull.smoothing
        carved = merge_fused(hull.grid, fused, smooth=sigma)
        context.check()
        carved = keep_outlines(hull.grid, carved, hull.masks, hull.cameras)
        context.check()
        if not sigma:
            return carved
        carved = smoothed(hull.grid, carved, sigma)
        return without_terraces(carved, _STEPS * sigma) if hull.gap > _STEPS_FROM else carved

    def _surface(self, grid: Grid, views: Views, context: StageContext) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces = extract_surface(fill_cavities(grid))
        context.check()
        if not len(faces):
            raise StageFailed(
                "the object is thinner than one cell of the surface grid everywhere",
                "a part at least a few pixels wide",
                "Use a finer grid: --surface.grid 256.",
            )
        return drop_floaters(vertices, faces, views.alpha, views.cameras)
