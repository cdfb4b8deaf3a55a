"""Textured and clay pictures of meshes against closed forms."""

import numpy as np
import pytest
import trimesh

from backend.geometry.cameras import Cameras, ring
from backend.geometry.mesh_render import clay_ball, over, render_clay, render_mesh, vertex_normals
from shared_protocol.conventions import look_at


def _facing_quad(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Cameras]:
    """A unit square in the plane y = 0 that fills the picture of a camera on -Y exactly."""
    vertices = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    corner = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    intrinsics = np.array([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1]])
    cameras = Cameras(look_at(np.array([0, -2.0, 0]))[None], intrinsics[None], size, size)
    return vertices, faces, corner[faces], cameras


@pytest.mark.parametrize("supersample", [1, 3])
def test_a_texture_seen_square_on_at_its_own_size_is_shown_as_it_is(supersample):
    texture = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    vertices, faces, uvs, cameras = _facing_quad(32)
    picture = render_mesh(vertices, faces, uvs, texture, cameras, supersample=supersample)[0]
    assert (picture[..., 3] == 1).all()
    if supersample == 1:
        np.testing.assert_allclose(picture[..., :3], texture, atol=2e-5)
    else:  # samples at -1/3, 0, +1/3 of a texel: a 3x3 binomial-like filter of known weights
        weights = np.array([1 / 9, 7 / 9, 1 / 9])
        padded = np.pad(texture, ((1, 1), (1, 1), (0, 0)), mode="edge")
        expected = sum(
            weights[i] * weights[j] * padded[i : i + 32, j : j + 32] for i in range(3) for j in range(3)
        )
        np.testing.assert_allclose(picture[..., :3], expected, atol=2e-5)


def test_row_zero_of_the_texture_is_the_top_and_v_grows_upward():
    texture = np.zeros((8, 8, 3), dtype=np.float32)
    texture[0] = (1, 0, 0)
    texture[:, 0] = (0, 1, 0)
    vertices, faces, uvs, cameras = _facing_quad(8)
    picture = render_mesh(vertices, faces, uvs, texture, cameras, supersample=1)[0, ..., :3]
    np.testing.assert_allclose(picture[0, 4], (1, 0, 0), atol=1e-5)
    np.testing.assert_allclose(picture[4, 0], (0, 1, 0), atol=1e-5)


def test_alpha_is_the_covered_share_and_colour_is_not_darkened_at_the_edge():
    vertices, faces, uvs, cameras = _facing_quad(16)
    vertices = vertices * 0.5 + np.array([1 / 64, 0, 0])  # edges at x = 4.25 and 12.25
    texture = np.full((4, 4, 3), 0.6, dtype=np.float32)
    picture = render_mesh(vertices, faces, uvs, texture, cameras, supersample=4)[0]
    np.testing.assert_allclose(picture[8, 3:14, 3], [0, 0.75, 1, 1, 1, 1, 1, 1, 1, 0.25, 0])
    np.testing.assert_allclose(picture[8, 4:13, :3], 0.6, atol=1e-5)
    np.testing.assert_allclose(over(picture, (1, 1, 1))[8, 4], 0.75 * 0.6 + 0.25, atol=1e-5)
    opaque = render_mesh(vertices, faces, uvs, texture, cameras, supersample=4, background=(1, 1, 1))[0]
    np.testing.assert_allclose(opaque[..., :3], over(picture, (1, 1, 1)), atol=1e-6)
    assert (opaque[..., 3] == 1).all()


def test_normals_of_a_sphere_point_outward_and_a_loose_vertex_does_no_harm():
    sphere = trimesh.creation.icosphere(subdivisions=3)
    vertices = np.vstack([sphere.vertices, [[9, 9, 9]]])
    normals = vertex_normals(vertices, sphere.faces)
    assert (np.sum(normals[:-1] * sphere.vertices, axis=1) > 0.999).all()
    np.testing.assert_allclose(normals[-1], (0, 0, 1))


def test_clay_is_lit_from_the_upper_left_of_every_view():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    cameras = ring(2, radius=3.0, elevation_degrees=20.0, fov_degrees=25.0, size=64)
    first, second = render_clay(sphere.vertices, sphere.faces, cameras)
    np.testing.assert_allclose(first, second, atol=0.02)  # the same ball, whoever looks
    light = first[..., :3].mean(axis=-1)
    assert light[20, 20] > light[44, 44] + 0.2
    ball = clay_ball(64)
    assert ball.min() >= 0 and ball.max() <= 1
    scale = 64 / (2 * cameras.intrinsics[0, 0, 0] * np.tan(np.arcsin(0.5 / 3.0)))
    np.testing.assert_allclose(first[32, 32, :3], ball[32, 32], atol=0.02)
    np.testing.assert_allclose(
        first[22, 40, :3], ball[int(32 - 10 * scale), int(32 + 8.5 * scale)], atol=0.04
    )
