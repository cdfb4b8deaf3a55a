"""The texture stage on scenes with exact answers."""

import hashlib

import numpy as np
import pytest
import trimesh

from backend.geometry import mesh_raster, mesh_render
from backend.geometry.cameras import Cameras, ring
from backend.geometry.mesh_render import over, render_mesh
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views
from backend.stages.texture import optimise, projection
from backend.stages.texture.atlas import lay_out_texels
from backend.stages.texture.project import ProjectTexture, project_views
from backend.stages.texture.run import run
from backend.stages.texture.warmup import warm_up
from shared_protocol.conventions import look_at
from tests.support.scenes import lopsided_figure, render_views

NO_SPLATS = Splats(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 1, 3)))


def _context() -> StageContext:
    return StageContext("texture", ProjectTexture(), "project")


def _figure() -> Mesh:
    # Fine triangles: colours are linear in a triangle, so that textures and corners agree.
    mesh = lopsided_figure()
    fine = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True).subdivide_to_size(0.06)
    return Mesh(fine.vertices, fine.faces)


def _ring(views: int = 8, size: int = 128, elevation: float = 15.0) -> Cameras:
    return ring(views, radius=3.0, elevation_degrees=elevation, fov_degrees=25.0, size=size)


def _bake(mesh: Mesh, views: Views, size: int = 256) -> tuple[TexturedMesh, StageContext]:
    context = _context()
    baked = run(views=views, splats=NO_SPLATS, mesh=mesh, options=TextureOptions(size=size), context=context)
    return baked, context


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def baked_figure() -> tuple[TexturedMesh, StageContext, Views]:
    mesh = _figure()
    views = render_views(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), _ring())
    return *_bake(mesh, views), views


def test_a_baked_mesh_repeats_the_views_and_views_it_was_not_made_from(baked_figure):
    baked, context, views = baked_figure
    mesh = baked.mesh
    held = render_views(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), _ring(3, elevation=25.0))
    white = (1, 1, 1)
    for source, bar in ((views, 40), (held, 36)):  # measured: 46 and 41 dB
        pictures = render_mesh(mesh.vertices, mesh.faces, baked.uvs, baked.texture, source.cameras)
        assert _psnr(over(pictures, white), over(source.rgba, white)) > bar
    assert context.facts["front_psnr"] > 40
    assert context.facts["silhouette_iou"] > 0.99
    assert not context.warnings
    assert 0.5 < context.facts["coverage_seen"] < 1
    assert context.facts["charts"] >= 1


def test_the_geometry_is_untouched_and_uvs_lie_in_the_unit_square(baked_figure):
    baked, _, _ = baked_figure
    np.testing.assert_array_equal(baked.mesh.vertices, _figure().vertices)
    assert baked.uvs.dtype == np.float32
    assert baked.uvs.min() >= 0 and baked.uvs.max() <= 1
    assert baked.texture.shape == (256, 256, 3)


def test_charts_do_not_overlap(baked_figure):
    baked, _, _ = baked_figure
    uv = baked.uvs.astype(np.float64) * 1024
    edges = uv[:, 1:] - uv[:, :1]
    area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]).sum() / 2
    covered = len(lay_out_texels(baked.mesh, baked.uvs, 1024))
    assert covered == pytest.approx(area, rel=0.01)


def test_the_same_input_gives_the_same_bytes(baked_figure):
    baked, _, views = baked_figure
    again, _ = _bake(baked.mesh, views)
    one, two = (hashlib.sha256(value.to_files()["textured_mesh.npz"]).hexdigest() for value in (baked, again))
    assert one == two


def test_kernels_compile_once_and_warming_up_compiles_just_those(baked_figure):
    warm_up()
    for kernel in (
        mesh_raster._cover_rows,
        mesh_raster._weigh_rows,
        mesh_render._resolve_rows,
        projection._blend,
        projection._sample,
        optimise._gather,
        optimise._scatter,
        optimise._adam,
    ):
        assert len(kernel.signatures) == 1, kernel


def _two_sheets() -> tuple[Mesh, np.ndarray]:
    """A wall in the plane y = 0.2 behind a smaller screen at y = -0.2, finely cut; UVs side by side."""
    sheets, uvs = [], []
    for side, y, left in ((0.9, 0.2, 0.02), (0.4, -0.2, 0.52)):
        axis = np.linspace(-0.5, 0.5, 9)
        x, z = (a.ravel() for a in np.meshgrid(axis, axis))
        corner = np.arange(64).reshape(8, 8)
        corner = (corner + np.arange(8)[:, None]).ravel()
        faces = np.vstack(
            [
                np.stack([corner, corner + 1, corner + 10], axis=1),
                np.stack([corner, corner + 10, corner + 9], axis=1),
            ]
        )
        sheets.append((np.column_stack([x * side, np.full_like(x, y), z * side]), faces))
        uvs.append((np.column_stack([left + (x + 0.5) * 0.45, (z + 0.5) * 0.9 + 0.05]))[faces])
    vertices = np.vstack([s[0] for s in sheets])
    faces = np.vstack([sheets[0][1], sheets[1][1] + len(sheets[0][0])])
    return Mesh(vertices, faces), np.concatenate(uvs).astype(np.float32)


