"""The add-on in Blender: registering, buttons that say why they are grey, pictures from Blender."""

import os
import sys

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
from blender_addon import backend_process, picture, session  # noqa: E402
from blender_addon.importers import png  # noqa: E402
from blender_addon.jobs import Job, JobList, State, Update  # noqa: E402
from blender_addon.operators import inputs  # noqa: E402
from blender_addon.panels import words  # noqa: E402
from blender_addon.panels.engines import waiting  # noqa: E402
from shared_protocol.errors import AccessDenied, InvalidInput, NotReachable  # noqa: E402
from tests.support import blender_files as files  # noqa: E402

pytestmark = pytest.mark.blender

OPERATORS = ("generate", "cancel", "connect", "import_result", "show_result")


@pytest.fixture
def addon(blender):
    blender_addon.register()
    yield session.current()
    blender_addon.unregister()


def test_it_registers_and_unregisters_again_and_again(blender):
    for _ in range(3):
        blender_addon.register()
        assert all(hasattr(bpy.types, f"ORRERY_OT_{name}") for name in OPERATORS)
        assert hasattr(bpy.types.Scene, "orrery")
        blender_addon.unregister()
        assert not any(hasattr(bpy.types, f"ORRERY_OT_{name}") for name in OPERATORS)
        assert not hasattr(bpy.types.Scene, "orrery")
        assert session.current() is None


def test_generate_says_what_is_missing_for_each_source(addon):
    chosen = bpy.context.scene.orrery
    with pytest.raises(RuntimeError, match="Choose a picture file first"):
        bpy.ops.orrery.generate()
    chosen.path = "/somewhere/picture.png"
    assert bpy.ops.orrery.generate.poll()
    chosen.source = "SIDES"
    with pytest.raises(RuntimeError, match="Choose an image of the front first"):
        bpy.ops.orrery.generate()
    chosen.side_front = bpy.data.images.new("front", 4, 4)
    with pytest.raises(RuntimeError, match="one more side"):
        bpy.ops.orrery.generate()
    chosen.source = "TEXT"
    with pytest.raises(RuntimeError, match="Write what to make first"):
        bpy.ops.orrery.generate()
    addon.jobs.recipes = ("image_to_3d",)
    with pytest.raises(RuntimeError, match="No engine of this backend takes a text"):
        bpy.ops.orrery.generate()


def test_a_job_that_runs_can_be_cancelled_and_others_wait_behind_it(addon):
    bpy.context.scene.orrery.path = "/somewhere/picture.png"
    addon.jobs.add(Job("a", "duck", 0, state=State.RUNNING))
    assert bpy.ops.orrery.generate.poll()
    assert bpy.ops.orrery.cancel.poll()


def test_cancel_is_grey_without_a_job(addon):
    with pytest.raises(RuntimeError, match="No job is running"):
        bpy.ops.orrery.cancel()


def test_a_missing_picture_is_named_in_words_and_makes_no_job(addon, tmp_path):
    bpy.context.scene.orrery.path = str(tmp_path / "nothing.png")
    with pytest.raises(RuntimeError, match=r"There is no file .*nothing\.png"):
        bpy.ops.orrery.generate()
    assert not addon.jobs.jobs


def test_engines_are_chosen_by_stage_and_auto_is_not_sent(addon):
    bpy.ops.orrery.choose_engine(stage="splats", engine="cpu")
    assert bpy.context.scene.orrery.engines() == {"splats": "cpu"}
    bpy.ops.orrery.choose_engine(stage="splats", engine="auto")
    assert bpy.context.scene.orrery.engines() == {}


def test_every_engine_menu_and_panel_is_registered(addon):
    for stage in ("matting", "orbit", "refine", "splats", "surface", "texture", "export"):
        assert hasattr(bpy.types, f"ORRERY_MT_engine_{stage}")
    for name in ("generate", "mesh", "engines", "options", "results"):
        assert getattr(bpy.types, f"ORRERY_PT_{name}").bl_category == "Orrery"


