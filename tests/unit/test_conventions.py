"""Axes and cameras against closed forms."""

import numpy as np
import pytest

from backend.geometry.cameras import Cameras, pinhole_intrinsics, ring
from shared_protocol import conventions
from shared_protocol.errors import InvalidInput


def test_the_input_view_looks_from_minus_y_and_azimuth_turns_counter_clockwise():
    cameras = ring(4, radius=3.0, elevation_degrees=0.0, fov_degrees=25.0, size=100)
    expected = [[0, -3, 0], [3, 0, 0], [0, 3, 0], [-3, 0, 0]]
    np.testing.assert_allclose(cameras.centres, expected, atol=1e-12)


def test_positive_elevation_looks_down():
    cameras = ring(1, radius=2.0, elevation_degrees=30.0, fov_degrees=40.0, size=64)
    assert cameras.centres[0, 2] == pytest.approx(1.0)
    assert cameras.world_from_camera[0, 2, 2] < 0


def test_what_is_right_and_up_in_the_world_is_right_and_up_in_the_input_view():
    cameras = ring(1, radius=3.0, elevation_degrees=0.0, fov_degrees=25.0, size=100)
    pixels, depth = cameras.project(np.array([[0, 0, 0], [0.1, 0, 0], [0, 0, 0.1], [0, -0.5, 0]]))
    centre, right, up, near = pixels[0]
    np.testing.assert_allclose(centre, [50, 50], atol=1e-9)
    assert right[0] > 50 and right[1] == pytest.approx(50)
    assert up[1] < 50 and up[0] == pytest.approx(50)
    np.testing.assert_allclose(near, [50, 50], atol=1e-9)
    np.testing.assert_allclose(depth[0], [3, 3, 3, 2.5])


def test_opengl_and_opencv_axes_are_each_others_inverse():
    pose = ring(1, radius=1.0, elevation_degrees=20.0, fov_degrees=40.0, size=8).world_from_camera[0]
    there = conventions.opengl_from_opencv(pose)
    np.testing.assert_allclose(there[:3, 2], -pose[:3, 2])
    np.testing.assert_array_equal(conventions.opencv_from_opengl(there), pose)


def test_gltf_is_y_up_and_the_front_becomes_plus_z():
    np.testing.assert_array_equal(conventions.gltf_from_world([0.0, 0, 1]), [0, 1, 0])
    np.testing.assert_array_equal(conventions.gltf_from_world([0.0, -1, 0]), [0, 0, 1])
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_array_equal(conventions.world_from_gltf(conventions.gltf_from_world(points)), points)


def test_srgb_encoding_meets_its_known_values_and_round_trips():
    np.testing.assert_allclose(conventions.linear_from_srgb([0, 0.5, 1]), [0, 0.21404, 1], atol=1e-5)
    ramp = np.linspace(0, 1, 257)
    np.testing.assert_allclose(
        conventions.srgb_from_linear(conventions.linear_from_srgb(ramp)), ramp, atol=1e-6
    )


def test_resizing_keeps_the_rays():
    cameras = ring(3, radius=2.0, elevation_degrees=10.0, fov_degrees=40.0, size=128)
    points = np.random.default_rng(1).normal(scale=0.2, size=(10, 3))
    small, _ = cameras.project(points)
    large, _ = cameras.resized(512, 512).project(points)
    np.testing.assert_allclose(large, small * 4)


def test_transforming_world_and_cameras_together_leaves_the_pictures_alone():
    cameras = ring(3, radius=2.0, elevation_degrees=10.0, fov_degrees=40.0, size=128)
    points = np.random.default_rng(1).normal(scale=0.2, size=(10, 3))
    offset = np.array([1.0, -2.0, 0.5])
    moved, _ = cameras.transformed(0.3, offset).project(0.3 * points + offset)
    np.testing.assert_allclose(moved, cameras.project(points)[0])


@pytest.mark.parametrize(
    ("pose", "words"),
    [
        (np.diag([2.0, 2, 2, 1]), "scale or shear"),
        (np.diag([-1.0, 1, 1, 1]), "mirrored"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_impossible_cameras_are_refused_in_words(pose, words):
    with pytest.raises(InvalidInput, match=words):
        Cameras(pose[None], pinhole_intrinsics(40, 8, 8)[None], 8, 8)
