"""Upsampling: sizes, cameras and depth follow; what was consistent stays so."""

import dataclasses

import numpy as np

from backend.geometry.cameras import ring
from backend.pipeline.options import RefineOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views
from backend.stages.refine import run as refine
from backend.stages.refine.upsample import UpsampleRefine


def smooth(size: int) -> np.ndarray:
    at = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(at, at)
    alpha = np.clip((0.35 - np.hypot(x - 0.5, y - 0.5)) * size + 0.5, 0, 1)
    return np.dstack([0.5 + 0.3 * np.sin(9 * x), 0.5 + 0.3 * np.cos(7 * y), x, alpha]).astype(np.float32)


def views(size: int, count: int = 3) -> Views:
    cameras = ring(count, radius=3, elevation_degrees=0, fov_degrees=25, size=size)
    depth = np.where(smooth(size)[..., 3] > 0, 2.5, np.inf).astype(np.float32)
    return Views(
        np.stack([smooth(size)] * count),
        cameras,
        np.array([1, 0.5, 0.5], np.float32),
        np.stack([depth] * count),
    )


def context() -> StageContext:
    return StageContext("refine", UpsampleRefine(), "upsample")


def run(orbit: Views, size: int, cutout: np.ndarray) -> Views:
    options = dataclasses.replace(RefineOptions(), size=size)
    return refine.run(cutout=Picture(cutout), orbit=orbit, options=options, context=context())


def test_views_of_the_final_size_pass_unchanged():
    orbit = views(64)
    assert run(orbit, 64, smooth(64)) is orbit


def test_front_view_is_the_full_size_cut_out():
    result = run(views(64), 128, smooth(128))
    np.testing.assert_array_equal(smooth(128), result.rgba[0])


def test_upsampled_views_match_the_picture_sampled_finer():
    result = run(views(128), 256, smooth(256))
    truth, solid = smooth(256), smooth(256)[..., 3] > 0.99
    for index in (1, 2):
        assert np.abs(result.rgba[index] - truth)[solid].mean() < 0.01
        a, b = result.rgba[index][..., 3] > 0.5, truth[..., 3] > 0.5
        assert (a & b).sum() / (a | b).sum() > 0.985


def test_equal_views_stay_equal_and_within_range():
    result = run(views(64), 160, smooth(160))
    np.testing.assert_array_equal(result.rgba[1], result.rgba[2])
    assert result.rgba.min() >= 0 and result.rgba.max() <= 1


def test_cameras_and_depth_follow_and_depth_is_never_mixed_with_nothing():
    orbit = views(64)
    result = run(orbit, 128, smooth(128))
    assert (result.cameras.width, result.cameras.height) == (128, 128)
    np.testing.assert_allclose(2 * orbit.cameras.intrinsics[:, 0, 0], result.cameras.intrinsics[:, 0, 0])
    assert set(np.unique(result.depth)) == {np.float32(2.5), np.float32(np.inf)}
    np.testing.assert_array_equal(orbit.confidence, result.confidence)


def test_colours_beyond_the_silhouette_do_not_bleed_in():
    orbit = views(64)
    rgba = orbit.rgba.copy()
    rgba[..., :3] = np.where(rgba[..., 3:] > 0, np.float32([0.8, 0.2, 0.2]), np.float32([0, 1, 0]))
    result = run(dataclasses.replace(orbit, rgba=rgba), 128, smooth(128))
    visible = result.rgba[1][..., 3] > 0.05
    np.testing.assert_allclose(
        np.broadcast_to([0.8, 0.2, 0.2], result.rgba[1][visible][:, :3].shape),
        result.rgba[1][visible][:, :3],
        atol=0.02,
    )
