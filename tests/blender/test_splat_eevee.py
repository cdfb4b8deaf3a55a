"""Gaussians and a mesh in EEVEE, from a saved file, without the add-on. EEVEE draws in a window only."""

import json
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from tests.blender.test_splat_rendering import (  # noqa: E402
    HEIGHT,
    WIDTH,
    build_scene,
    expected,
    over_black,
)
from tests.support import ewa  # noqa: E402
from tests.support.xvfb import in_window  # noqa: E402

pytestmark = [pytest.mark.blender, pytest.mark.slow]


def session(bpy, folder: Path):
    """In the window: the add-on is switched off, the file is opened and rendered."""
    from blender_addon import splats

    yield 0.5
    splats.unregister()
    bpy.ops.wm.open_mainfile(filepath=str(folder / "kept.blend"), load_ui=False)
    yield 0.5
    bpy.context.preferences.view.render_display_type = "NONE"
    scene = bpy.context.scene
    scene.render.engine = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
    scene.eevee.taa_render_samples = 16
    scene.render.filter_size = 0.01
    scene.render.filepath = str(folder / "eevee.png")
    bpy.ops.render.render(write_still=True)
    (folder / "found.json").write_text(json.dumps({"engine": scene.render.engine}))
    yield 0.1


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eevee")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    build_scene(bpy, folder, count=400)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "kept.blend"), copy=True)
    in_window(folder, "tests.blender.test_splat_eevee:session", (500, 400), seconds=280)
    return folder


@pytest.mark.timeout(300)
def test_a_file_opened_without_the_add_on_renders_in_eevee(picture):
    seen, wanted = over_black(picture / "eevee.png"), expected(picture, board=True)
    assert seen.shape == (HEIGHT, WIDTH, 3)
    assert json.loads((picture / "found.json").read_text())["engine"].startswith("BLENDER_EEVEE")
    assert ewa.psnr(seen, wanted) > 26
    right = (slice(None), slice(WIDTH // 2, None))
    # The colour where they are solid, without the noise; mixed in linear light, it is a little lighter.
    solid = expected(picture, board=False)[right].max(axis=2) > 0.3
    np.testing.assert_allclose(seen[right][solid].mean(axis=0), wanted[right][solid].mean(axis=0), atol=0.06)
