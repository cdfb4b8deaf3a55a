"""The plane sweep's parts: neighbours, correlation against numpy, fusion against a plane."""

import numpy as np
import pytest
import trimesh

from backend.geometry.cameras import Cameras, ring
from backend.geometry.carving import Grid
from backend.geometry.fusion import facing_of, fuse_depth, merge_fused, without_terraces
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.photo_consistency import (
    _correlation,
    _patch,
    _reference_patch,
    neighbours,
    prepare,
    relative_maps,
    sweep_step,
    sweep_view,
)
from backend.geometry.silhouettes import signed_distances
from tests.support.solids import render_views


def test_a_ring_of_sixteen_is_matched_with_two_views_on_either_side():
    cameras = ring(16, radius=2.0, elevation_degrees=15, fov_degrees=40, size=64)
    sources = neighbours(cameras, np.zeros(3))
    for view in range(16):
        assert {int(s - view) % 16 for s in sources[view]} == {1, 2, 14, 15}


def test_views_that_are_too_far_apart_have_no_neighbours():
    cameras = ring(4, radius=2.0, elevation_degrees=0, fov_degrees=40, size=64)
    assert (neighbours(cameras, np.zeros(3)) == -1).all()


def test_relative_maps_project_as_the_cameras_do():
    cameras = ring(6, radius=2.0, elevation_degrees=15, fov_degrees=40, size=64)
    point = np.array([0.1, -0.2, 0.3])
    local = np.linalg.inv(cameras.world_from_camera[2]) @ np.append(point, 1)
    homogeneous = relative_maps(cameras, 2, np.array([4, -1]))[0] @ local
    assert homogeneous[:2] / homogeneous[2] == pytest.approx(cameras.project(point[None])[0][4, 0])


def test_correlation_equals_the_weighted_one_of_numpy():
    generator = np.random.default_rng(2)
    picture = generator.random((20, 20)).astype(np.float32)
    other = generator.random((20, 20)).astype(np.float32)
    radius = 2
    values, weights, right, down = _patch(radius)
    inside = np.ones_like(picture)
    variance = _reference_patch(picture, inside, 9, 8, radius, values, weights)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    zero, one = np.float32(0), np.float32(1)
    ours = _correlation(
        other, values, weights, right, down, variance, radius,
        np.float32(11), np.float32(7), one, zero, zero, one, np.float32(1e-4),
    )  # fmt: skip
    a, b = picture[7:12, 6:11].ravel(), other[5:10, 9:14].ravel()
    covariance = np.cov(a, b, aweights=weights, ddof=0)
    expected = covariance[0, 1] / np.sqrt((covariance[0, 0] + 1e-4) * (covariance[1, 1] + 1e-4))
    assert ours == pytest.approx(expected, abs=1e-4)
    outside = _correlation(
        other, values, weights, right, down, variance, radius,
        np.float32(1), np.float32(7), one, zero, zero, one, np.float32(1e-4),
    )  # fmt: skip
    assert outside == -1


