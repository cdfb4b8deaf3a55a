"""Values as files: what finishing adds comes back bit for bit; what was stored before it is still read."""

import io

import numpy as np
import pytest
import trimesh

from backend.geometry.quad_pairs import pair_triangles
from backend.pipeline.values import ROUGHNESS, Mesh, TexturedMesh
from shared_protocol.errors import InvalidInput


def whole_mesh():
    fine, coarse = trimesh.creation.icosphere(2), trimesh.creation.icosphere(1)
    faces, quads = pair_triangles(coarse.vertices, coarse.faces)
    detail, lod = Mesh(fine.vertices, fine.faces), trimesh.creation.icosahedron()
    return Mesh(
        coarse.vertices, faces, quads, detail, (Mesh(coarse.vertices, faces), Mesh(lod.vertices, lod.faces))
    )


def assert_same(ours, theirs):
    assert ours.arrays().keys() == theirs.arrays().keys()
    for name, array in ours.arrays().items():
        np.testing.assert_array_equal(array, theirs.arrays()[name])


def test_a_mesh_with_quads_detail_and_coarser_copies_comes_back():
    mesh = whole_mesh()
    again = Mesh.from_files(mesh.to_files())
    assert_same(mesh, again)
    assert len(again.lods) == 2 and len(again.detail.faces) == 320


def test_a_textured_mesh_keeps_all_but_its_meshs_detail():
    mesh = whole_mesh()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32) / 255
    uvs = np.zeros((len(mesh.faces), 3, 2), np.float32)
    lod = TexturedMesh(mesh.lods[1], uvs[:20], pictures[1])
    textured = TexturedMesh(mesh, uvs, pictures[0], pictures[1], 0.4, (lod,))
    again = TexturedMesh.from_files(textured.to_files())
    assert_same(textured, again)
    assert again.roughness == 0.4 and again.mesh.detail is None and again.lods[0].normal_map is None
    assert np.array_equal(again.mesh.quads, mesh.quads)


def test_results_stored_before_finishing_are_still_read():
    ball = trimesh.creation.icosphere(1)

    def stored(**arrays):
        buffer = io.BytesIO()
        np.savez(
            buffer, vertices=ball.vertices.astype(np.float32), faces=ball.faces.astype(np.int32), **arrays
        )
        return buffer.getvalue()

    mesh = Mesh.from_files({"mesh.npz": stored()})
    assert mesh.quads is None and mesh.detail is None and mesh.lods == ()
    uvs, texture = np.zeros((len(ball.faces), 3, 2), np.float32), np.zeros((4, 4, 3), np.uint8)
    textured = TexturedMesh.from_files({"textured_mesh.npz": stored(uvs=uvs, texture=texture)})
    assert textured.roughness == ROUGHNESS and textured.normal_map is None and textured.lods == ()


@pytest.mark.parametrize("quads", [[[0, 0]], [[0, 999]], [[0, 40]], [0, 1]])
def test_quads_that_are_no_pairs_of_neighbours_are_refused(quads):
    ball = trimesh.creation.icosphere(1)
    with pytest.raises(InvalidInput):
        Mesh(ball.vertices, ball.faces, np.array(quads))
