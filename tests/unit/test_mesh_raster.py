"""The z-buffer rasteriser against closed forms and a plain ray caster."""

import numpy as np
import trimesh

from backend.geometry.cameras import ring
from backend.geometry.mesh_raster import rasterize_mesh, rasterize_pixels


def _camera(size: int = 64, radius: float = 3.0):
    return ring(1, radius=radius, elevation_degrees=0.0, fov_degrees=25.0, size=size)


def test_a_triangle_covers_exactly_the_pixel_centres_inside_it():
    points = np.array([[2.0, 1.0, 1.0], [14.0, 3.0, 1.0], [5.0, 13.0, 1.0]])
    face = rasterize_pixels(points, np.array([[0, 1, 2]]), 16, 16).face
    x, y = np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5)
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)
    ]
    assert np.array_equal(face == 0, np.all(np.stack(sides) >= 0, axis=0))


def test_neighbouring_triangles_leave_no_gap_and_the_picture_does_not_depend_on_the_bands():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.linspace(-1, 33, 9), np.linspace(-1, 33, 9)), axis=-1).reshape(-1, 2)
    inner = np.all((grid > 0) & (grid < 32), axis=1)
    grid[inner] += rng.uniform(-1.2, 1.2, (int(inner.sum()), 2))
    from scipy.spatial import Delaunay

    faces = Delaunay(grid).simplices
    points = np.column_stack([grid, np.ones(len(grid))])
    assert (rasterize_pixels(points, faces, 32, 32).face >= 0).all()


def test_barycentric_weights_are_perspective_correct():
    cameras = _camera()
    vertices = np.array([[-0.5, -0.8, -0.4], [0.6, 0.2, -0.5], [0.0, 0.9, 0.5]])
    fragments = rasterize_mesh(
        vertices, np.array([[0, 1, 2]]), cameras.world_from_camera[0], cameras.intrinsics[0], 64, 64
    )
    row, column = np.nonzero(fragments.face == 0)
    assert len(row) > 100
    positions = fragments.barycentric[row, column] @ vertices
    pixels, depth = cameras.project(positions)
    np.testing.assert_allclose(pixels[0], np.column_stack([column, row]) + 0.5, atol=2e-4)
    np.testing.assert_allclose(fragments.depth[row, column], depth[0], rtol=1e-6)


def test_the_nearest_face_wins_as_in_a_plain_ray_caster():
    rng = np.random.default_rng(7)
    vertices = rng.uniform(-0.5, 0.5, (60, 3))
    faces = np.arange(60).reshape(-1, 3)
    cameras = _camera(size=48)
    pose, intrinsics = cameras.world_from_camera[0], cameras.intrinsics[0]
    fragments = rasterize_mesh(vertices, faces, pose, intrinsics, 48, 48)
    x, y = np.meshgrid(np.arange(48) + 0.5, np.arange(48) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    nearest, best = np.full((48, 48), -1), np.full((48, 48), np.inf)
    for index, (a, b, c) in enumerate(vertices[faces]):  # Moeller and Trumbore 1997
        edge1, edge2, start = b - a, c - a, pose[:3, 3] - a
        p = np.cross(rays, edge2)
        determinant = p @ edge1
        u = (p @ start) / determinant
        q = np.cross(start, edge1)
        v = rays @ q / determinant
        t = (edge2 @ q) / determinant
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < best)
        nearest[hit], best[hit] = index, t[hit]
    assert (fragments.face == nearest).mean() > 0.999  # a ray through an edge may go either way
    same = (fragments.face == nearest) & (nearest >= 0)
    np.testing.assert_allclose(fragments.depth[same], best[same], rtol=1e-5)


def test_a_sphere_covers_the_area_that_geometry_says():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    cameras = _camera(size=256)
    fragments = rasterize_mesh(
        sphere.vertices, sphere.faces, cameras.world_from_camera[0], cameras.intrinsics[0], 256, 256
    )
    radius = cameras.intrinsics[0, 0, 0] * np.tan(np.arcsin(0.5 / 3.0))
    np.testing.assert_allclose((fragments.face >= 0).sum(), np.pi * radius**2, rtol=4e-3)
    np.testing.assert_allclose(fragments.depth.min(), 2.5, atol=2e-3)


def test_faces_behind_the_camera_are_left_out():
    cameras = _camera()
    vertices = np.array([[0.0, -5.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    fragments = rasterize_mesh(
        vertices, np.array([[0, 1, 2]]), cameras.world_from_camera[0], cameras.intrinsics[0], 64, 64
    )
    assert (fragments.face == -1).all()
    assert np.isinf(fragments.depth).all()
