"""What is done with every engine's surface: fewer faces, quads, coarser copies."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from backend.geometry.decimate import decimate, decimate_levels
from backend.geometry.tidy import without_slivers
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh
from backend.stages.surface.quads import quad_mesh


def reduced(
    vertices: np.ndarray, faces: np.ndarray, options: SurfaceOptions, check: Callable[[], None]
) -> Mesh:
    """A closed surface at `options.faces` triangles, what it was before kept as its `detail`."""
    fewer = decimate(vertices, faces, options.faces, check, options.features)
    return Mesh(without_slivers(*fewer, check), fewer[1], detail=Mesh(vertices, faces))


def finish(mesh: Mesh, options: SurfaceOptions, context: StageContext) -> Mesh:
    """The engine's mesh with what the options ask for beyond it."""
    finest = mesh.detail or mesh
    if options.quads:
        context.check()
        mesh = replace(quad_mesh(finest, options, context), detail=finest)
    budgets = options.lod_budgets()
    if budgets:
        context.check()
        levels = decimate_levels(finest.vertices, finest.faces, budgets, context.check, options.features)
        lods = tuple(Mesh(without_slivers(*level, context.check), level[1]) for level in levels)
        mesh = replace(mesh, lods=lods)
        context.note(lod_faces=[len(lod.faces) for lod in mesh.lods])
    return mesh
