"""Metrics against closed forms and other packages."""

import numpy as np
import pytest
import trimesh

from backend.geometry import metrics
from backend.geometry.cameras import ring


def test_concentric_balls_are_as_far_apart_as_their_radii():
    one, two = trimesh.creation.icosphere(5), trimesh.creation.icosphere(5, radius=1.1)
    score = metrics.score_shape(two.vertices, two.faces, one.vertices, one.faces, thresholds=(0.05, 0.2))
    assert score.chamfer == pytest.approx(0.1, abs=2e-3)
    assert score.fscore == {0.05: 0.0, 0.2: 1.0}
    assert score.iou == pytest.approx(1 / 1.1**3, abs=4e-3)


def test_boxes_that_overlap_by_half_have_an_iou_of_a_third():
    box, moved = trimesh.creation.box(), trimesh.creation.box().apply_translation((0.5, 0, 0))
    assert metrics.volume_iou(box.vertices, box.faces, moved.vertices, moved.faces) == pytest.approx(
        1 / 3, abs=0.02
    )
    assert metrics.volume_iou(box.vertices, box.faces, box.vertices, box.faces) == 1


def test_inside_grid_agrees_with_trimesh():
    torus = trimesh.creation.torus(0.6, 0.25)
    cells = 24
    ours = metrics.inside_grid(torus.vertices, torus.faces, np.full(3, -1), np.full(3, 1), cells)
    at = (np.arange(cells) + 0.5) / cells * 2 - 1
    points = np.stack(np.meshgrid(at, at, at, indexing="ij"), axis=-1).reshape(-1, 3)
    ring_distance = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.6, points[:, 2])
    clear = np.abs(ring_distance - 0.25) > 0.02
    assert np.array_equal(ours.ravel()[clear], (ring_distance < 0.25)[clear])


def test_samples_lie_on_the_surface_evenly():
    box = trimesh.creation.box((1, 1, 4))
    points = metrics.sample_surface(box.vertices, box.faces, 50_000)
    assert np.abs(np.abs(points / box.extents * 2).max(axis=1) - 1).max() < 1e-9
    on_ends = np.mean(np.abs(np.abs(points[:, 2]) - 2) < 1e-9)
    assert on_ends == pytest.approx(2 / box.area, abs=0.01)


def test_visible_chamfer_does_not_see_the_inside():
    ball = trimesh.creation.icosphere(4, radius=0.5)
    inner = trimesh.creation.icosphere(3, radius=0.2)
    hollow = trimesh.util.concatenate([ball, inner])
    seen = metrics.sync_chamfer(hollow.vertices, hollow.faces, ball.vertices, ball.faces)
    assert seen == pytest.approx(0, abs=1e-9)
    smaller = ball.copy().apply_scale(0.96)
    assert metrics.sync_chamfer(smaller.vertices, smaller.faces, ball.vertices, ball.faces) == pytest.approx(
        0.02, abs=2e-3
    )


def test_picture_figures_match_their_definitions():
    generator = np.random.default_rng(0)
    picture = generator.random((40, 50, 3))
    assert metrics.psnr(picture, picture) == np.inf
    assert metrics.psnr(picture, picture + 0.1) == pytest.approx(20)
    assert metrics.ssim(picture, picture) == pytest.approx(1)
    assert metrics.ssim(picture, generator.random((40, 50, 3))) < 0.1


def test_mask_iou_and_silhouettes():
    cameras = ring(4, radius=2.0, elevation_degrees=0, fov_degrees=40, size=64)
    ball = trimesh.creation.icosphere(5, radius=0.4)
    mask = metrics.silhouette(ball.vertices, ball.faces, cameras, 1, supersample=4)
    focal = cameras.intrinsics[0, 0, 0]
    radius = focal * 0.4 / np.sqrt(2.0**2 - 0.4**2)
    assert mask.sum() == pytest.approx(np.pi * radius**2, rel=5e-3)
    assert metrics.mask_iou(mask, mask) == 1
    assert metrics.mask_iou(np.zeros((4, 4)), np.zeros((4, 4))) == 1
    assert metrics.mask_iou(np.ones((4, 4)), np.zeros((4, 4))) == 0
