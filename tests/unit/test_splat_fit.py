"""The splats stage on a small coloured ball: start, fit, determinism, cancel, refusals."""

import threading
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from backend.geometry import (
    harmonics,
    photometric,
    splat_adam,
    splat_pixels_simd,
    splat_projection_simd,
    splat_tiles_simd,
)
from backend.geometry.cameras import ring
from backend.geometry.parallel import _pool
from backend.geometry.rasterize import rasterize
from backend.geometry.splat_parameters import prune
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import make_targets, resize_views
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.splats import run
from backend.stages.splats.cpu import CpuSplats
from backend.stages.splats.init import colors_from_views, sample_surface, start_on_hull
from shared_protocol.errors import Cancelled, InvalidInput, StageFailed

OPTIONS = SplatsOptions(gaussians=1500, steps=60, size=80)


@cache
def _ball(size: int = 80, color: str = "stripes") -> Views:
    """Eight exact views of a ball of radius 0.4 with 4x4 samples a pixel; `color` stripes or white."""
    cameras = ring(8, radius=2.2, elevation_degrees=12, fov_degrees=32, size=size)
    fine = cameras.resized(4 * size, 4 * size)
    y, x = np.mgrid[0 : 4 * size, 0 : 4 * size] + 0.5
    rgba = np.zeros((8, 4 * size, 4 * size, 4), dtype=np.float32)
    for i in range(8):
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(fine.intrinsics[i]).T
        rays = rays @ fine.world_from_camera[i, :3, :3].T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        centre = fine.centres[i]
        along = -(rays @ centre)
        inside = along**2 - centre @ centre + 0.4**2
        hit = inside > 0
        point = centre + rays * (along - np.sqrt(np.maximum(inside, 0)))[..., None]
        shade = 0.5 + 0.4 * np.sin(np.array([9.0, 7.0, 8.0]) * point + np.array([0, 1, 2]))
        rgba[i, ..., :3] = np.where(hit[..., None], 1.0 if color == "white" else shade, 0)
        rgba[i, ..., 3] = hit
    return Views(resize_views(rgba, size), cameras)


def _context(seed: int = 0, **changes) -> StageContext:
    return StageContext("splats", CpuSplats(), "cpu", seed=seed, **changes)


def test_the_fit_shows_the_views_and_reports_how_well():
    words = []
    context = _context(on_step=lambda done, total, text: words.append((done, total, text)))
    splats = run.run(views=_ball(), options=OPTIONS, context=context)
    # Measured 40.5 dB (32.1 before the first step).
    assert context.facts["fit_psnr"] > 38
    assert context.facts["gaussians"] == len(splats) > 1000
    assert context.facts["steps"] == 60
    assert words[-1][:2] == (60, 60)
    assert words[-1][2].startswith("Fitting 1,500 Gaussians, step 60 of 60, 4")
    np.testing.assert_allclose(np.linalg.norm(splats.rotations, axis=1), 1, atol=1e-5)
    # Centres stay a little below the surface of the ball: a Gaussian has a thickness.
    radius = np.linalg.norm(splats.positions, axis=1)
    assert np.median(radius) == pytest.approx(0.38, abs=0.015)


def _bytes(seed: int) -> bytes:
    options = replace(OPTIONS, steps=12)
    splats = run.run(views=_ball(), options=options, context=_context(seed))
    return splats.to_files()["splats.npz"]


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    first = _bytes(7)
    for threads in ("1", "2", "4"):
        monkeypatch.setenv("ORRERY_THREADS", threads)
        _pool.cache_clear()
        assert _bytes(7) == first
    assert _bytes(8) != first
    monkeypatch.undo()
    _pool.cache_clear()


def test_a_white_object_stays_inside_its_silhouette_on_a_white_background():
    views = _ball(color="white")
    splats = run.run(views=views, options=replace(OPTIONS, steps=40), context=_context())
    alpha = rasterize(splats, views.cameras.take([0])).alpha[0]
    mask = views.rgba[0, ..., 3]
    # Measured 0.0016 and 0.9985.
    assert np.abs(alpha - mask).mean() < 0.005
    assert alpha[mask == 1].mean() > 0.99


def test_cancel_stops_between_two_steps():
    cancelled = threading.Event()

    def on_step(done: int, total: int, text: str) -> None:
        if done == 3:
            cancelled.set()
        assert done <= 3

    with pytest.raises(Cancelled):
        run.run(views=_ball(), options=OPTIONS, context=_context(cancelled=cancelled, on_step=on_step))


