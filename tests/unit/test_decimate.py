"""Edge collapse: budget, manifoldness in all cases, topology, shape."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from backend.geometry.carving import Grid, extract_surface
from backend.geometry.decimate import decimate, vertex_quadrics
from backend.geometry.mesh_check import face_components, has_manifold_vertices, is_watertight_manifold
from backend.geometry.smoothing import taubin


def blobs(seed, sigma, size=28):
    noise = np.random.default_rng(seed).standard_normal((size, size, size))
    return extract_surface(Grid(gaussian_filter(noise, sigma).astype(np.float32), np.zeros(3), 1.0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.4, 2.0), st.integers(4, 2000))
def test_whatever_goes_in_closed_comes_out_closed(seed, sigma, target):
    vertices, faces = blobs(seed, sigma)
    fewer_vertices, fewer = decimate(vertices, faces, target)
    assert is_watertight_manifold(faces) and is_watertight_manifold(fewer)
    assert has_manifold_vertices(fewer)
    assert len(fewer) <= len(faces) and face_components(fewer).max() == face_components(faces).max()
    assert trimesh.Trimesh(fewer_vertices, fewer, process=False).euler_number == (
        trimesh.Trimesh(vertices, faces, process=False).euler_number
    )
    assert np.isfinite(fewer_vertices).all()


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1e-3, 0.0), (100.0, 1000.0)])
def test_a_ball_keeps_its_shape_and_meets_the_budget(scale, offset):
    ball = trimesh.creation.icosphere(5)
    vertices, faces = decimate(ball.vertices * scale + offset, ball.faces, 1000)
    assert len(faces) <= 1000
    radius = np.linalg.norm((vertices.astype(np.float64) - offset) / scale, axis=1)
    assert np.abs(radius - 1).max() < 5e-3


def test_a_box_keeps_its_corners():
    box = trimesh.creation.box((1, 2, 3)).subdivide_loop(0)
    for _ in range(4):
        box = box.subdivide()
    vertices, faces = decimate(box.vertices, box.faces, 60)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    assert solid.volume == pytest.approx(6, rel=3e-3)
    assert np.allclose(solid.bounds, box.bounds, atol=6e-3)


def test_the_same_mesh_gives_the_same_bytes_and_small_meshes_stay():
    vertices, faces = blobs(3, 1.2)
    first, second = decimate(vertices, faces, 900), decimate(vertices, faces, 900)
    assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()
    kept_vertices, kept = decimate(vertices, faces, len(faces))
    assert np.array_equal(kept, faces) and np.array_equal(kept_vertices, vertices)


def test_a_tetrahedron_cannot_be_collapsed():
    tetrahedron = trimesh.creation.icosahedron().convex_hull
    _, faces = decimate(tetrahedron.vertices, tetrahedron.faces, 1)
    assert is_watertight_manifold(faces) and len(faces) >= 4


def test_quadrics_measure_squared_distances_to_the_planes_around():
    ball = trimesh.creation.icosphere(1)
    quadrics = vertex_quadrics(ball.vertices, ball.faces)
    point = np.array([0.3, -0.2, 1.4])
    homogeneous = np.append(point, 1.0)
    matrix = np.zeros((4, 4))
    matrix[np.triu_indices(4)] = quadrics[7]
    ours = homogeneous @ (matrix + np.triu(matrix, 1).T) @ homogeneous
    around = np.flatnonzero((ball.faces == 7).any(axis=1))
    areas = ball.area_faces[around] / 3
    distance = ball.face_normals[around] @ (point - ball.vertices[7])
    normal = (ball.face_normals[around] * ball.area_faces[around, None]).sum(axis=0)
    normal /= np.linalg.norm(normal)
    beside = np.linalg.norm(np.cross(point - ball.vertices[7], normal)) ** 2
    assert ours == pytest.approx((areas * distance**2).sum() + 1e-3 * areas.sum() * beside, rel=1e-9)


def test_taubin_smooths_without_shrinking():
    ball = trimesh.creation.icosphere(4)
    rough = ball.vertices + np.random.default_rng(0).normal(scale=0.01, size=ball.vertices.shape)
    smooth = taubin(rough, ball.faces, rounds=10)
    assert np.std(np.linalg.norm(smooth, axis=1)) < 0.4 * np.std(np.linalg.norm(rough, axis=1))
    assert trimesh.Trimesh(smooth, ball.faces).volume == pytest.approx(ball.volume, rel=0.01)