def plane(slope):
    """A plane through the origin, turned about Z by `slope` radians, as a large triangle pair."""
    along = np.array([np.cos(slope), np.sin(slope), 0.0]) * 2
    up = np.array([0, 0, 2.0])
    return np.stack([-along - up, along - up, along + up, -along + up]), np.array([[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("slope", [0.0, 0.6, 1.1])
def test_facing_is_the_cosine_of_the_slope(slope):
    camera = ring(1, radius=3.0, elevation_degrees=0, fov_degrees=30, size=64)
    vertices, faces = plane(slope)
    depth = rasterize_mesh(vertices, faces, camera.world_from_camera[0], camera.intrinsics[0], 64, 64).depth
    facing = facing_of(np.where(np.isfinite(depth), depth, 0).astype(np.float32), camera.intrinsics[0])
    assert facing[32, 32] == pytest.approx(np.cos(slope), abs=0.02)


def test_fused_depth_is_the_distance_to_the_plane():
    cameras = ring(16, radius=3.0, elevation_degrees=0, fov_degrees=30, size=64).take([15, 0, 1])
    vertices, faces = plane(0.0)
    depth = np.stack(
        [rasterize_mesh(vertices, faces, p, k, 64, 64).depth for p, k in zip(*_both(cameras), strict=True)]
    )
    depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    hull = Grid(np.full((9, 9, 9), 0.2, np.float32), np.full(3, -0.2), 0.05)
    fused = fuse_depth(depth, np.ones_like(depth), cameras, hull, truncation=0.15)
    y = -0.2 + 0.05 * np.arange(9)
    inside = fused.distance[4, :, 4]
    assert inside[2:7] == pytest.approx(y[2:7], abs=2e-3)  # seen from -Y: what lies at +Y is behind
    carved = merge_fused(hull, fused)
    assert (carved.field[4, :3, 4] < 0).all() and (carved.field[4, 6:, 4] > 0).all()


def _both(cameras: Cameras):
    return cameras.world_from_camera, cameras.intrinsics


def test_depth_that_agrees_with_the_hull_leaves_it_untouched():
    hull = Grid(np.linspace(-0.1, 0.1, 27, dtype=np.float32).reshape(3, 3, 3), np.zeros(3), 0.1)
    from backend.geometry.fusion import Fused

    same = merge_fused(hull, Fused(hull.field - np.float32(0.004), np.ones_like(hull.field)))
    assert np.array_equal(same.field, hull.field)


def test_steps_around_a_pillar_go_and_its_width_stays():
    cell = 0.01
    x, y, z = np.meshgrid(*(np.arange(-40, 41) * cell,) * 3, indexing="ij")
    steps = 0.2 + 1.5 * cell * np.sign(np.sin(2 * np.pi * z / (6 * cell)))
    stepped = Grid((steps - np.hypot(x, y)).astype(np.float32), np.full(3, -40 * cell), cell)
    level = without_terraces(stepped, 3.0)
    widths = []
    for grid in (stepped, level):
        inside = np.clip(grid.field[40:, 40] / cell + 0.5, 0, 1).sum(axis=0)[20:61]  # along +x, in cells
        widths.append((inside.mean(), np.ptp(inside)))
    (mean_before, step_before), (mean_after, step_after) = widths
    assert step_before > 2.9
    assert step_after < 0.2 * step_before
    assert abs(mean_after - mean_before) < 0.1
    far = np.abs(stepped.field) >= 4 * cell
    np.testing.assert_array_equal(level.field[far], stepped.field[far])


@pytest.mark.parametrize("stride", [2, 4])
def test_the_sweep_finds_a_textured_ball_inside_a_larger_one_at_either_stride(stride):
    size, middle = 128, np.zeros(3)
    cameras = ring(16, radius=2.0, elevation_degrees=12, fov_degrees=40, size=size)
    ball = trimesh.creation.icosphere(4, radius=0.5)
    views = render_views(np.asarray(ball.vertices), np.asarray(ball.faces), cameras)
    gray = np.ascontiguousarray(views.rgba[..., :3].mean(axis=-1) * views.rgba[..., 3])
    sweep = prepare(gray, signed_distances(views.alpha, np.arange(16)), cameras, middle, np.ones(16))
    small = cameras.resized(size // stride, size // stride)

    def depth_of(radius):
        solid = trimesh.creation.icosphere(4, radius=radius)
        camera = small.world_from_camera[3], small.intrinsics[3], small.width, small.height
        drawn = rasterize_mesh(np.asarray(solid.vertices), np.asarray(solid.faces), *camera)
        return np.where(drawn.face >= 0, drawn.depth, 0).astype(np.float32), drawn.interpolate(
            np.asarray(solid.vertices) @ small.world_from_camera[3, :3, :3], np.asarray(solid.faces)
        )

    entry, normal = depth_of(0.55)
    truth, _ = depth_of(0.5)
    normal = np.ascontiguousarray(normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6))
    leave = np.where(entry > 0, np.float32(9), 0)
    found = sweep_view(sweep, 3, entry, leave, entry, normal.astype(np.float32), 0.15, middle, stride=stride)
    clear = (found.score > 0.6) & (truth > 0)
    assert found.depth.shape == (size // stride, size // stride)
    assert clear.sum() > 0.5 * (truth > 0).sum()
    error = np.abs(found.depth - truth)[clear]
    step = sweep_step(sweep, 3, 2.0)
    assert np.median(error) < step / 10, np.median(error) / step
