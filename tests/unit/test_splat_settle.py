"""Gaussians settled on the surface: what no view told them comes from the mesh, what views show stays."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from backend.geometry.cameras import Cameras, ring
from backend.geometry.harmonics import harmonics_from_color
from backend.geometry.mesh_render import over, render_mesh
from backend.geometry.photometric import psnr
from backend.geometry.rasterize import rasterize
from backend.geometry.rotations import quaternions_to_axis_z
from backend.geometry.splat_share import shares_and_backdrop, view_shares
from backend.pipeline.options import ExportOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views
from backend.stages.export.settle import settled
from shared_protocol.errors import Cancelled

RADIUS = 0.4
WHITE = (1.0, 1.0, 1.0)
OPTIONS = ExportOptions(settle_steps=30)


def colors_at(points: np.ndarray) -> np.ndarray:
    """What `textured_ball` shows at points on it: red below, green above."""
    up = np.clip(0.5 + points[:, 2], 0, 1)
    return np.stack([0.9 - 0.7 * up, 0.1 + 0.7 * up, np.full(len(points), 0.3)], axis=1)


def textured_ball() -> TexturedMesh:
    ball = trimesh.creation.icosphere(4, radius=RADIUS)
    row = 1 - (np.arange(64) + 0.5) / 64  # v of the texture's rows; v = .5 + z
    texture = np.repeat(colors_at(np.stack([row * 0, row * 0, row - 0.5], 1))[:, None], 64, axis=1)
    uvs = np.stack([0.5 + ball.vertices[:, 0], 0.5 + ball.vertices[:, 2]], axis=1)[ball.faces]
    mesh = Mesh(ball.vertices.astype(np.float32), ball.faces)
    return TexturedMesh(mesh, uvs.astype(np.float32), texture.astype(np.float32))


def drawn(textured: TexturedMesh, cameras: Cameras) -> Views:
    mesh = textured.mesh
    return Views(render_mesh(mesh.vertices, mesh.faces, textured.uvs, textured.texture, cameras), cameras)


def flat(points: np.ndarray, normals: np.ndarray, colors: np.ndarray, scale: float = 0.02) -> Splats:
    """Discs of these colours at these points."""
    return Splats(
        points, np.tile(scale * np.array([1, 1, 0.25]), (len(points), 1)), quaternions_to_axis_z(normals),
        np.full(len(points), 0.95), harmonics_from_color(colors)[:, None],
    )  # fmt: skip


def joined(first: Splats, second: Splats) -> Splats:
    names = ("positions", "scales", "rotations", "opacities", "harmonics")
    return Splats(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in names))


def shell(least: float = -1.0) -> Splats:
    """Gaussians just below the ball's surface, above this height."""
    normals = np.asarray(trimesh.creation.icosphere(4).vertices)
    normals = normals[normals[:, 2] > least]
    return flat(0.985 * RADIUS * normals, normals, colors_at(RADIUS * normals))


def orbit(size: int = 96) -> Cameras:
    return ring(8, radius=2.0, elevation_degrees=15, fov_degrees=40, size=size)


def from_below() -> Cameras:
    return ring(1, radius=2.0, elevation_degrees=-60, fov_degrees=40, size=96)


def context(seed: int = 0) -> StageContext:
    return StageContext("export", None, "files", seed=seed)


def seen(splats: Splats, cameras: Cameras) -> np.ndarray:
    return rasterize(splats, cameras, background=np.ones(3), differentiable=False).color[0]


def difference(splats: Splats, textured: TexturedMesh, cameras: Cameras) -> float:
    """Mean over the pixels where either is, in percent."""
    mesh = drawn(textured, cameras).rgba[0]
    picture = rasterize(splats, cameras, background=np.ones(3), differentiable=False)
    either = (mesh[..., 3] > 0) | (picture.alpha[0] > 0.05)
    return 100 * float(np.abs(over(mesh, WHITE) - picture.color[0])[either].mean())


def test_confetti_goes_the_bare_underside_is_covered_and_the_views_lose_nothing():
    textured = textured_ball()
    views = drawn(textured, orbit())
    random = np.random.default_rng(0)
    directions = random.normal(size=(120, 3))
    directions[:, 2] = -np.abs(directions[:, 2])  # below, where the views hardly look
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    confetti = flat(0.47 * directions, directions, np.tile([0.1, 0.1, 0.2], (120, 1)))
    before = joined(shell(-0.6), confetti)
    at = context()
    after = settled(before, textured, views, OPTIONS, at)
    assert np.linalg.norm(before.positions, axis=1).max() > 0.46
    assert np.linalg.norm(after.positions, axis=1).max() < 1.03 * RADIUS
    assert difference(after, textured, from_below()) < 0.5 * difference(before, textured, from_below())
    own = views.cameras.take([0])
    picture = over(views.rgba[0], WHITE)
    assert psnr(seen(after, own), picture) > psnr(seen(before, own), picture)
    assert at.facts["settled_away"] >= 120 and at.facts["settled_new"] > 50
    assert at.facts["colors_apart"] < 6 and at.facts["settled_psnr"] > 25


