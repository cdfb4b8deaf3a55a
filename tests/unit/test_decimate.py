"""Edge collapse: budget, manifoldness in all cases, topology, shape."""

import numpy as np
import pytest
import trimesh
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from backend.geometry.cameras import ring
from backend.geometry.carving import Grid, extract_surface
from backend.geometry.decimate import decimate, decimate_levels, vertex_quadrics
from backend.geometry.mesh_check import face_components, has_manifold_vertices, is_watertight_manifold
from backend.geometry.smoothing import taubin
from backend.geometry.surface_lookup import SurfaceLookup
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.stages.surface.hull import HullSurface
from tests.support.solids import one_splat, render_views


def blobs(seed, sigma, size=28):
    noise = np.random.default_rng(seed).standard_normal((size, size, size))
    return extract_surface(Grid(gaussian_filter(noise, sigma).astype(np.float32), np.zeros(3), 1.0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.4, 2.0), st.integers(4, 1000), st.just(20))
@example(1, 0.46875, 2000, 28)  # marching cubes alone lets two sheets of it touch
def test_whatever_goes_in_closed_comes_out_closed(seed, sigma, target, size):
    vertices, faces = blobs(seed, sigma, size)
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


def test_levels_are_one_descent_each_closed_and_within_its_budget():
    ball = trimesh.creation.icosphere(4)
    vertices, faces = ball.vertices.astype(np.float32), ball.faces
    levels = decimate_levels(vertices, faces, (10**6, 900, 300, 120))
    assert [len(level) for _, level in levels] == [len(faces), 900, 300, 120]
    assert all(is_watertight_manifold(level) for _, level in levels)
    alone = decimate(vertices, faces, 900)
    assert alone[0].tobytes() == levels[1][0].tobytes() and alone[1].tobytes() == levels[1][1].tobytes()


def test_rims_of_a_rough_drum_are_kept_where_plain_quadrics_bend_them():
    axis = np.arange(80) - 39.5
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.hypot(x, y)
    drum = np.maximum(radius - 30, abs(z) - 25).astype(np.float32)
    rough = drum + 1.2 * np.sin(x / 3) * np.sin(y / 3 + 1) * np.sin(z / 3)
    rough[(abs(radius - 30) < 4) & (abs(abs(z) - 25) < 4)] = drum[
        (abs(radius - 30) < 4) & (abs(abs(z) - 25) < 4)
    ]
    vertices, faces = extract_surface(Grid(rough.astype(np.float32), np.full(3, -39.5), 1.0))
    angle = np.linspace(0, 2 * np.pi, 400)
    rim = np.concatenate(
        [np.column_stack([30 * np.cos(angle), 30 * np.sin(angle), np.full(400, side)]) for side in (-25, 25)]
    )

    def error(features):
        there = SurfaceLookup(*decimate(vertices, faces, 500, features=features)).nearest(rim)
        return float(there.distance.mean())

    assert error(30.0) < 0.9 * error(0.0)  # measured .80


def solid_with_edges(kind):
    """Box, L or cylinder, closed, with a full turn of points along its sharp edges (P, 3)."""
    if kind == "cylinder":
        solid = trimesh.creation.cylinder(0.3, 0.6, sections=96)
    elif kind == "box":
        solid = trimesh.creation.box((0.7, 0.5, 0.6))
        solid.apply_transform(trimesh.transformations.rotation_matrix(0.35, [0, 0, 1]))
    else:
        outline = np.array(
            [[-0.35, -0.3], [0.35, -0.3], [0.35, -0.05], [-0.05, -0.05], [-0.05, 0.35], [-0.35, 0.35]]
        )
        front = np.insert(outline, 1, -0.2, axis=1)
        caps = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]])
        sides = [
            face
            for i, j in zip(range(6), [*range(1, 6), 0], strict=True)
            for face in ([i, i + 6, j], [j, i + 6, j + 6])
        ]
        solid = trimesh.Trimesh(
            np.vstack([front, front + [0, 0.4, 0]]), np.vstack([caps, caps[:, ::-1] + 6, sides])
        )
        solid.fix_normals()
    assert solid.is_watertight and solid.volume > 0
    sharp = solid.face_adjacency_edges[solid.face_adjacency_angles > np.radians(40)]
    share = np.linspace(0, 1, 40)[:, None, None]
    ends = solid.vertices[sharp]
    return solid, (ends[:, 0] * (1 - share) + ends[:, 1] * share).reshape(-1, 3)


@pytest.mark.parametrize("kind", ["box", "l", "cylinder"])
def test_edges_of_a_solid_reconstructed_from_views_stay_within_a_cell_at_a_small_budget(kind):
    solid, edges = solid_with_edges(kind)
    views = render_views(
        np.asarray(solid.vertices),
        np.asarray(solid.faces),
        ring(8, radius=2.0, elevation_degrees=8, fov_degrees=40, size=160),
    )
    engine, context = HullSurface(), StageContext("surface", None, "hull")
    options = SurfaceOptions(grid=64, faces=10**6, carve=False)
    dense = engine.reconstruct(views, one_splat(), options, context)
    cell = float(np.ptp(solid.vertices, axis=0).max()) / 64

    def error(features):
        vertices, faces = decimate(dense.vertices, dense.faces, 150, features=features)
        assert is_watertight_manifold(faces)
        return SurfaceLookup(vertices, faces).nearest(edges).distance / cell

    vertices, faces = decimate(dense.vertices, dense.faces, 150, features=30.0)
    assert is_watertight_manifold(faces)
    away = SurfaceLookup(vertices, faces).nearest(edges).distance / cell
    # Measured .31, .33, .61 for 90 % of the edges; the cells themselves cut off .34, .61, .66.
    assert np.quantile(away, 0.9) < 0.8
