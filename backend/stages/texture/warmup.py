"""Compiles this stage's kernels ahead of use, and those of the mesh renderer and of the export."""

import numpy as np

from backend.geometry.cameras import ring
from backend.geometry.surface_lookup import SurfaceLookup
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, TexturedMesh, Views
from backend.stages.texture.atlas import lay_out_texels, unwrap
from backend.stages.texture.optimise import optimise
from backend.stages.texture.project import front_facts, project_views, view_trust


def warm_up() -> None:
    """Bake a tetrahedron: every kernel runs once with the types of real work."""
    corners = np.array([[0, 0, 0.3], [0.3, -0.2, -0.2], [-0.3, -0.2, -0.2], [0, 0.3, -0.2]], dtype=np.float32)
    mesh = Mesh(corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    views = Views(
        np.ones((1, 16, 16, 4), dtype=np.float32),
        ring(1, radius=2.0, elevation_degrees=0.0, fov_degrees=30.0, size=16),
    )
    uvs, _ = unwrap(mesh, 16, StageContext("texture", None, "project"))
    project_views(mesh, views, lay_out_texels(mesh, uvs, 16), lambda text: None)
    textured = TexturedMesh(mesh, uvs, np.ones((16, 16, 3), dtype=np.float32))
    optimise(textured, views, view_trust(views), StageContext("texture", None, "project"), epochs=1)
    front_facts(textured, views)
    SurfaceLookup(mesh.vertices, mesh.faces).nearest(corners)
