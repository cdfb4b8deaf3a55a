"""The tangent space that normal maps are baked in is the one Blender shades them with."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from backend.geometry.tangents import smooth_normals, tangent_frames  # noqa: E402

pytestmark = pytest.mark.blender


def test_frames_are_blenders_own_corner_by_corner(blender):
    bpy.ops.mesh.primitive_monkey_add()
    modifier = bpy.context.object.modifiers.new("triangles", "TRIANGULATE")
    bpy.ops.object.modifier_apply(modifier=modifier.name)
    mesh = bpy.context.object.data
    mesh.shade_smooth()
    faces = np.array([polygon.vertices[:] for polygon in mesh.polygons])
    uvs = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers.active.data.foreach_get("uv", uvs)
    vertices = np.array([vertex.co[:] for vertex in mesh.vertices])
    mesh.calc_tangents(uvmap=mesh.uv_layers.active.name)
    theirs = {
        name: np.array([getattr(loop, name)[:] for loop in mesh.loops]).reshape(-1, 3, 3)
        for name in ("normal", "tangent")
    }
    signs = np.array([loop.bitangent_sign for loop in mesh.loops]).reshape(-1, 3)
    frames = tangent_frames(vertices, faces, uvs.reshape(-1, 3, 2), smooth_normals(vertices, faces))
    np.testing.assert_allclose(frames.normals, theirs["normal"], atol=2e-3)
    cosine = (frames.tangents * theirs["tangent"]).sum(axis=-1)
    # Blender parts the fans of a vertex that UV islands share; a few corners of the monkey are such.
    assert (cosine > 0.999).mean() > 0.97
    assert (np.sign(signs) == frames.signs[:, None]).mean() > 0.97