def test_what_the_views_show_and_the_mesh_lacks_is_kept():
    textured = textured_ball()
    rod = trimesh.creation.cylinder(0.05, sections=24, segment=[(0, 0, 0.3), (0, 0, 0.7)])
    vertices = np.concatenate([textured.mesh.vertices, rod.vertices]).astype(np.float32)
    faces = np.concatenate([textured.mesh.faces, rod.faces + len(textured.mesh.vertices)])
    uvs = np.concatenate([textured.uvs, np.full((len(rod.faces), 3, 2), 0.5, np.float32)])
    views = drawn(TexturedMesh(Mesh(vertices, faces), uvs, textured.texture), orbit())
    points, face = trimesh.sample.sample_surface_even(rod, 300, seed=1)
    outside = points[:, 2] > 0.45
    grey = colors_at(np.zeros((int(outside.sum()), 3)))
    on_rod = flat(points[outside], rod.face_normals[face][outside], grey, 0.015)
    after = settled(joined(shell(), on_rod), textured, views, OPTIONS, context())
    assert (after.positions[:, 2] > 0.45).sum() > 0.9 * outside.sum()


def test_without_steps_or_with_a_texture_of_other_colours_the_gaussians_stay_as_they_are():
    textured, splats = textured_ball(), shell()
    views = drawn(textured, orbit(48))
    assert settled(splats, textured, views, replace(OPTIONS, settle_steps=0), context()) is splats
    pale = replace(textured, texture=0.5 + 0.5 * textured.texture)
    assert settled(splats, pale, views, OPTIONS, context()) is splats


def test_the_same_seed_gives_the_same_gaussians_and_views_less_trusted_weigh_less():
    textured, splats = textured_ball(), shell(-0.5)
    views = drawn(textured, orbit(48))
    options = replace(OPTIONS, settle_steps=6)
    first, again, other = (settled(splats, textured, views, options, context(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.positions, again.positions)
    np.testing.assert_array_equal(first.harmonics, again.harmonics)
    assert not np.array_equal(first.harmonics, other.harmonics)
    doubted = replace(
        views,
        confidence=np.array([1] + [0.5] * 7, np.float32),
        pixel_confidence=np.ones(views.rgba.shape[:3], np.float32),
    )
    weighed = settled(splats, textured, doubted, options, context())
    assert not np.array_equal(first.harmonics, weighed.harmonics)


def test_settling_is_cancelled_between_steps():
    textured = textured_ball()
    at = context()
    at.cancelled = threading.Event()
    at.on_step = lambda done, total, text: at.cancelled.set() if done > 3 else None
    with pytest.raises(Cancelled):
        settled(shell(), textured, drawn(textured, orbit(48)), replace(OPTIONS, settle_steps=500), at)


def test_black_gaussians_have_their_share_too():
    """A colour that is cut off at 0 has no gradient."""
    cameras = orbit(64)
    normals = np.asarray(trimesh.creation.icosphere(3).vertices)
    black = flat(RADIUS * normals, normals, np.full((len(normals), 3), -0.2), 0.03)
    share = view_shares(black, cameras, lambda view: None)
    turned_to_cameras = normals[:, 2] > -0.5
    assert (share[turned_to_cameras] > 0).mean() > 0.95
    alpha = rasterize(black, cameras, background=np.zeros(3), differentiable=False).alpha
    assert share.sum() * 0.2820948**-1 == pytest.approx(alpha.sum(), rel=0.01)


def test_white_gaussians_beside_the_object_are_backdrop_and_go():
    """White discs in front of the object are paint, and dark ones beside it a part that a view may lack."""
    textured = textured_ball()
    views = drawn(textured, orbit(64))
    up = np.array([[0.0, 0.0, 1.0]])
    beside, before = np.array([[0, 0, RADIUS + 0.03]]), np.array([[0, -RADIUS - 0.01, 0]])
    white, dark = np.full((1, 3), 0.95), np.full((1, 3), 0.2)
    extra = joined(joined(flat(beside, up, white), flat(before, -up, white)), flat(beside + 0.01, up, dark))
    splats = joined(shell(), extra)
    share, backdrop = shares_and_backdrop(splats, views, lambda view: None)
    np.testing.assert_array_equal(np.flatnonzero(backdrop), [len(splats) - 3])
    np.testing.assert_array_equal(share, view_shares(splats, views.cameras, lambda view: None))
