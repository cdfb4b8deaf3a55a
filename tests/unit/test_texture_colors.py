"""Colours of the texture on scenes with known answers: levels, outliers, Gaussians, the fit to the views."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from backend.geometry.cameras import Cameras, ring
from backend.geometry.looks import LOOKS
from backend.geometry.mesh_render import over, render_mesh
from backend.geometry.rasterize import rasterize
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views
from backend.stages.texture.atlas import Texels, lay_out_texels, unwrap
from backend.stages.texture.levelling import level_views
from backend.stages.texture.optimise import _gather, _scatter, optimise
from backend.stages.texture.project import ProjectTexture, project_views, view_trust
from backend.stages.texture.projection import blend, sample_views
from backend.stages.texture.run import run
from backend.stages.texture.sources import NOTHING, prepare_sources, quantize_depth
from backend.stages.texture.splat_views import seen_splats, splat_views
from tests.support.solids import render_views as render_solid
from tests.support.solids import solid_texture

NO_SPLATS = Splats(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 1, 3)))


def _context() -> StageContext:
    return StageContext("texture", ProjectTexture(), "project")


def _ball(radius: float = 0.4, subdivisions: int = 4) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(sphere.vertices, sphere.faces)


def _ring(views: int = 8, size: int = 96, elevation: float = 15.0) -> Cameras:
    return ring(views, radius=3.0, elevation_degrees=elevation, fov_degrees=25.0, size=size)


def _painted(views: Views, color: tuple[float, ...]) -> Views:
    rgba = views.rgba.copy()
    rgba[..., :3] = color
    return Views(rgba, views.cameras)


def _texels(mesh: Mesh, size: int = 128) -> tuple[Texels, np.ndarray]:
    uvs, _ = unwrap(mesh, size, _context())
    return lay_out_texels(mesh, uvs, size), uvs


@pytest.fixture(scope="module")
def ball() -> tuple[Mesh, Views, Texels]:
    mesh = _ball()
    return mesh, render_solid(mesh.vertices, mesh.faces, _ring()), _texels(mesh)[0]


def _levels(mesh: Mesh, views: Views, texels: Texels) -> np.ndarray:
    sources = prepare_sources(mesh, views, lambda view: None)
    return level_views(sample_views(texels, sources, 0.8), view_trust(views))


def test_a_view_five_percent_brighter_is_found_out_and_the_seam_it_makes_goes(ball):
    mesh, views, texels = ball
    grey = _painted(views, (0.5, 0.4, 0.6))
    rgba = grey.rgba.copy()
    rgba[3, ..., :3] *= 1.05
    uneven = Views(rgba, views.cameras)
    levels = _levels(mesh, uneven, texels)
    relative = levels[:, 0] / levels[[1, 2, 4, 5, 6, 7], 0].mean(axis=0)
    # The prior keeps a twentieth of it.
    np.testing.assert_allclose(1 / relative[3], 1.05, atol=0.012)
    np.testing.assert_allclose(relative[[1, 2, 4, 5, 6, 7]], 1, atol=0.006)
    np.testing.assert_array_equal(levels[0], [[1, 1, 1], [0, 0, 0]])  # the user's picture stays

    def roughness(levels: np.ndarray) -> float:
        """The colour is one: all variation over the surface is what seams are made of."""
        sources = prepare_sources(mesh, uneven, lambda view: None)
        out = blend(texels, sources, np.ones(8, np.float32), levels, 0.8, lambda: None)
        return float(out[out[:, 3] > 0.05, :3].std(axis=0).mean())

    plain = np.zeros_like(levels)
    plain[:, 0] = 1
    assert roughness(levels) < 0.35 * roughness(plain)  # measured: 0.16


def test_views_that_agree_are_left_as_they_are(ball):
    mesh, views, texels = ball
    levels = _levels(mesh, views, texels)
    np.testing.assert_allclose(levels[:, 0], 1, atol=0.01)
    np.testing.assert_allclose(levels[:, 1], 0, atol=0.01)


def test_levels_of_views_that_share_nothing_are_ones():
    samples = np.zeros((10, 3, 4), dtype=np.float32)
    samples[:, 0] = 0.5
    levels = level_views(samples, np.ones(3, dtype=np.float32))
    np.testing.assert_array_equal(levels[:, 0], 1)
    np.testing.assert_array_equal(levels[:, 1], 0)


def test_one_view_that_shows_something_else_does_not_ghost():
    mesh = _ball()
    texels, _ = _texels(mesh)
    grey = _painted(render_solid(mesh.vertices, mesh.faces, _ring(16)), (0.2, 0.5, 0.3))
    rgba = grey.rgba.copy()
    rgba[5, :, 30:60, :3] = (1.0, 0.0, 1.0)
    wrong = Views(rgba, grey.cameras)
    samples = sample_views(texels, prepare_sources(mesh, wrong, lambda view: None), 0.8)
    sure = (samples[..., 3] > 0.01).sum(axis=1) > 3
    colors, _ = project_views(mesh, wrong, texels, lambda text: None)
    off = np.abs(colors[sure, :3] - (0.2, 0.5, 0.3)).max(axis=1)
    assert np.quantile(off, 0.99) < 0.05  # measured: 0.02; without silencing 0.5
    assert sure.mean() > 0.3


def test_depth_is_kept_to_a_hundred_thousandth_of_its_range():
    depth = np.array([[1.0, 1.5], [np.inf, 3.0]], dtype=np.float32)
    steps, (near, step) = quantize_depth(depth)
    np.testing.assert_allclose(near + step * steps[np.isfinite(depth)], depth[np.isfinite(depth)], atol=2e-5)
    assert steps[1, 0] == NOTHING
    assert (quantize_depth(np.full((2, 2), np.inf))[0] == NOTHING).all()


def _shell_of_splats(radius: float, color_of) -> Splats:
    """Flat Gaussians on a sphere, opaque together."""
    points = trimesh.creation.icosphere(subdivisions=4, radius=radius).vertices
    count = len(points)
    harmonics = (color_of(points) - 0.5)[:, None] / 0.28209479177387814
    # Flat on the sphere: their own Z is turned to the normal.
    x, y, z = (points / radius + 1e-6).T
    rotations = np.column_stack([1 + z, -y, x, np.zeros(count)])
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    scales = np.tile([0.02, 0.02, 0.002], (count, 1))
    return Splats(points, scales, rotations, np.full(count, 0.99), harmonics)


def _halves(points: np.ndarray) -> np.ndarray:
    """Blue on the side away from the cameras, yellow towards them."""
    return np.where(points[:, 1:2] > 0, [[0.1, 0.2, 0.8]], [[0.8, 0.7, 0.1]])


def test_what_no_view_sees_takes_the_colour_that_the_gaussians_have_there():
    mesh = _ball()
    # Two views; the one from behind is dark in the mesh's trust alone, the Gaussians were fitted to both.
    cameras = _ring(2)
    views = _painted(render_solid(mesh.vertices, mesh.faces, cameras), (0.8, 0.7, 0.1))
    views = replace(views, confidence=np.array([1, 0], dtype=np.float32))
    options = TextureOptions(size=128, optimise=False)
    splats = _shell_of_splats(0.39, _halves)
    with_them, without = _context(), _context()
    seen = run(views=views, splats=splats, mesh=mesh, options=options, context=with_them)
    blind = run(views=views, splats=NO_SPLATS, mesh=mesh, options=options, context=without)
    back = ring(1, radius=3.0, elevation_degrees=10, fov_degrees=25, size=96, first_azimuth_degrees=180)
    picture, guess = (
        render_mesh(mesh.vertices, mesh.faces, baked.uvs, baked.texture, back)[0, 40:56, 40:56, :3]
        for baked in (seen, blind)
    )
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), (0.1, 0.2, 0.8), atol=0.03)
    assert guess[..., 2].mean() < 0.2
    assert with_them.facts["coverage_with_splats"] > with_them.facts["coverage_seen"] + 0.1
    assert "coverage_with_splats" not in without.facts


def test_gaussians_that_are_not_at_the_surface_are_not_believed():
    mesh = _ball()
    views = _painted(render_solid(mesh.vertices, mesh.faces, _ring(8)), (0.8, 0.7, 0.1))

    def trusted(radius: float) -> np.ndarray:
        pictures = splat_views(_shell_of_splats(radius, _halves), mesh, views, lambda view: None)
        assert len(pictures) == len(LOOKS)
        middle = np.s_[:6, 44:52, 44:52]  # the looks from above
        assert pictures.rgba[..., 3][middle].min() > 0.9
        return pictures.pixel_confidence[middle]

    assert trusted(0.55).max() < 0.01
    assert trusted(0.4).min() > 0.9


def test_gaussians_that_no_view_shows_are_not_believed():
    mesh = _ball()
    views = _painted(render_solid(mesh.vertices, mesh.faces, _ring(1)), (0.8, 0.7, 0.1))
    shell = _shell_of_splats(0.39, _halves)
    seen = seen_splats(shell, views, lambda view: None)
    assert 0.2 < len(seen) / len(shell) < 0.6
    assert seen.positions[:, 1].max() < 0.1  # the camera looks along +Y
    options = TextureOptions(size=128, optimise=False)
    baked = run(views=views, splats=shell, mesh=mesh, options=options, context=_context())
    back = ring(1, radius=3.0, elevation_degrees=0, fov_degrees=25, size=96, first_azimuth_degrees=180)
    picture = render_mesh(mesh.vertices, mesh.faces, baked.uvs, baked.texture, back)[0, 40:56, 40:56, :3]
    assert picture[..., 2].mean() < 0.45  # measured: 0.34; not the blue that the Gaussians have there


def test_the_mesh_has_the_colours_of_gaussians_that_fit_the_views():
    mesh = _ball()
    cameras = _ring(8)
    splats = _shell_of_splats(0.395, lambda p: np.clip(p + 0.5, 0, 1))
    drawn = rasterize(splats, cameras, background=(0, 0, 0), differentiable=False)
    alpha = drawn.alpha[..., None]
    rgba = np.concatenate([np.clip(drawn.color / np.maximum(alpha, 1e-3), 0, 1), alpha.clip(0, 1)], axis=-1)
    baked = run(
        views=Views(rgba.astype(np.float32), cameras), splats=splats, mesh=mesh,
        options=TextureOptions(size=256), context=_context(),
    )  # fmt: skip
    for elevation in (0.0, 15.0, 40.0):
        around = _ring(4, elevation=elevation)
        ours = render_mesh(mesh.vertices, mesh.faces, baked.uvs, baked.texture, around)
        theirs = rasterize(splats, around, differentiable=False)
        both = (ours[..., 3] > 0.99) & (theirs.alpha > 0.95)
        assert np.abs(ours[..., :3] - theirs.color)[both].mean() < 0.02  # measured: 0.006


def test_reading_the_grid_and_its_transpose_are_adjoint():
    random = np.random.default_rng(0)
    grid, side = 16, 20
    shown = random.random((side, side)) < 0.75
    row, column = np.nonzero(shown)
    row = np.searchsorted(row, np.arange(side + 1)).astype(np.int32)
    left, top = random.integers(0, grid - 1, (2, len(column))).astype(np.uint32)
    along, down, red, green, blue = random.integers(0, 64, (5, len(column))).astype(np.uint32)
    lookup = row, column.astype(np.uint16), (top * grid + left) << 12 | along << 6 | down
    change = random.standard_normal(grid * grid).astype(np.float32)
    slope = random.standard_normal((side, side)).astype(np.float32)
    black, out = np.zeros_like(left), np.zeros((side, side), np.float32)
    back = np.zeros(grid * grid, np.float32)
    _gather(change, grid, *lookup, black, 0, out)
    _scatter(slope, grid, *lookup, back)
    assert float((slope * out).sum()) == pytest.approx(float(back @ change), rel=1e-4)
    # A grid that is linear in its columns is read exactly, and each colour from its own bits.
    ramp, colors = np.tile(np.arange(grid, dtype=np.float32), grid), red << 20 | green << 10 | blue
    for shift, color in ((20, red), (10, green), (0, blue)):
        _gather(ramp, grid, *lookup, colors, shift, out)
        np.testing.assert_allclose(out[shown], left + along / 63 + color / 1023, atol=1e-5)
    assert (out[~shown] == 0).all()


def test_the_fit_brings_a_wrong_texture_nearer_to_views_and_to_views_it_never_saw(ball):
    mesh, views, _ = ball
    uvs, _ = unwrap(mesh, 128, _context())
    texels = lay_out_texels(mesh, uvs, 128)
    texture = np.full((128, 128, 3), 0.5, dtype=np.float32)
    truth = solid_texture(texels.positions.astype(np.float64))
    texture.reshape(-1, 3)[texels.index] = 0.7 * truth + 0.3 * np.roll(truth, 40, axis=0)
    wrong = TexturedMesh(mesh, uvs, texture)
    context = _context()
    fitted = optimise(wrong, views, view_trust(views), context, epochs=10)
    assert fitted.shape == texture.shape and fitted.min() >= 0 and fitted.max() <= 1
    held = render_solid(mesh.vertices, mesh.faces, _ring(4, elevation=25.0))
    white = (1.0, 1.0, 1.0)

    def error(texture: np.ndarray, views: Views) -> float:
        drawn = render_mesh(mesh.vertices, mesh.faces, uvs, texture, views.cameras)
        return float(np.mean((over(drawn, white) - over(views.rgba, white)) ** 2))

    assert error(fitted, views) < 0.3 * error(texture, views)
    assert error(fitted, held) < 0.5 * error(texture, held)
    assert context.facts["texture_error_after"] < 0.5 * context.facts["texture_error_before"]
    np.testing.assert_array_equal(fitted, optimise(wrong, views, view_trust(views), _context(), epochs=10))


def test_the_fit_stays_in_range_when_views_are_black_and_white():
    mesh = _ball(subdivisions=3)
    views = render_solid(mesh.vertices, mesh.faces, _ring(4))
    rgba = views.rgba.copy()
    rgba[..., :3] = np.where(rgba[..., :3] > 0.5, 1.0, 0.0)
    options = TextureOptions(size=64)
    baked = run(
        views=Views(rgba, views.cameras), splats=NO_SPLATS, mesh=mesh, options=options, context=_context()
    )
    assert baked.texture.min() >= 0 and baked.texture.max() <= 1


def test_a_fit_to_views_that_see_nothing_changes_nothing():
    mesh = _ball(subdivisions=2)
    uvs, _ = unwrap(mesh, 64, _context())
    texture = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    blind = Views(np.zeros((2, 48, 48, 4), dtype=np.float32), _ring(2, size=48))
    fitted = optimise(TexturedMesh(mesh, uvs, texture), blind, np.ones(2, np.float32), _context())
    np.testing.assert_array_equal(fitted, texture)
