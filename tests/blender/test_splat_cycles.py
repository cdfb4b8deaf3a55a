"""Gaussians in Cycles next to the plain reference renderer: flat ones, solid ones, both ways of mixing."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from mathutils import Matrix  # noqa: E402

from blender_addon.splats import layout, nodes  # noqa: E402
from blender_addon.splats.importing import import_splats, prepare_scene  # noqa: E402
from shared_protocol.splats.files import encode_stored, read_stored  # noqa: E402
from tests.blender.test_splat_drawing import turned, wild_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support import ewa  # noqa: E402
from tests.support.blender_render import read_png  # noqa: E402

pytestmark = [pytest.mark.blender, pytest.mark.slow]

SIZE = 64


def compared(folder: Path, terms: int, **how) -> float:
    """PSNR over white of a render of 500 wild Gaussians."""
    return compare(folder, files.splat_ply(**wild_splats(terms, terms, 500)), **how)


def compare(
    folder: Path,
    data: bytes,
    *,
    trained: bool = True,
    any_camera: bool = False,
    orthographic: bool = False,
    matrix: np.ndarray | None = None,
    aspect: float = 1.0,
    samples: int = 4,
) -> float:
    scene = bpy.context.scene
    item = import_splats(data, "splats", scene.collection)
    item.matrix_world = Matrix((np.eye(4) if matrix is None else matrix).tolist())
    prepare_scene(scene)
    modifier = nodes.modifier_of(item)
    nodes.set_input(modifier, nodes.ENCODED, trained)
    nodes.set_input(modifier, nodes.ANY_CAMERA, any_camera)
    lens = bpy.data.cameras.new("camera")
    lens.lens, lens.shift_x = 60, 0.03
    if orthographic:
        lens.type, lens.ortho_scale = "ORTHO", 1.5
    camera = scene.camera = bpy.data.objects.new("camera", lens)
    scene.collection.objects.link(camera)
    angle = math.radians(30)
    camera.location = (2 * math.sin(angle), -2 * math.cos(angle), 0.3)
    camera.rotation_euler = (math.pi / 2 - 0.15, 0, angle)
    scene.render.engine = "CYCLES"
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.use_denoising = "CPU", samples, False
    cycles.use_adaptive_sampling, cycles.pixel_filter_type = False, "BOX"
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = max(1 / aspect, 1), max(aspect, 1)
    scene.render.film_transparent = True
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    scene.view_settings.view_transform = "Raw" if trained else "Standard"
    scene.render.filepath = str(folder / "render.png")
    bpy.ops.render.render(write_still=True)
    seen = read_png(Path(scene.render.filepath)).copy()
    seen[..., :3] *= seen[..., 3:]
    projection = camera.calc_matrix_camera(
        bpy.context.evaluated_depsgraph_get(),
        x=SIZE,
        y=SIZE,
        scale_x=max(1 / aspect, 1),
        scale_y=max(aspect, 1),
    )
    expected = ewa.picture(
        [(layout.read_splats(item.data), np.array(item.matrix_world))],
        np.linalg.inv(np.array(camera.matrix_world)),
        np.array(projection),
        SIZE,
        SIZE,
        filtered=layout.antialiased(item.data),
    )
    return ewa.psnr(ewa.over_white(seen), ewa.over_white(expected))


@pytest.mark.parametrize("terms", [1, 16])
def test_flat_gaussians_mixed_as_trained_are_those_of_a_splat_viewer(blender, tmp_path, terms):
    assert compared(tmp_path, terms) > 38  # measured: 44.5


@pytest.mark.parametrize("terms", [1, 16])
def test_flat_gaussians_mixed_in_linear_light_are_near(blender, tmp_path, terms):
    # Measured: 26.5 and 26.4 in this haze of needles (24.9 and 23.3 with colours decoded one by one).
    assert compared(tmp_path, terms, trained=False) > 25.4


@pytest.mark.parametrize("matrix", [np.eye(4), turned()], ids=["as it is", "stretched"])
def test_strong_colours_that_follow_the_view_stay_near_in_linear_light(blender, tmp_path, matrix):
    random = np.random.default_rng(107)
    raw = wild_splats(16, 7, 1200)
    raw["positions"] = random.uniform(-0.5, 0.5, (1200, 3))
    raw["log_scales"] = np.log(0.03 * np.exp(random.normal(0, 0.8, (1200, 3))))
    raw["logits"][:] = 8.0
    raw["harmonics"] = random.normal(0, 0.3, (1200, 16, 3))
    raw["harmonics"][:, 0] = random.uniform(-1.6, 1.6, (1200, 3))
    # Measured: 24.9 and 25.8.
    assert compare(tmp_path, files.splat_ply(**raw), trained=False, matrix=matrix) > 24


def test_gaussians_of_one_colour_keep_it_in_linear_light(blender, tmp_path):
    raw = files.ball_splats(count=2000)
    raw["harmonics"][:] = (0.9, -1.2, 0.3)
    assert compare(tmp_path, files.splat_ply(**raw), trained=False) > 38


@pytest.mark.parametrize("terms", [1, 16])
def test_solid_gaussians_for_any_camera_are_near(blender, tmp_path, terms):
    # Measured: 25.7 and 22.7; they are met in the order of their shells, not of their centres.
    assert compared(tmp_path, terms, any_camera=True) > 22


def test_flat_gaussians_follow_a_stretched_object_and_an_orthographic_camera(blender, tmp_path):
    assert compared(tmp_path, 16, matrix=turned()) > 38
    bpy.ops.wm.read_factory_settings(use_empty=True)
    assert compared(tmp_path, 16, orthographic=True) > 38


@pytest.mark.parametrize(
    "how",
    [
        {"matrix": np.diag([-1.0, 1.0, 1.0, 1.0])},
        {"matrix": np.diag([-0.9, -0.7, -1.2, 1.0])},
        {"aspect": 2.5},
        {"aspect": 0.4, "orthographic": True},
    ],
    ids=["mirrored", "scaled below zero", "tall pixels", "flat pixels, orthographic"],
)
def test_flat_gaussians_follow_what_scenes_hold(blender, tmp_path, how):
    assert compared(tmp_path, 16, **how) > 38


def test_gaussians_trained_with_the_filter_get_fainter_in_cycles_too(blender, tmp_path):
    data = encode_stored(read_stored(files.splat_ply(**wild_splats(16, 16, 500))), "ply", antialiased=True)
    assert compare(tmp_path, data) > 38
    item = bpy.data.objects["splats"]
    nodes.set_input(nodes.modifier_of(item), nodes.FILTERED, False)
    before = read_png(tmp_path / "render.png")
    bpy.ops.render.render(write_still=True)
    assert ewa.psnr(before, read_png(tmp_path / "render.png")) < 38


def test_a_file_opened_without_the_add_on_still_renders(blender, tmp_path):
    compare(tmp_path, files.splat_ply(**files.ball_splats()))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "kept.blend"), copy=True)
    script = f"""
import bpy
bpy.ops.wm.open_mainfile(filepath={str(tmp_path / "kept.blend")!r})
bpy.context.scene.render.filepath = {str(tmp_path / "again.png")!r}
bpy.ops.render.render(write_still=True)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    before, after = (read_png(tmp_path / f"{name}.png") for name in ("render", "again"))
    assert ewa.psnr(before, after) > 45 and (after[..., 3] > 0.9).mean() > 0.1
