"""Visual hulls: silhouettes to signed distances, bounds, fields, closed surfaces."""

import numpy as np
import pytest
import trimesh
from scipy.ndimage import distance_transform_edt

from backend.geometry.cameras import ring
from backend.geometry.carving import extract_surface, hull_field, object_bounds
from backend.geometry.mesh_check import is_watertight_manifold, volume
from backend.geometry.silhouettes import signed_distance
from shared_protocol.errors import InvalidInput, StageFailed
from tests.support.solids import ball_masks


def equivalent_radius(vertices, faces):
    return (3 * volume(vertices, faces) / (4 * np.pi)) ** (1 / 3)


def test_a_ball_of_radius_half_is_carved_to_radius_half():
    # Without the perspective divide the same carve gives .258 (a published release has that fault).
    cameras = ring(18, radius=2.0, elevation_degrees=0, fov_degrees=60, size=256)
    masks = ball_masks(cameras, 0.5, np.zeros(3))
    low, high = object_bounds(masks, cameras)
    vertices, faces = extract_surface(hull_field(masks, cameras, low, high, 96))
    assert equivalent_radius(vertices, faces) == pytest.approx(0.5, abs=0.01)
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight


@pytest.mark.parametrize("scale, offset", [(0.001, (0.4, 0.2, -0.3)), (50.0, (1000.0, -2000.0, 300.0))])
def test_scale_and_place_of_the_scene_do_not_matter(scale, offset):
    cameras = ring(12, radius=2.0, elevation_degrees=15, fov_degrees=40, size=128)
    masks = ball_masks(cameras, 0.5, np.zeros(3))
    moved = cameras.transformed(scale, np.array(offset))
    low, high = object_bounds(masks, moved)
    assert np.all(np.abs((low - offset) / scale + 0.5) < 0.12)
    vertices, faces = extract_surface(hull_field(masks, moved, low, high, 64))
    assert equivalent_radius((vertices - np.array(offset)) / scale, faces) == pytest.approx(0.5, abs=0.02)


def test_bounds_hold_a_ball_far_from_where_the_cameras_look():
    cameras = ring(16, radius=3.0, elevation_degrees=20, fov_degrees=60, size=160)
    centre = np.array([0.7, -0.4, 0.3])
    low, high = object_bounds(ball_masks(cameras, 0.2, centre), cameras)
    assert np.all(low <= centre - 0.19) and np.all(high >= centre + 0.19)
    assert np.all(high - low < 0.6)


def test_what_leaves_the_frame_is_not_carved_away():
    cameras = ring(12, radius=2.0, elevation_degrees=10, fov_degrees=22, size=128)
    masks = ball_masks(cameras, 0.5, np.zeros(3))
    assert masks[:, 0].max() == 1  # the ball is cut by the frame
    low, high = object_bounds(masks, cameras)
    field = hull_field(masks, cameras, low, high, 48)
    inside = field.field > 0
    centre = np.argwhere(inside).mean(axis=0) * field.cell + field.origin
    assert np.abs(centre).max() < 0.1
    across = inside.any(axis=(1, 2)).sum() * field.cell
    assert across > 0.7  # the frame shows .78 of the ball at its distance
    assert is_watertight_manifold(extract_surface(field)[1])


def test_distance_of_a_hard_mask_equals_the_exact_transform():
    generator = np.random.default_rng(1)
    mask = np.zeros((60, 80), dtype=np.float32)
    for _ in range(5):
        row, column = generator.integers(8, 50), generator.integers(8, 70)
        mask[row - 6 : row + 6, column - 5 : column + 7] = 1
    ours = signed_distance(mask)
    fine = np.kron(mask, np.ones((9, 9))) > 0
    exact = (distance_transform_edt(fine) - distance_transform_edt(~fine))[4::9, 4::9] / 9
    assert np.array_equal(ours > 0, mask > 0)
    error = np.abs(ours - exact)
    assert error.max() < 0.6 and np.median(error) < 0.2  # corners are rounded


def test_distance_of_a_covered_disc_is_sub_pixel():
    size, radius, middle = 96, 31.3, np.array([47.2, 48.9])
    fine = (np.arange(size * 8) + 0.5) / 8
    hit = np.hypot(fine[None, :] - middle[0], fine[:, None] - middle[1]) < radius
    alpha = hit.reshape(size, 8, size, 8).mean(axis=(1, 3)).astype(np.float32)
    at = np.arange(size) + 0.5
    exact = radius - np.hypot(at[None, :] - middle[0], at[:, None] - middle[1])
    error = np.abs(signed_distance(alpha) - exact)[exact > -15]
    assert error.max() < 0.25 and error.mean() < 0.03  # measured .20 (in the middle) and .02


def test_masks_without_an_edge_are_far_from_any():
    assert np.all(signed_distance(np.ones((5, 6), np.float32)) > 1e5)
    assert np.all(signed_distance(np.zeros((5, 6), np.float32)) < -1e5)


def test_empty_masks_and_masks_that_share_no_point_are_told_in_words():
    cameras = ring(6, radius=2.0, elevation_degrees=10, fov_degrees=40, size=64)
    with pytest.raises(StageFailed, match="0 of 6 views show an object"):
        object_bounds(np.zeros((6, 64, 64), np.float32), cameras)
    with pytest.raises(InvalidInput, match="masks have shape"):
        object_bounds(np.zeros((6, 64, 65), np.float32), cameras)
    masks = np.zeros((6, 64, 64), np.float32)
    masks[::2, 5:15, 20:40] = 1
    masks[1::2, 50:60, 20:40] = 1
    with pytest.raises(StageFailed, match="no point in space lies inside all silhouettes"):
        object_bounds(masks, cameras)


def test_an_empty_field_has_an_empty_surface():
    cameras = ring(6, radius=2.0, elevation_degrees=10, fov_degrees=40, size=64)
    masks = ball_masks(cameras, 0.3, np.zeros(3))
    field = hull_field(masks, cameras, np.full(3, 5.0), np.full(3, 6.0), 16)
    vertices, faces = extract_surface(field)
    assert len(vertices) == 0 and len(faces) == 0