def test_a_file_image_gives_the_bytes_of_its_file(blender, tmp_path):
    data = files.png(np.full((4, 6, 3), 99, np.uint8))
    (tmp_path / "duck.png").write_bytes(data)
    image = bpy.data.images.load(str(tmp_path / "duck.png"))
    name, read = picture.from_image(image)
    assert (name, read()) == ("duck", data)
    image.pack()
    (tmp_path / "duck.png").unlink()
    assert picture.from_image(image)[1]() == data


@pytest.mark.parametrize("float_buffer", [False, True])
def test_a_painted_image_is_sent_as_it_looks(blender, tmp_path, float_buffer):
    image = bpy.data.images.new("painted", 3, 2, alpha=True, float_buffer=float_buffer)
    pixels = np.zeros((2, 3, 4), np.float32)
    pixels[0] = (0.5, 0.25, 0.0, 1.0)  # Blender's first row is the lowest
    image.pixels.foreach_set(pixels.ravel())
    _, read = picture.from_image(image)
    (tmp_path / "back.png").write_bytes(read())
    back = bpy.data.images.load(str(tmp_path / "back.png"))
    values = np.array(back.pixels[:]).reshape(2, 3, 4)
    # A float image is scene-linear: 0.5 is 188 of 255 in sRGB, and 0.25 is 137.
    expected = (188 / 255, 137 / 255, 0, 1) if float_buffer else (128 / 255, 64 / 255, 0, 1)
    np.testing.assert_allclose(values[0], np.tile(expected, (3, 1)), atol=1e-6)
    assert values[1].max() == 0


def test_a_format_that_the_backend_does_not_read_is_sent_as_png(blender, tmp_path):
    made = bpy.data.images.new("scan", 4, 4, float_buffer=True)
    made.filepath_raw, made.file_format = str(tmp_path / "scan.exr"), "OPEN_EXR"
    made.save()
    name, read = picture.from_image(bpy.data.images.load(str(tmp_path / "scan.exr")))
    assert (name, read()[:4]) == ("scan", b"\x89PNG")


def test_a_soft_edge_of_a_float_image_keeps_its_colour(blender):
    image = bpy.data.images.new("soft", 1, 1, alpha=True, float_buffer=True)
    image.pixels.foreach_set((0.25, 0.125, 0.0, 0.5))  # Blender keeps colour times alpha there
    np.testing.assert_array_equal(png.decode(picture.from_image(image)[1]())[0, 0], (188, 137, 0, 128))


def test_an_image_without_pixels_and_a_huge_file_are_refused_in_words(blender, tmp_path, monkeypatch):
    image = bpy.data.images.new("gone", 4, 4)
    image.source, image.filepath = "FILE", str(tmp_path / "gone.png")
    with pytest.raises(InvalidInput, match=r"has lost its file .*gone\.png"):
        picture.from_image(image)
    monkeypatch.setattr(picture, "MAX_BYTES", 10)
    monkeypatch.setattr(picture, "MOST_PIXELS", 8)
    (tmp_path / "big.png").write_bytes(bytes(100))
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidInput, match="at most"):
        picture.from_file(str(tmp_path / "big.png"))[1]()
    with pytest.raises(InvalidInput, match="is empty"):
        picture.from_file(str(tmp_path / "empty.png"))[1]()
    with pytest.raises(InvalidInput, match="3 x 3 pixels"):
        picture.from_image(bpy.data.images.new("large", 3, 3))


@pytest.mark.parametrize(
    ("source", "said"), [("MOVIE", "is a film"), ("SEQUENCE", "is a sequence"), ("TILED", "several tiles")]
)
def test_an_image_of_many_pictures_is_refused_in_words(blender, source, said):
    image = bpy.data.images.new("turntable", 4, 4)
    image.source = source
    with pytest.raises(InvalidInput, match=f"'turntable'.*{said}"):
        picture.from_image(image)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("no picture is chosen", "No picture is chosen"),
        ("one.png is empty", "one.png is empty"),
        ("/a/b cannot be read", "/a/b cannot be read"),
        ("'duck' is a film", "'duck' is a film"),
    ],
)
def test_a_sentence_begins_with_a_capital_but_for_a_files_name(found, shown):
    assert words.sentence(found) == shown


