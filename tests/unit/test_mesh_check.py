"""Checks of meshes against trimesh's, and by hand."""

import numpy as np
import pytest
import trimesh

from backend.geometry.mesh_check import (
    component_volumes,
    face_components,
    has_manifold_vertices,
    is_watertight_manifold,
    vertex_normals,
    volume,
)

SOLIDS = {
    "box": trimesh.creation.box(),
    "ball": trimesh.creation.icosphere(2),
    "torus": trimesh.creation.torus(1.0, 0.3),
    "capsule": trimesh.creation.capsule(),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_closed_solids_pass_as_they_do_with_trimesh(name):
    solid = SOLIDS[name]
    assert is_watertight_manifold(solid.faces) == solid.is_watertight is True
    assert has_manifold_vertices(solid.faces)
    assert volume(solid.vertices, solid.faces) == pytest.approx(solid.volume)
    ours, theirs = vertex_normals(solid.vertices, solid.faces), solid.vertex_normals
    assert np.einsum("vi,vi->v", ours, theirs).min() > 0.9  # trimesh weighs by angle


def test_a_missing_face_a_turned_face_a_double_face_and_a_degenerate_face_are_found():
    faces = SOLIDS["ball"].faces
    turned = faces.copy()
    turned[0] = turned[0][::-1]
    degenerate = np.concatenate([faces, [[0, 0, 1]]])
    for broken in (faces[1:], turned, np.concatenate([faces, faces[:1]]), degenerate, faces[:0]):
        assert not is_watertight_manifold(broken)


def test_two_cones_that_touch_in_a_vertex_are_not_manifold_there():
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    both = np.concatenate([faces, np.where(faces == 0, 0, faces + 3)])
    assert is_watertight_manifold(both) and not has_manifold_vertices(both)


def test_parts_and_cavities_are_told_apart():
    outer, inner = trimesh.creation.icosphere(2), trimesh.creation.icosphere(2, radius=0.5)
    away = trimesh.creation.box().apply_translation((5, 0, 0))
    inner.invert()
    all_three = trimesh.util.concatenate([outer, inner, away])
    component = face_components(all_three.faces)
    volumes = component_volumes(all_three.vertices, all_three.faces, component)
    assert volumes == pytest.approx([outer.volume, inner.volume, 1.0])
    assert volumes[1] < 0
