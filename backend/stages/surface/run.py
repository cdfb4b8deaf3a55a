"""Surface stage: views (and the splats fitted to them) -> a watertight mesh."""

import numpy as np

from backend.geometry.mesh_check import is_watertight_manifold, volume
from backend.geometry.mesh_render import render_clay
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.surface.finish import finish
from shared_protocol.errors import StageFailed

_PREVIEW_SIZE = 256
"""Pixels."""


def _clay(mesh: Mesh, views: Views) -> np.ndarray:
    """(S, S, 4) the bare shape as view 0 sees it."""
    camera = views.cameras.take([0]).resized(_PREVIEW_SIZE, _PREVIEW_SIZE)
    return render_clay(mesh.vertices, mesh.faces, camera, supersample=1)[0]


def run(*, views: Views, splats: Splats, options: SurfaceOptions, context: StageContext) -> Mesh:
    """Engine verb: `reconstruct(views, splats, options, context) -> Mesh`.

    The mesh is finished (`finish`) and checked here for every engine: closed, manifold, outward normals.
    Engines get the views with the corrections that the splats stage learned, if any.
    """
    if options.grid < 16 or options.faces < 100:
        raise StageFailed(
            f"surface options grid={options.grid}, faces={options.faces} are too coarse for any shape",
            "grid of at least 16 and at least 100 faces",
        )
    mesh = context.engine.reconstruct(splats.agreed(views), splats, options, context)
    context.preview("surface", lambda: _clay(mesh, views))
    mesh = finish(mesh, options, context)
    for solid in (mesh, *mesh.lods):
        if not is_watertight_manifold(solid.faces) or volume(solid.vertices, solid.faces) <= 0:
            raise StageFailed(
                f"the {context.engine_name} engine made a mesh that is not a closed solid",
                "a watertight mesh with outward normals",
                "Try another surface engine or another grid size.",
            )
    context.note(faces=len(mesh.faces), vertices=len(mesh.vertices), watertight=True)
    return mesh