def test_a_picture_that_vanishes_before_it_is_read_is_named(blender, tmp_path):
    path = tmp_path / "duck.png"
    path.write_bytes(b"x")
    _, read = picture.from_file(str(path))
    path.unlink()
    with pytest.raises(AccessDenied, match=r"duck\.png cannot be read"):
        read()


def test_a_python_without_the_backend_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(NotReachable, match="has no backend installed") as caught:
        backend_process.find_python(sys.executable, tmp_path)
    assert "Preferences" in caught.value.remedy
    with pytest.raises(NotReachable, match=r"cannot be started|no such file"):
        backend_process.find_python(str(tmp_path / "python"), tmp_path)


def test_the_python_is_the_preference_then_the_environment_then_the_path(monkeypatch, tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(blender_addon.__file__)))
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("ORRERY_PYTHON", sys.executable)
    assert backend_process.find_python("", tmp_path) == [sys.executable]
    monkeypatch.delenv("ORRERY_PYTHON")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotReachable, match="tried python3"):
        backend_process.find_python("", tmp_path)


def test_late_news_does_not_wake_a_finished_job():
    jobs = JobList()
    jobs.add(Job("a", "duck", 0, state=State.CANCELLING))
    jobs.apply(Update("job", {"state": State.RUNNING, "text": "step 3"}, "a"))
    assert jobs.jobs["a"].state is State.CANCELLING
    jobs.apply(Update("job", {"state": State.CANCELLED}, "a"))
    jobs.apply(Update("job", {"state": State.RUNNING}, "a"))
    assert jobs.jobs["a"].state is State.CANCELLED
    assert jobs.active is None


def test_progress_counts_finished_stages_and_steps_within_one():
    job = Job("a", "duck", 0, state=State.RUNNING, index=3, stages=7, done=1, total=2)
    assert job.fraction == pytest.approx(3.5 / 7)


def test_a_file_dropped_onto_the_viewport_is_the_picture(addon, tmp_path):
    chosen = bpy.context.scene.orrery
    chosen.source = "IMAGE"
    bpy.ops.orrery.drop_image(filepath=str(tmp_path / "duck.png"))
    assert (chosen.source, chosen.path) == ("FILE", str(tmp_path / "duck.png"))
    handler = bpy.types.ORRERY_FH_image
    assert handler.bl_import_operator == "orrery.drop_image"
    assert ".png" in handler.bl_file_extensions


def test_pictures_of_the_viewport_and_the_clipboard_say_why_there_are_none(addon):
    with pytest.raises(RuntimeError, match="no 3D viewport"):
        bpy.ops.orrery.render_viewport()
    with pytest.raises(RuntimeError, match="no picture in the clipboard"):
        bpy.ops.orrery.paste_image()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Blender reads the clipboard itself")
def test_a_picture_in_the_clipboard_comes_through_the_desktops_own_tool(addon, tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    picture.write_bytes(files.png(np.full((4, 6, 3), 90, np.uint8)))
    tool = tmp_path / "bin" / "xclip"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n/bin/cat {picture}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    inputs._clipboard_tools.cache_clear()
    image = inputs._pasted_by_tool()
    assert tuple(image.size) == (6, 4)
    tool.write_text("#!/bin/sh\necho there is only text\n")
    assert inputs._pasted_by_tool() is None
    inputs._clipboard_tools.cache_clear()


def test_engines_that_lack_the_same_stand_together():
    def entry(stage, name, reason, remedy, ready=False):
        return {"stage": stage, "name": name, "reason": reason, "remedy": remedy, "ready": ready}

    torch = 'Run: pip install "orrery[models]"'
    found = waiting(
        [
            entry("orbit", "hi3d", "not installed: torch, diffusers", torch),
            entry("orbit", "v3d", "not installed: torch, diffusers", torch),
            entry("surface", "neus", "not installed: torch", torch),
            entry("matting", "rembg", "weights not present: u2netp", "Run: models pull u2netp"),
            entry("splats", "cpu", "", "", ready=True),
        ]
    )
    assert found == {
        torch: "Views around: hi3d, v3d; Surface: neus. Not ready, not installed: torch and more.",
        "Run: models pull u2netp": "Cut-out: rembg. Not ready, weights not present: u2netp.",
    }
