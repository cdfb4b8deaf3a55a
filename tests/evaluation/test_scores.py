"""Figures of pictures and shapes."""

import numpy as np
import pytest
import trimesh

from backend.evaluation.protocols import ShapeRules, find_protocol
from backend.evaluation.scores import PictureJudge, f_name, score_shape, seen_from
from backend.geometry import metrics
from backend.geometry.cameras import pinhole_intrinsics, ring
from backend.geometry.mesh_render import render_mesh


def _pictures(seed, count=2, size=40):
    rgba = np.random.default_rng(seed).random((count, size, size, 4)).astype(np.float32)
    rgba[..., 3] = 1
    return rgba


def test_equal_pictures_have_the_best_figures_and_a_tenth_of_error_twenty_decibels():
    truth = _pictures(0) * 0.8
    truth[..., 3] = 1
    judge = PictureJudge(truth, None)
    assert judge.score({0: truth[0], 1: truth[1]}) == {"psnr": 100.0, "ssim": pytest.approx(1)}
    assert judge.score({1: truth[1] + np.array([0.1, 0.1, 0.1, 0], dtype=np.float32)})[
        "psnr"
    ] == pytest.approx(20, abs=1e-3)


def test_pictures_are_judged_over_white():
    truth = _pictures(1)
    truth[..., 3] = 0
    judge = PictureJudge(truth, None)
    assert judge.psnr({0: np.ones((40, 40, 3), dtype=np.float32)}) == 100.0


def test_without_its_weights_there_is_no_perceptual_figure():
    truth = _pictures(2)
    assert "perceptual" not in PictureJudge(truth, None).score({0: truth[0]})


def test_the_shape_rules_of_the_papers_are_the_metrics_of_their_names():
    ball, box = trimesh.creation.icosphere(3, radius=0.5), trimesh.creation.box((0.8, 0.8, 0.8))
    meshes = ball.vertices, ball.faces, box.vertices, box.faces
    sync = score_shape(*meshes, find_protocol("syncdreamer").shape)
    assert sync == {"chamfer": metrics.sync_chamfer(*meshes), "iou": metrics.sync_iou(*meshes)}
    ours = score_shape(*meshes, find_protocol("orrery").shape)
    plain = metrics.score_shape(*meshes)
    assert ours["chamfer"] == plain.chamfer and ours["iou"] == plain.iou
    assert [ours[f_name(t)] for t in (0.005, 0.01, 0.02)] == list(plain.fscore.values())


def test_columns_of_f_scores_carry_their_threshold():
    assert [f_name(t) for t in (0.005, 0.01, 0.05)] == ["f_005", "f_01", "f_05"]
    rules = ShapeRules("area", 500, 16, (0.05,))
    ball = trimesh.creation.icosphere(2)
    figures = score_shape(ball.vertices, ball.faces, ball.vertices, ball.faces, rules)
    assert list(figures) == ["chamfer", "f_05", "iou"] and figures["iou"] == 1


@pytest.mark.parametrize(("size", "fov"), [(96, 30.0), (32, 30.0), (64, 24.0)])
def test_a_frame_of_a_plane_seen_from_another_camera_is_that_cameras_picture(size, fov):
    own = ring(1, radius=3, elevation_degrees=0, fov_degrees=30, size=96)
    plate = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uvs = (plate[faces][..., [0, 2]] + 0.5).astype(np.float32)
    y, x = np.mgrid[0:64, 0:64] / 64
    texture = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x)], axis=-1).astype(np.float32)
    other = ring(1, radius=3.2, elevation_degrees=4, fov_degrees=fov, size=size, first_azimuth_degrees=3)
    other = type(other)(other.world_from_camera, pinhole_intrinsics(fov, size, size)[None], size, size)
    frame, expected = (
        render_mesh(plate, faces, uvs, texture, camera, supersample=4)[0] for camera in (own, other)
    )
    moved = seen_from(frame, own, other)
    assert moved.shape == (size, size, 4)
    inside = expected[..., 3] == 1
    assert np.abs(moved - expected)[inside].mean() < 0.01
    assert np.abs(moved[..., 3] - expected[..., 3]).mean() < 0.01
