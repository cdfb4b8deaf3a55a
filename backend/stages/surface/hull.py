"""The embedded surface engine: hull from silhouettes, carved by depth where views agree, decimated."""

import numpy as np

from backend.geometry.carving import Grid, bounds_of, extract_surface, field_of, silhouettes
from backend.geometry.decimate import decimate
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.surface.parts import drop_floaters, fill_cavities
from shared_protocol.errors import StageFailed


class HullSurface:
    """Visual hull from signed-distance silhouettes; needs masks and cameras only."""

    version = "1"

    def reconstruct(
        self, views: Views, splats: Splats, options: SurfaceOptions, context: StageContext
    ) -> Mesh:
        """A closed mesh of at most `options.faces` triangles; the splats are not used."""
        steps = 5
        context.step(0, steps, "measuring silhouettes")
        alpha = np.ascontiguousarray(views.rgba[..., 3])
        masks = silhouettes(alpha, views.cameras)
        if len(masks.focal) < len(views):
            context.warn(
                f"{len(views) - len(masks.focal)} of {len(views)} views are empty and were not used."
            )
        low, high = bounds_of(masks, views.cameras)
        context.step(1, steps, "carving the visual hull")
        hull = field_of(masks, low, high, options.grid)
        context.step(3, steps, "extracting the surface")
        vertices, faces = self._surface(hull, alpha, views, context)
        context.step(4, steps, "reducing triangles")
        vertices, faces = decimate(vertices, faces, options.faces, context.check)
        context.step(steps, steps, "surface done")
        return Mesh(vertices, faces)

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
