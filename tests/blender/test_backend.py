"""The whole path: the button, a real daemon process, a draft job, objects in the scene, Cycles renders."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
from blender_addon import session  # noqa: E402
from blender_addon.importers import result  # noqa: E402
from blender_addon.jobs import Link, State  # noqa: E402
from shared_protocol.endpoint import process_alive, read_endpoint  # noqa: E402
from tests.support.blender_pump import pump_until  # noqa: E402
from tests.support.blender_render import read_png, render_front  # noqa: E402

pytestmark = pytest.mark.blender

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "examples" / "rocket.png"
BACKEND = os.environ.get("ORRERY_BACKEND_PYTHON") or str(
    ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
)


@pytest.fixture
def addon(blender, tmp_path, monkeypatch):
    """The add-on as an artist has it, but for its folders; it starts the backend by itself."""
    if not Path(BACKEND).exists():
        pytest.skip(f"no backend at {BACKEND}; set ORRERY_BACKEND_PYTHON")
    monkeypatch.setenv("ORRERY_PYTHON", BACKEND)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ORRERY_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(session, "user_folder", lambda: tmp_path / "user")
    blender_addon.register()
    yield session.current()
    blender_addon.unregister()


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def test_from_the_button_to_a_render_that_looks_like_the_picture(addon, tmp_path):
    chosen = bpy.context.scene.orrery
    chosen.path, chosen.quality, chosen.cameras = str(PICTURE), "draft", True
    chosen.show = result.SHOW_BOTH
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    stages = []
    pump_until(addon, lambda: bool(stages.append(job.stage)) or job.final, 240)
    assert job.state is State.IMPORTED, job.error
    seen = list(dict.fromkeys(stage for stage in stages if stage))
    assert seen == ["matting", "orbit", "refine", "splats", "surface", "texture", "export"]
    assert addon.jobs.link is Link.READY
    daemon = read_endpoint().pid

    collection = bpy.data.collections["rocket"]
    mesh, splats = collection.objects["rocket"], collection.objects["rocket Gaussians"]
    assert len(mesh.data.polygons) > 1000
    assert len(splats.data.vertices) > 1000
    assert 0.5 < max(mesh.dimensions) < 2.0  # metres
    lowest = min(vertex.co.z for vertex in mesh.data.vertices) + mesh.location.z
    assert lowest == pytest.approx(0, abs=1e-4)
    splats_at = np.array([splats.matrix_world @ v.co for v in splats.data.vertices])
    mesh_at = np.array([mesh.matrix_world @ v.co for v in mesh.data.vertices])
    np.testing.assert_allclose(
        np.percentile(splats_at, [2, 98], axis=0), np.percentile(mesh_at, [2, 98], axis=0), atol=0.08
    )

    cutout = read_png(job.folder / "cutout.png")
    size = 96
    step = cutout.shape[0] // size
    cutout = cutout[: step * size, : step * size].reshape(size, step, size, step, 4).mean(axis=(1, 3))
    center = (0, 0, collection.objects["rocket orbit"].matrix_world.translation.z)  # the orbit is level
    for what in (result.SHOW_MESH, result.SHOW_GAUSSIANS):
        bpy.ops.orrery.show_result(collection="rocket", what=what)
        picture = render_front(tmp_path, size=size, samples=12, center=center, name=what.lower())
        inside = (picture[..., 3] > 0.5) & (cutout[..., 3] > 0.5)
        assert overlap(picture[..., 3] > 0.5, cutout[..., 3] > 0.5) > 0.93, what
        difference = np.abs(picture[..., :3] - cutout[..., :3])[inside].mean()
        assert difference < 0.06, what

    blender_addon.unregister()
    blender_addon.register()
    assert not process_alive(daemon), "the backend that the add-on started ends with it"


def test_cancel_stops_the_real_job(addon):
    chosen = bpy.context.scene.orrery
    chosen.path, chosen.quality = str(PICTURE), "standard"
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    pump_until(addon, lambda: job.stage == "orbit" or job.final, 120)
    bpy.ops.orrery.cancel()
    pump_until(addon, lambda: job.final, 15)
    assert job.state is State.CANCELLED, job.error
    assert not bpy.data.objects


def test_a_file_that_is_no_picture_is_refused_in_the_backends_words(addon, tmp_path):
    (tmp_path / "letter.png").write_text("Dear Blender,")
    bpy.context.scene.orrery.path = str(tmp_path / "letter.png")
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    pump_until(addon, lambda: job.final, 120)
    assert job.state is State.FAILED
    assert job.error.code == "invalid_input"
    assert "not" in str(job.error)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_a_backend_killed_in_mid_job_is_started_again_and_the_job_goes_on(addon):
    chosen = bpy.context.scene.orrery
    chosen.path, chosen.quality = str(PICTURE), "draft"
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    pump_until(addon, lambda: job.stage == "splats" or job.final, 120)
    killed = read_endpoint().pid
    os.kill(killed, signal.SIGKILL)
    pump_until(addon, lambda: addon.jobs.link is Link.LOST, 15)
    pump_until(addon, lambda: job.final, 240)
    assert job.state is State.IMPORTED, job.error
    assert read_endpoint().pid != killed


@pytest.mark.slow
def test_blender_closed_in_mid_job_finds_it_finished_and_offers_it(addon, capfd):
    chosen = bpy.context.scene.orrery
    chosen.path, chosen.quality = str(PICTURE), "draft"
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    pump_until(addon, lambda: job.stage == "orbit" or job.final, 120)
    daemon = read_endpoint().pid
    blender_addon.unregister()
    assert process_alive(daemon), "a job is left: the backend finishes it"
    blender_addon.register()
    again = session.current()
    again.start()
    pump_until(again, lambda: job.id in again.jobs.jobs and again.jobs.link is Link.READY, 30)
    found = again.jobs.jobs[job.id]
    pump_until(again, lambda: found.state is State.RECEIVED, 240)
    assert read_endpoint().pid == daemon
    assert not bpy.data.objects
    assert found.previews.keys() >= {"cutout", "splats", "surface"}
    bpy.ops.orrery.import_result(job=job.id)
    assert "rocket" in bpy.data.objects
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_another_texture_takes_no_other_orbit(addon):
    chosen = bpy.context.scene.orrery
    chosen.path, chosen.quality = str(PICTURE), "draft"
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    pump_until(addon, lambda: job.final, 240)
    bpy.ops.orrery.rerun(job=job.id, stage="texture", texture_size="512")
    again = addon.jobs.latest
    pump_until(addon, lambda: again.final, 120)
    assert again.state is State.IMPORTED, again.error
    assert again.reused == ("matting", "orbit", "refine", "splats", "surface")
    (image,) = (i for i in bpy.data.images if i.name.startswith("rocket base colour.0"))
    assert tuple(image.size) == (512, 512)


@pytest.mark.slow
def test_sides_of_an_object_become_one_result(addon):
    chosen = bpy.context.scene.orrery
    image = bpy.data.images.load(str(PICTURE))
    chosen.source, chosen.quality = "SIDES", "draft"
    chosen.side_front = chosen.side_back = chosen.side_right = chosen.side_left = image
    bpy.ops.orrery.generate()
    job = addon.jobs.latest
    pump_until(addon, lambda: job.final, 240)
    assert job.state is State.IMPORTED, job.error
    assert list(job.stage_seconds) == ["splats", "surface", "texture", "export"]
    mesh = bpy.data.objects["rocket"]
    # The same outline from all four sides: as wide as deep.
    assert mesh.dimensions.x == pytest.approx(mesh.dimensions.y, rel=0.03)