@pytest.mark.parametrize("degree", [1, 3])
def test_view_dependent_colour_can_be_fitted(degree):
    context = _context()
    options = replace(OPTIONS, steps=20, sh_degree=degree)
    splats = run.run(views=_ball(), options=options, context=context)
    assert splats.harmonics.shape[1] == (degree + 1) ** 2
    assert np.abs(splats.harmonics[:, 1:]).max() > 0
    # Measured 36.2 dB.
    assert context.facts["fit_psnr"] > 34


def test_views_larger_than_the_fit_are_judged_at_their_own_size():
    context = _context()
    run.run(views=_ball(120), options=replace(OPTIONS, steps=20), context=context)
    # Measured 29.2 dB; 36.1 at the size of the fit.
    assert 27 < context.facts["fit_psnr"] < 34


def test_a_weight_for_the_missing_perceptual_term_is_a_warning_not_a_fake(tmp_path, monkeypatch):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    context = _context()
    run.run(views=_ball(), options=replace(OPTIONS, steps=1, perceptual=2.0), context=context)
    assert "perceptual" in context.warnings[0]


@pytest.mark.parametrize("change", [{"gaussians": 0}, {"steps": -1}, {"size": 4}, {"sh_degree": 4}])
def test_options_out_of_range_are_refused(change):
    with pytest.raises(InvalidInput, match="splats options"):
        run.run(views=_ball(), options=replace(OPTIONS, **change), context=_context())


def test_empty_views_fail_in_words():
    views = _ball()
    empty = Views(np.zeros_like(views.rgba), views.cameras)
    with pytest.raises(StageFailed):
        run.run(views=empty, options=OPTIONS, context=_context())


def test_one_empty_view_among_good_ones_is_left_out():
    views = _ball()
    rgba = views.rgba.copy()
    rgba[3] = 0
    assert len(make_targets(Views(rgba, views.cameras), 80)) == 7


def test_targets_are_crops_seen_by_the_same_camera():
    views = _ball(200)
    target = make_targets(views, 200)[2]
    assert target.height < 200
    # The ball's centre is the middle of the crop as it is the middle of the picture.
    centre = views.cameras.take([2]).project(np.zeros((1, 3)))[0][0, 0]
    moved = target.intrinsics @ (np.linalg.inv(target.world_from_camera)[:3, 3])
    left_top = views.cameras.intrinsics[2][:2, 2] - target.intrinsics[:2, 2]
    np.testing.assert_allclose(moved[:2] / moved[2] + left_top, centre, atol=1e-9)
    x, y = left_top.astype(int)
    crop = views.rgba[2, y : y + target.height, x : x + target.width]
    np.testing.assert_array_equal(target.planes[3], crop[..., 3])
    assert views.rgba[2, ..., 3].sum() == pytest.approx(target.planes[3].sum(), rel=1e-6)


def test_the_start_lies_on_the_hull_in_the_colours_of_the_views():
    views = _ball()
    start = start_on_hull(views, OPTIONS, _context())
    radius = np.linalg.norm(start.gaussians.positions, axis=1)
    # Centres lie 0.6 mean distances (0.022 m) below the surface.
    assert np.median(radius) == pytest.approx(0.38, abs=0.01)
    assert start.extent == pytest.approx(0.85, abs=0.1)
    shown = start.gaussians.harmonics[:, 0] * harmonics.SH0 + 0.5
    truth = 0.5 + 0.4 * np.sin(np.array([9.0, 7.0, 8.0]) * start.gaussians.positions + np.array([0, 1, 2]))
    # Eight views leave the hull pointed at the poles; the rest of the ball is right.
    equator = np.abs(start.gaussians.positions[:, 2]) < 0.25
    assert np.abs(shown - truth)[equator].mean() < 0.06


def test_depth_that_comes_with_the_views_carves_a_hollow_no_silhouette_shows():
    """A box with a deep dent in its top, seen from above: the hull alone fills the dent."""
    import trimesh

    from backend.geometry.mesh_raster import rasterize_mesh

    box = trimesh.creation.box([0.8, 0.8, 0.5])
    walls = [
        trimesh.creation.box(
            [0.8, 0.1, 0.4], transform=trimesh.transformations.translation_matrix([0, y, 0.4])
        )
        for y in (-0.35, 0.35)
    ] + [
        trimesh.creation.box(
            [0.1, 0.8, 0.4], transform=trimesh.transformations.translation_matrix([x, 0, 0.4])
        )
        for x in (-0.35, 0.35)
    ]
    bowl = trimesh.util.concatenate([box, *walls])
    cameras = ring(8, radius=3.0, elevation_degrees=50, fov_degrees=35, size=96)
    depth = np.stack(
        [
            rasterize_mesh(np.asarray(bowl.vertices), np.asarray(bowl.faces), pose, k, 96, 96).depth
            for pose, k in zip(cameras.world_from_camera, cameras.intrinsics, strict=True)
        ]
    )
    rgba = np.full((8, 96, 96, 4), 0.5, dtype=np.float32)
    rgba[..., 3] = np.isfinite(depth)

    def in_the_dent(views: Views) -> int:
        x, y, z = start_on_hull(views, OPTIONS, _context()).gaussians.positions.T
        return int(((np.abs(x) < 0.2) & (np.abs(y) < 0.2) & (z > 0.4)).sum())

    assert in_the_dent(Views(rgba, cameras)) > 50
    assert in_the_dent(Views(rgba, cameras, depth=depth)) == 0


