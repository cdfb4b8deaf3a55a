"""Tangent frames and normal maps: closed forms, and what a viewer makes of them."""

import numpy as np
import pytest
import trimesh

from backend.geometry.tangents import decode_normals, encode_normals, smooth_normals, tangent_frames


def square(mirrored=False):
    """A square in the xz plane that looks to -Y, its u along x and its v along z (or u along -x)."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uvs = vertices[:, [0, 2]] * ([-1, 1] if mirrored else [1, 1]) + ([1, 0] if mirrored else [0, 0])
    return vertices, faces, uvs[faces]


@pytest.mark.parametrize("mirrored", [False, True])
def test_x_is_along_u_and_y_along_v_up_also_in_a_mirrored_chart(mirrored):
    vertices, faces, uvs = square(mirrored)
    frames = tangent_frames(vertices, faces, uvs, smooth_normals(vertices, faces))
    np.testing.assert_allclose(frames.normals[0, 0], [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(frames.tangents[0, 0], [-1 if mirrored else 1, 0, 0], atol=1e-6)
    bitangent = frames.signs[0] * np.cross(frames.normals[0, 0], frames.tangents[0, 0])
    np.testing.assert_allclose(bitangent, [0, 0, 1], atol=1e-6)
    # A dent's upper half looks up: green above the middle (glTF: +Y, OpenGL).
    up = encode_normals(np.array([[0, -1, 1]]) / np.sqrt(2), frames, np.array([0]), np.full((1, 3), 1 / 3))
    np.testing.assert_allclose(up, [[0.5, 0.5 + 0.5 / np.sqrt(2), 0.5 + 0.5 / np.sqrt(2)]], atol=1e-6)


def test_what_is_encoded_is_what_a_viewer_decodes():
    ball = trimesh.creation.uv_sphere(count=[12, 20])
    uvs = np.column_stack(
        [np.arctan2(ball.vertices[:, 1], ball.vertices[:, 0]) / 7 + 0.5, ball.vertices[:, 2] / 2 + 0.5]
    )[ball.faces]
    frames = tangent_frames(ball.vertices, ball.faces, uvs, smooth_normals(ball.vertices, ball.faces))
    generator = np.random.default_rng(0)
    face = generator.integers(0, len(ball.faces), 400)
    weights = generator.dirichlet((1, 1, 1), 400)
    wanted = ball.face_normals[face] + 0.3 * generator.normal(size=(400, 3))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    outward = (wanted * ball.face_normals[face]).sum(axis=1) > 0.3
    encoded = encode_normals(wanted, frames, face, weights)
    np.testing.assert_allclose(
        decode_normals(encoded, frames, face, weights)[outward], wanted[outward], atol=1e-5
    )
    assert (encoded[:, 2] > 0.5).all()


def test_smooth_normals_weigh_by_angle_so_that_a_cubes_corners_are_diagonal():
    cube = trimesh.creation.box((1, 1, 1))
    np.testing.assert_allclose(
        smooth_normals(cube.vertices, cube.faces), cube.vertices * 2 / np.sqrt(3), atol=1e-6
    )


def test_faces_without_area_in_the_atlas_still_have_a_frame():
    vertices, faces, uvs = square()
    frames = tangent_frames(vertices, faces, np.zeros_like(uvs), smooth_normals(vertices, faces))
    np.testing.assert_allclose(np.linalg.norm(frames.tangents, axis=-1), 1)
    assert np.abs((frames.tangents * frames.normals).sum(axis=-1)).max() < 1e-6
