"""Renders that hold meshes and Gaussians: stills, animations, cancelled ones; and the depth they rest on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from blender_addon.splats.exr import read_channel  # noqa: E402
from shared_protocol.errors import InvalidInput  # noqa: E402
from shared_protocol.splats.files import read_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support import ewa  # noqa: E402
from tests.support.blender_render import read_png  # noqa: E402
from tests.support.xvfb import in_window  # noqa: E402

pytestmark = [pytest.mark.blender, pytest.mark.slow]

WIDTH, HEIGHT = 144, 96
GREY = 0.5


def build_scene(bpy, folder: Path, count: int = 1500):
    """A ball of Gaussians, cut in half by a grey board that covers the left of the picture."""
    from blender_addon.splats.importing import import_splats

    scene = bpy.context.scene
    data = files.splat_ply(**files.ball_splats(count=count, terms=16))
    (folder / "ball.ply").write_bytes(data)
    ball = import_splats(data, "ball", scene.collection)
    bpy.ops.mesh.primitive_plane_add(size=4, location=(-2, 0, 0), rotation=(math.pi / 2, 0, 0))
    board = bpy.context.active_object
    material = bpy.data.materials.new("grey")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.inputs[0].default_value = (*[((GREY + 0.055) / 1.055) ** 2.4] * 3, 1)
    tree.links.new(emission.outputs[0], tree.nodes.new("ShaderNodeOutputMaterial").inputs[0])
    board.data.materials.append(material)
    camera = bpy.data.cameras.new("camera")
    camera.shift_x, camera.lens = 0.05, 60
    scene.camera = bpy.data.objects.new("camera", camera)
    scene.collection.objects.link(scene.camera)
    scene.camera.location, scene.camera.rotation_euler = (0, -2, 0), (math.pi / 2, 0, 0)
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 1, False
    scene.cycles.pixel_filter_type = "BOX"
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    return scene, ball, board


def session(bpy, folder):
    yield 0.5
    bpy.ops.wm.read_factory_settings(use_empty=True)
    yield 0.3
    bpy.context.preferences.view.render_display_type = "NONE"
    scene, ball, board = build_scene(bpy, folder)
    scene.render.filepath = str(folder / "still")
    bpy.ops.orrery.render_gaussians(write_still=True)
    board.hide_render = True
    scene.render.filepath = str(folder / "alone")
    bpy.ops.orrery.render_gaussians(write_still=True)
    board.hide_render = False
    scene.render.pixel_aspect_x = 1.5
    scene.render.filepath = str(folder / "wide")
    bpy.ops.orrery.render_gaussians(write_still=True)
    scene.render.pixel_aspect_x = 1
    after = {"hidden": ball.hide_render, "format": scene.render.image_settings.file_format}
    after["depth"] = bpy.context.view_layer.use_pass_z
    scene.frame_start, scene.frame_end = 3, 4
    ball.keyframe_insert("location", frame=3)
    ball.location.x = 0.3
    ball.keyframe_insert("location", frame=4)
    scene.frame_set(1)
    scene.render.filepath = str(folder / "film_")
    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window):
        bpy.ops.orrery.render_gaussians("INVOKE_DEFAULT", animation=True)
    for _ in range(60):
        if (folder / "film_0004.png").exists() and not ball.hide_render:
            break
        yield 0.2
    yield 0.3
    after["frame"] = scene.frame_current
    scene.cycles.samples, scene.cycles.use_adaptive_sampling = 1 << 18, False
    scene.render.filepath = str(folder / "never_")
    with bpy.context.temp_override(window=window):
        bpy.ops.orrery.render_gaussians("INVOKE_DEFAULT", animation=True)
    yield 1.0
    after["while"] = ball.hide_render
    import subprocess

    for _ in range(20):
        subprocess.run(["xdotool", "mousemove", "300", "300", "key", "Escape"], check=True)
        yield 0.5
        if not ball.hide_render:
            break
    after["cancelled"] = not ball.hide_render
    (folder / "after.json").write_text(json.dumps(after))
    yield 0.2


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("render")
    in_window(folder, "tests.blender.test_splat_rendering:session", (900, 640))
    return folder, json.loads((folder / "after.json").read_text())


def expected(folder: Path, *, board: bool, x: float = 0.0, wide: float = 1.0) -> np.ndarray:
    """(H, W, 3) over black; `wide` is the width of a pixel over its height."""
    near, far, focal = 0.1, 100.0, 60 / 36 * 2
    projection = np.array(
        [
            [focal, 0, 0.1, 0],
            [0, focal * WIDTH / HEIGHT * wide, 0, 0],
            [0, 0, (near + far) / (near - far), 2 * near * far / (near - far)],
            [0, 0, -1, 0],
        ]
    )
    view = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, -2], [0, 0, 0, 1.0]])
    matrix = np.eye(4)
    matrix[0, 3] = x
    depth, behind = np.ones((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH, 1))
    if board:
        edge = round((0.5 - 0.05) * WIDTH)  # x = 0 in the picture
        clip = projection @ (0, 0, -2, 1)
        depth[:, :edge] = 0.5 + 0.5 * clip[2] / clip[3]
        behind[:, :edge] = GREY
    seen = ewa.picture(
        [(read_splats(folder / "ball.ply"), matrix)], view, projection, WIDTH, HEIGHT, scene_depth=depth
    )
    return seen[..., :3] + (1 - seen[..., 3:]) * behind


def over_black(path: Path) -> np.ndarray:
    picture = read_png(path)
    return picture[..., :3] * picture[..., 3:]


def test_a_still_holds_meshes_and_gaussians_in_front_of_and_behind_each_other(rendered):
    folder, _ = rendered
    assert ewa.psnr(over_black(folder / "still.png"), expected(folder, board=True)) > 40


def test_a_still_of_pixels_that_are_not_square_holds_both_too(rendered):
    folder, _ = rendered
    assert ewa.psnr(over_black(folder / "wide.png"), expected(folder, board=True, wide=1.5)) > 40


def test_gaussians_alone_are_drawn_on_a_clear_ground(rendered):
    folder, _ = rendered
    assert ewa.psnr(over_black(folder / "alone.png"), expected(folder, board=False)) > 45


def test_an_animation_writes_each_frame_where_things_are_then(rendered):
    folder, _ = rendered
    for frame, x in ((3, 0.0), (4, 0.3)):
        picture = over_black(folder / f"film_{frame:04d}.png")
        assert ewa.psnr(picture, expected(folder, board=True, x=x)) > 40


def test_a_render_leaves_the_scene_as_it_was(rendered):
    _, after = rendered
    assert (after["hidden"], after["format"], after["depth"], after["frame"]) == (False, "PNG", False, 1)


def test_escape_ends_an_animation_and_brings_the_gaussians_back(rendered):
    folder, after = rendered
    assert (after["while"], after["cancelled"]) == (True, True)
    assert not list(folder.glob("never_*"))


def test_in_the_background_old_versions_say_what_is_missing(blender, tmp_path):
    from blender_addon import splats

    if hasattr(__import__("gpu"), "init"):
        pytest.skip("this Blender draws without a window")
    if not hasattr(bpy.types, "ORRERY_OT_render_gaussians"):
        splats.register()
    build_scene(bpy, tmp_path)
    with pytest.raises(RuntimeError, match="cannot draw without a window"):
        bpy.ops.orrery.render_gaussians()


def test_the_depth_of_a_render_is_read_from_its_file(blender, tmp_path):
    scene, *_ = build_scene(bpy, tmp_path)
    bpy.context.view_layer.use_pass_z = True
    bpy.data.objects["ball"].hide_render = True
    bpy.ops.render.render()
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.exr_codec = "OPEN_EXR_MULTILAYER", "NONE"
    bpy.data.images["Render Result"].save_render(str(tmp_path / "all.exr"), scene=scene)
    away = read_channel((tmp_path / "all.exr").read_bytes(), ".Depth.Z")
    edge = round(0.45 * WIDTH)
    assert away.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(away[10:-10, : edge - 1], 2, rtol=1e-3)
    assert (away[:, edge + 1 :] > 1e4).all()
    with pytest.raises(InvalidInput, match="OpenEXR"):
        read_channel(b"\0" * 100, ".Depth.Z")
