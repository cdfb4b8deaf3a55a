"""Metrics against closed forms and other packages."""

import json

import numpy as np
import pytest
import trimesh

from backend.geometry import metrics
from backend.geometry.cameras import ring
from tests.support.shared import shared_path


def test_concentric_balls_are_as_far_apart_as_their_radii():
    one, two = trimesh.creation.icosphere(4), trimesh.creation.icosphere(4, radius=1.1)
    score = metrics.score_shape(
        two.vertices, two.faces, one.vertices, one.faces, thresholds=(0.05, 0.2), samples=30_000
    )
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


def _box_moved(distance):
    """Two unit cubes, the second moved along X."""
    return trimesh.creation.box(), trimesh.creation.box().apply_translation((distance, 0, 0))


def test_moved_cubes_have_the_chamfer_distance_worked_out_by_hand():
    # From the first to the second, moved by d = 1/4: the face left behind is d away; of the face inside the
    # second, a point at depth u below the nearest edge, P(u > t) = (1 - 2t)^2, is min(d, u) away; the four
    # sides stick out by d, on average d/2 away over a share d. By symmetry both directions are alike.
    box, moved = _box_moved(0.25)
    d = 0.25
    expected = (d + (1 - (1 - 2 * d) ** 3) / 6 + 4 * d * d / 2) / 6
    ours = metrics.sample_surface(box.vertices, box.faces, 100_000, seed=1)
    truth = metrics.sample_surface(moved.vertices, moved.faces, 100_000, seed=2)
    # Samples lie some .004 apart: what is 0 away is found that far away.
    assert metrics.chamfer_distance(ours, truth) == pytest.approx(expected, abs=3e-3)
    there, back = metrics.nearest_distances(ours, truth), metrics.nearest_distances(truth, ours)
    t = 0.05
    within = (0 + (1 - (1 - 2 * t) ** 2) + 4 * (1 - d + t)) / 6
    assert metrics.f_score(there, back, t) == pytest.approx(within, abs=5e-3)
    assert metrics.volume_iou(box.vertices, box.faces, moved.vertices, moved.faces) == pytest.approx(
        (1 - d) / (1 + d), abs=0.01
    )


def test_sync_iou_of_cubes_is_the_ratio_of_counted_grid_points():
    # A cube of side 63/64 holds the points -15/32 ... 15/32, 31 along an axis; moved by 8/32 it shares 23.
    box, moved = _box_moved(0.25)
    for axis in range(3):
        turned = [np.roll(mesh.vertices, axis, axis=1) for mesh in (box, moved)]
        scaled = turned[0] * 63 / 64, turned[1] + (63 / 64 - 1) * turned[0]
        iou = metrics.sync_iou(scaled[0], box.faces, scaled[1], moved.faces)
        assert iou == pytest.approx(23 / (31 + 31 - 23), abs=1e-12)


def test_sync_iou_of_a_ball_and_a_cube_counts_the_grid_points_in_both():
    ball, box = trimesh.creation.icosphere(5, radius=0.45), trimesh.creation.box((0.71, 0.93, 0.59))
    at = np.arange(64) / 32 - 1
    grid = np.stack(np.meshgrid(at, at, at, indexing="ij"), axis=-1)
    in_ball = (grid**2).sum(axis=-1) < 0.45**2
    in_box = (np.abs(grid) < box.extents / 2).all(axis=-1)
    expected = (in_ball & in_box).sum() / (in_ball | in_box).sum()
    assert metrics.sync_iou(ball.vertices, ball.faces, box.vertices, box.faces) == pytest.approx(
        expected, abs=2e-3
    )


def test_sync_iou_of_an_open_mesh_is_decided_along_x():
    # Without its face at -X a ray along X leaves the cube without having entered: all behind it is inside.
    box = trimesh.creation.box((0.984375,) * 3)
    open_box = box.faces[box.face_normals[:, 0] > -0.5]
    lid_free = box.faces[box.face_normals[:, 2] < 0.5]
    assert metrics.sync_iou(box.vertices, lid_free, box.vertices, box.faces) == 1
    assert metrics.sync_iou(box.vertices, open_box, box.vertices, box.faces) == 0


def test_thinned_points_are_the_means_of_cells_that_begin_half_a_cell_before_the_first():
    points = np.array([[0.0, 0, 0], [0.4, 0, 0], [0.6, 0, 0], [1.2, 0, 0]])
    thin = metrics.thinned(points, 1.0)
    assert sorted(thin[:, 0]) == pytest.approx([0.2, 0.9])


def test_the_sync_rig_is_the_published_one():
    cameras = metrics.sync_cameras()
    assert np.allclose(cameras.intrinsics[0], [[280, 0, 128], [0, 280, 128], [0, 0, 1]])
    data = json.loads(shared_path("data", "orbits", "chicken", "cameras.json").read_text())
    # Their view 0 looks from +X, ours from -Y: the world is turned by 90 degrees.
    turn = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for ours, frame in zip(cameras.world_from_camera, data["frames"], strict=True):
        theirs = np.eye(4)
        theirs[:3] = frame["world_to_camera"]
        assert np.allclose(turn @ np.linalg.inv(theirs), ours, atol=1e-5)


def test_visible_chamfer_of_a_cube_does_not_see_its_underside():
    box = trimesh.creation.box((0.8, 0.8, 0.8))
    dented = box.vertices.copy()
    bottom = len(dented)
    dented = np.concatenate([dented, [[0, 0, 0.1]]])
    low = [i for i in range(8) if box.vertices[i, 2] < 0]
    faces = [face for face in box.faces if not all(i in low for i in face)]
    around = sorted(low, key=lambda i: np.arctan2(box.vertices[i, 1], box.vertices[i, 0]))
    faces += [[around[k], around[(k + 1) % 4], bottom] for k in range(4)]
    assert metrics.sync_chamfer(dented, np.array(faces), box.vertices, box.faces) == 0


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