def test_what_stands_in_front_does_not_paint_what_is_behind():
    mesh, uvs = _two_sheets()
    cameras = _ring(1, size=256, elevation=0.0)
    # The wall is green, the screen red.
    red_before_green = np.where(np.arange(len(mesh.vertices))[:, None] < 81, (0, 1, 0), (1, 0, 0))
    fragments = mesh_raster.rasterize_mesh(
        mesh.vertices, mesh.faces, cameras.world_from_camera[0], cameras.intrinsics[0], 256, 256
    )
    rgb = fragments.interpolate(red_before_green.astype(np.float32), mesh.faces)
    rgba = np.dstack([rgb, fragments.face >= 0]).astype(np.float32)[None]
    texels = lay_out_texels(mesh, uvs, 256)
    colors, seen = project_views(mesh, Views(rgba, cameras), texels, lambda text: None)
    seen = seen > 0
    wall = texels.positions[:, 1] > 0
    assert seen[~wall].mean() > 0.85
    assert 0.6 < seen[wall].mean() < 0.85  # the screen hides (0.4 * 3.2 / 2.8) ** 2 / 0.9 ** 2 = 26 %
    # The low band is a blur of 1 % of the picture: beside the edge it holds a little of the other colour.
    assert colors[seen & wall, 1].mean() > 0.97
    assert colors[seen & ~wall, 0].mean() > 0.97
    hidden = wall & (np.abs(texels.positions[:, 0]) < 0.2) & (np.abs(texels.positions[:, 2]) < 0.2)
    assert not seen[hidden].any()


def test_where_views_differ_the_front_view_is_believed():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    cameras = _ring(8)
    views = render_views(sphere, cameras)
    rgba = views.rgba.copy()
    rgba[..., :3] = 0.2
    rgba[0, ..., :3] = 0.8
    mesh = Mesh(sphere.vertices, sphere.faces)
    baked, _ = _bake(mesh, Views(rgba, cameras))
    front = render_mesh(mesh.vertices, mesh.faces, baked.uvs, baked.texture, cameras.take([0, 4]))
    np.testing.assert_allclose(front[0, 60:68, 60:68, :3], 0.8, atol=0.04)
    np.testing.assert_allclose(front[1, 60:68, 60:68, :3], 0.2, atol=0.04)


def test_colour_outside_the_cut_out_never_reaches_the_texture():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    views = render_views(sphere, _ring(6))
    rgba = views.rgba.copy()
    rgba[..., :3] = np.where(rgba[..., 3:] > 0.95, 0.5, np.array([1.0, 0.0, 1.0], dtype=np.float32))
    baked, _ = _bake(Mesh(sphere.vertices, sphere.faces), Views(rgba, views.cameras))
    np.testing.assert_allclose(baked.texture, 0.5, atol=0.02)


def test_views_that_see_nothing_still_give_a_plain_texture():
    box = trimesh.creation.box((0.4, 0.4, 0.4))
    empty = Views(np.zeros((2, 32, 32, 4), dtype=np.float32), _ring(2, size=32))
    baked, context = _bake(Mesh(box.vertices, box.faces), empty, size=64)
    np.testing.assert_allclose(baked.texture, 0.5, atol=0.01)
    assert context.facts["coverage_seen"] == 0


def test_a_mesh_that_is_not_what_the_views_show_is_reported(baked_figure):
    _, _, views = baked_figure
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.2)
    _, context = _bake(Mesh(sphere.vertices, sphere.faces), views, size=64)
    assert len(context.warnings) == 1
    assert "--orbit-cameras" in context.warnings[0]


def test_a_camera_beside_the_object_does_no_harm():
    # Some texels project outside the picture, some lie behind the camera.
    mesh = _figure()
    pose = look_at(np.array([0.0, -0.8, 0.1]), np.array([0.6, 0.0, 0.0]))
    cameras = Cameras(pose[None], _ring(1, size=64).intrinsics, 64, 64)
    texels = lay_out_texels(
        mesh, np.random.default_rng(0).random((len(mesh.faces), 3, 2), dtype=np.float32), 64
    )
    views = Views(np.ones((1, 64, 64, 4), np.float32), cameras)
    colors, seen = project_views(mesh, views, texels, lambda text: None)
    assert np.isfinite(colors).all() and np.isfinite(seen).all()