def test_surface_samples_are_even_and_lie_on_the_mesh():
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    points, normals, area = sample_surface(
        np.asarray(ball.vertices), np.asarray(ball.faces), 4000, np.random.default_rng(0)
    )
    assert area == pytest.approx(ball.area)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.5, atol=2e-3)
    assert np.einsum("pc,pc->p", normals, points).min() > 0.49
    octants = np.bincount((points > 0) @ np.array([1, 2, 4]), minlength=8)
    assert np.abs(octants - 500).max() < 25


def test_a_start_of_a_hundred_thousand_gaussians_has_its_colours():
    start = start_on_hull(_ball(), replace(OPTIONS, gaussians=100_000), _context())
    assert len(start.gaussians) == 100_000
    assert np.isfinite(start.gaussians.harmonics).all()


def test_a_hidden_point_does_not_take_the_colour_in_front_of_it():
    import trimesh

    # A red plate before a green one, seen from the front only.
    size = 64
    cameras = ring(1, radius=3.0, elevation_degrees=0, fov_degrees=30, size=size)
    front = trimesh.creation.box([0.6, 0.02, 0.6])
    back = trimesh.creation.box(
        [1.2, 0.02, 1.2], transform=trimesh.transformations.translation_matrix([0, 0.4, 0])
    )
    both = trimesh.util.concatenate([front, back])
    pixels, _ = cameras.project(
        np.array([[-0.6, 0.39, -0.6], [0.6, 0.39, 0.6], [-0.3, -0.01, -0.3], [0.3, -0.01, 0.3]])
    )
    rgba = np.zeros((1, size, size, 4), dtype=np.float32)
    for color, low, high in (((0, 1, 0), *pixels[0, :2]), ((1, 0, 0), *pixels[0, 2:])):
        (x0, x1), (y0, y1) = sorted((low[0], high[0])), sorted((low[1], high[1]))
        rgba[0, round(y0) : round(y1), round(x0) : round(x1)] = (*color, 1)
    points = np.array([[0, -0.01, 0], [0.5, 0.39, 0.5], [0, 0.39, 0.0]])
    normals = np.tile([0.0, -1, 0], (3, 1))
    colors = colors_from_views(
        points, normals, np.asarray(both.vertices), np.asarray(both.faces), Views(rgba, cameras), 0.02
    )
    np.testing.assert_allclose(colors[0], (1, 0, 0), atol=1e-5)
    np.testing.assert_allclose(colors[1], (0, 1, 0), atol=1e-5)


def test_prune_drops_what_cannot_be_seen_or_is_not_a_number():
    ones = np.ones((4, 3))
    rotations = np.tile([2.0, 0, 0, 0], (4, 1))
    positions = ones.copy()
    positions[2, 1] = np.nan
    gaussians = Gaussians(positions, ones, rotations, np.array([0.9, 0.001, 0.9, 0.006]), ones[:, None])
    kept = prune(gaussians)
    np.testing.assert_allclose(kept.opacities, [0.9, 0.006], rtol=1e-6)
    np.testing.assert_allclose(kept.rotations[0], [1, 0, 0, 0])


def test_warm_up_compiles_every_kernel_once_and_a_real_job_compiles_no_other():
    from backend.stages.splats.warmup import warm_up

    kernels = {
        f"{module.__name__}.{name}": value
        for module in (
            splat_adam,
            harmonics,
            photometric,
            splat_pixels_simd,
            splat_projection_simd,
            splat_tiles_simd,
        )
        for name, value in vars(module).items()
        if hasattr(value, "nopython_signatures")
    }
    warm_up()
    warm = {name: len(kernel.nopython_signatures) for name, kernel in kernels.items()}
    # A kernel that only kernels call shows no signature when its caller came from the cache.
    assert set(warm.values()) <= {0, 1}
    assert sum(warm.values()) >= 8
    run.run(views=_ball(), options=replace(OPTIONS, steps=1, sh_degree=2), context=_context())
    assert {name: len(kernel.nopython_signatures) for name, kernel in kernels.items()} == warm
