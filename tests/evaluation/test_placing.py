"""Results come to lie on the truth as the placements say."""

import numpy as np
import pytest
import trimesh

from backend.evaluation.placing import Similarity, by_box, by_camera, by_icp, lens_for
from backend.geometry import metrics
from backend.geometry.cameras import ring
from backend.pipeline.values import Mesh
from tests.support.scenes import lopsided_figure

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])


def test_points_and_cameras_of_a_similarity_agree():
    place = Similarity(1.7, TURN, np.array([0.3, -0.2, 0.5]))
    cameras = ring(3, radius=2, elevation_degrees=20, fov_degrees=40, size=64)
    points = np.random.default_rng(0).normal(size=(20, 3)) * 0.2
    expected, _ = cameras.project(place.points(points))
    found, _ = place.cameras(cameras).project(points)
    assert np.allclose(found, expected)


def test_then_is_one_after_the_other():
    one, two = Similarity(2.0, TURN, np.array([1.0, 0, 0])), Similarity(0.5, TURN.T, np.array([0, 3.0, 0]))
    points = np.random.default_rng(1).normal(size=(5, 3))
    assert np.allclose(one.then(two).points(points), two.points(one.points(points)))


def test_the_input_camera_puts_the_object_where_the_pipeline_framed_it():
    fill, size = 0.75, 384
    figure = lopsided_figure().apply_translation((0.06, 0, -0.1))  # off the axis, as boxes are
    camera = ring(1, radius=2, elevation_degrees=25, fov_degrees=40, size=256)
    alpha = metrics.silhouette(figure.vertices, figure.faces, camera, 0)
    rows, columns = np.flatnonzero((alpha > 0.5).any(1)), np.flatnonzero((alpha > 0.5).any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    fov = lens_for(camera, alpha, fill)
    used = ring(8, radius=3, elevation_degrees=25, fov_degrees=fov, size=size)
    place = by_camera(camera, used, {"crop_box": box}, fill)
    # The truth, as the pipeline would have to make it: its picture is the cut-out's.
    in_frame, _ = place.cameras(camera).project(figure.vertices)
    assert in_frame.shape == (1, len(figure.vertices), 2)
    ideal = (figure.vertices - place.offset) @ place.rotation / place.scale
    pixels = used.take([0]).project(ideal)[0][0]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    assert (high - low).max() == pytest.approx(fill * size, abs=6)
    assert (low + high) / 2 == pytest.approx([size / 2] * 2, abs=4)


def test_the_box_is_scaled_and_centred_whatever_the_camera_said():
    figure = lopsided_figure()
    mesh = Mesh(figure.vertices * 3 + 1, figure.faces)
    points = by_box(mesh, Similarity(0.4, np.eye(3), np.array([0.2, 0, 0]))).points(mesh.vertices)
    assert np.ptp(points, axis=0).max() == pytest.approx(1)
    assert points.min(axis=0) + points.max(axis=0) == pytest.approx([0, 0, 0], abs=1e-6)


def test_icp_finds_a_small_turn_shift_and_scale():
    figure = lopsided_figure()
    c, s = np.cos(0.15), np.sin(0.15)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    mesh = Mesh((figure.vertices @ turn.T) * 0.9 + 0.03, figure.faces)
    place = by_icp(mesh, figure.vertices, figure.faces, Similarity())
    assert np.abs(place.points(mesh.vertices) - figure.vertices).max() < 0.03
    assert place.scale == pytest.approx(1 / 0.9, rel=0.02)


def test_icp_is_not_pulled_by_a_part_that_is_missing():
    ball = trimesh.creation.icosphere(4, radius=0.5)
    cut = ball.vertices.copy()
    cut[:, 2] = np.maximum(cut[:, 2], -0.33)  # its base is flat
    mesh = Mesh(cut, ball.faces)
    place = by_icp(mesh, ball.vertices, ball.faces, by_box(mesh, Similarity()))
    points = place.points(mesh.vertices)
    assert metrics.sync_chamfer(points, mesh.faces, ball.vertices, ball.faces) < 4e-3
