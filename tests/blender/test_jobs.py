"""The button against a backend that plays a script: results, damage, cancel, failures, wrong servers."""

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
from blender_addon import fixes, preferences, scene_preview, session  # noqa: E402
from blender_addon.importers.prepare import prepare  # noqa: E402
from blender_addon.importers.result import Placement, Provenance, result_steps  # noqa: E402
from blender_addon.jobs import Link, State  # noqa: E402
from shared_protocol import messages  # noqa: E402
from shared_protocol.errors import StageFailed  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support.blender_backend import ScriptedBackend  # noqa: E402
from tests.support.blender_pump import pump_until  # noqa: E402

pytestmark = pytest.mark.blender


@pytest.fixture
def result():
    return {
        "mesh.glb": files.wedge_glb()[0],
        "splats.ply": files.splat_ply(**files.ball_splats(count=300)),
        "cameras.json": files.cameras_json([(0, -3, 0), (3, 0, 0)]),
        "turntable.mp4": b"not for Blender",
        "report.json": b'{"warnings": ["the cut-out is uncertain"]}',
    }


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "duck.png"
    path.write_bytes(files.png(np.full((8, 8, 3), 200, np.uint8)))
    return path


@pytest.fixture
def addon(blender, tmp_path, monkeypatch):
    """The session, its backend's folder in tmp_path / "state", starting none."""
    monkeypatch.setenv("ORRERY_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(preferences.Defaults, "auto_start", False)
    monkeypatch.setattr(session, "user_folder", lambda: tmp_path / "user")
    blender_addon.register()
    yield session.current()
    blender_addon.unregister()


def generate(current, picture):
    bpy.context.scene.orrery.path = str(picture)
    bpy.ops.orrery.generate()
    return current.jobs.latest


def test_the_button_brings_mesh_and_gaussians_into_a_collection_named_after_the_picture(
    addon, picture, result, tmp_path
):
    bpy.context.scene.orrery.seed = 5
    bpy.context.scene.orrery.quality = "draft"
    bpy.ops.orrery.choose_engine(stage="splats", engine="cpu")
    with ScriptedBackend(tmp_path / "state", result) as backend:
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    assert {item.name for item in bpy.data.collections["duck"].objects} == {"duck", "duck Gaussians"}
    assert backend.pictures == [picture.read_bytes()]
    (submit,) = backend.submitted
    assert (submit.quality, submit.seed, submit.label) == ("draft", 5, "duck")
    assert submit.options == {"splats.engine": "cpu"}
    assert job.warnings == ["the cut-out is uncertain"]
    assert not (job.folder / "turntable.mp4").exists()


def test_what_the_mesh_panel_says_travels_as_options_of_the_stages(addon, picture, result, tmp_path):
    chosen = bpy.context.scene.orrery
    chosen.faces, chosen.quads, chosen.lods, chosen.normal_map = 50, True, 2, True
    result["mesh_lod1.glb"] = result["mesh_lod2.glb"] = files.wedge_glb()[0]
    with ScriptedBackend(tmp_path / "state", result) as backend:
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    assert backend.submitted[0].options == {
        "surface.faces": 100,
        "surface.quads": True,
        "surface.lods": "2",
        "texture.normal_map": True,
    }
    assert [item.name for item in bpy.data.collections["duck LODs"].objects] == ["duck LOD1", "duck LOD2"]


def test_the_engines_of_the_backend_are_listed_with_reasons(addon, result, tmp_path):
    with ScriptedBackend(tmp_path / "state", result):
        bpy.ops.orrery.connect()
        pump_until(addon, lambda: addon.jobs.link is Link.READY)
    assert addon.jobs.server == "Orrery 0.0.1 on this machine"
    assert [(e["name"], e["ready"], e["reason"]) for e in addon.jobs.engines] == [
        ("cpu", True, ""),
        ("gsplat", False, "no CUDA device"),
    ]


def test_pieces_that_arrive_damaged_are_fetched_again(addon, picture, result, tmp_path):
    with ScriptedBackend(tmp_path / "state", result, damage=2):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    assert (job.folder / "mesh.glb").read_bytes() == result["mesh.glb"]


def test_cancel_reaches_the_backend_by_the_jobs_name_and_allows_the_next(addon, picture, result, tmp_path):
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(addon, picture)
        pump_until(addon, lambda: job.state is State.RUNNING)
        assert (job.stage, job.index, job.stages, job.text) == ("orbit", 1, 7, "drawing view 3 of 16")
        bpy.ops.orrery.cancel()
        assert not bpy.ops.orrery.cancel.poll()
        pump_until(addon, lambda: job.final)
        assert (job.state, backend.cancelled) == (State.CANCELLED, [job.id])
        assert not bpy.data.objects
        backend.hold.clear()
        following = generate(addon, picture)
        pump_until(addon, lambda: following.final)
    assert following.state is State.IMPORTED, following.error


def test_a_failed_stage_is_shown_in_the_backends_words(addon, picture, result, tmp_path):
    error = StageFailed("nothing stands out from the background", remedy="Cut the object out yourself.")
    with ScriptedBackend(tmp_path / "state", result, outcome=messages.FAILED, failure=error):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert (job.state, str(job.error)) == (State.FAILED, str(error))
    assert isinstance(job.error, StageFailed)


def test_a_backend_of_another_protocol_is_named_with_what_to_do(addon, picture, result, tmp_path):
    with ScriptedBackend(tmp_path / "state", result, speaks=b"ORRY\x09\x00"):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert "protocol 9.0" in str(addon.jobs.error)
    assert [fix.label for fix in fixes.of_error(addon.jobs.error)] == ["Update Backend"]
    assert "Update" in str(addon.jobs.error)
    assert job.state is State.FAILED


def test_a_server_that_never_answers_is_given_up(addon, picture, result, tmp_path, monkeypatch):
    monkeypatch.setattr(preferences.Defaults, "patience", 0.3)
    with ScriptedBackend(tmp_path / "state", result, mute=True):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert "nothing answers at tcp://127.0.0.1" in str(job.error)


def test_without_a_backend_and_without_leave_to_start_one_the_panel_says_so(addon, picture):
    job = generate(addon, picture)
    pump_until(addon, lambda: job.final)
    assert (job.state, addon.jobs.link) == (State.FAILED, Link.OFF)
    assert "no backend is running" in str(addon.jobs.error)


def test_a_backend_that_cannot_be_started_is_named_with_the_python_that_was_tried(
    addon, picture, monkeypatch
):
    monkeypatch.setattr(preferences.Defaults, "auto_start", True)
    monkeypatch.setattr(preferences.Defaults, "python", "/no/such/python")
    job = generate(addon, picture)
    pump_until(addon, lambda: job.final)
    assert "/no/such/python" in str(addon.jobs.error)
    assert "Preferences" in addon.jobs.error.remedy


def test_a_backend_that_dies_at_once_is_reported_with_its_last_words(addon, picture, monkeypatch, tmp_path):
    package = tmp_path / "site" / "backend"
    (package / "daemon").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "daemon" / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit('the port is taken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(preferences.Defaults, "auto_start", True)
    monkeypatch.setattr(preferences.Defaults, "python", sys.executable)
    job = generate(addon, picture)
    pump_until(addon, lambda: job.final)
    assert "the port is taken" in str(addon.jobs.error)
    assert Path(addon.jobs.error.details["log"]).exists()


def test_a_job_goes_on_when_the_backend_comes_back(addon, picture, result, tmp_path, monkeypatch):
    monkeypatch.setattr(preferences.Defaults, "patience", 0.5)
    monkeypatch.setattr("blender_addon.connection.PING_SECONDS", 0.1)
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(addon, picture)
        pump_until(addon, lambda: job.state is State.RUNNING)
    pump_until(addon, lambda: addon.jobs.link is Link.LOST)
    assert not job.final
    assert addon.jobs.notice == "The backend does not answer any more."
    with ScriptedBackend(tmp_path / "state", result) as backend:
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    assert not backend.submitted, "the job was known already"
    assert addon.jobs.notice.startswith("The backend ended and was started again.")
    generate(addon, picture)
    assert not addon.jobs.notice


def test_a_job_goes_on_after_the_network_was_gone_and_the_panel_says_so(
    addon, picture, result, tmp_path, monkeypatch
):
    monkeypatch.setattr(preferences.Defaults, "patience", 0.5)
    monkeypatch.setattr("blender_addon.connection.PING_SECONDS", 0.1)
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(addon, picture)
        pump_until(addon, lambda: job.state is State.RUNNING)
        backend.mute = True
        pump_until(addon, lambda: addon.jobs.link is Link.LOST)
        time.sleep(1)
        backend.mute = False
        backend.hold.clear()
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    assert len(backend.submitted) == 1
    assert re.fullmatch(r"The connection was lost for \d+ s\. Jobs went on meanwhile\.", addon.jobs.notice)


BACKEND_OF_A_PICTURE = """
import json, os, pathlib, time
(pathlib.Path(os.environ["ORRERY_STATE"]) / "started").touch()
time.sleep(60)
"""


def test_where_a_file_names_a_backend_that_is_gone_another_is_started(
    addon, picture, result, tmp_path, monkeypatch
):
    """After a crash of the machine the process id in the file may belong to another program."""
    package = tmp_path / "site" / "backend"
    (package / "daemon").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "daemon" / "__init__.py").touch()
    (package / "__main__.py").write_text(BACKEND_OF_A_PICTURE)
    (tmp_path / "state").mkdir()
    left = {"address": "tcp://127.0.0.1:9", "token": "t", "pid": os.getpid(), "boot": "earlier"}
    (tmp_path / "state" / "connection.json").write_text(json.dumps(left))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(preferences.Defaults, "patience", 0.3)
    monkeypatch.setattr(preferences.Defaults, "auto_start", True)
    monkeypatch.setattr(preferences.Defaults, "python", sys.executable)
    addon.start()  # as when Blender opens: looks, says nothing, starts nothing
    pump_until(addon, lambda: addon.jobs.link is Link.CONNECTING)
    pump_until(addon, lambda: addon.jobs.link is Link.OFF)
    assert addon.jobs.error is None
    assert not (tmp_path / "state" / "started").exists()
    job = generate(addon, picture)
    pump_until(addon, (tmp_path / "state" / "started").exists)
    with ScriptedBackend(tmp_path / "state", result):
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "cannot be read"),
        ('{"address": "nowhere"}', "names no backend"),
        ('{"address": "tcp://127.0.0.1:9", "server_key": "short"}', "names no backend"),
    ],
)
def test_a_damaged_connection_file_is_named(addon, picture, tmp_path, text, said):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "connection.json").write_text(text)
    job = generate(addon, picture)
    pump_until(addon, lambda: job.final)
    assert said in str(addon.jobs.error)


def test_a_connection_file_that_is_not_there_starts_no_other_backend(addon, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(preferences.Defaults, "auto_start", True)
    monkeypatch.setattr(preferences.Defaults, "connection_file", str(tmp_path / "render-box.json"))
    job = generate(addon, picture)
    pump_until(addon, lambda: job.final)
    assert "there is no connection file" in str(job.error)
    assert [fix.label for fix in fixes.of_error(job.error)] == ["Orrery's Preferences"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["user"]


def test_a_connection_file_may_have_any_name(addon, picture, result, tmp_path, monkeypatch):
    monkeypatch.setattr(preferences.Defaults, "connection_file", str(tmp_path / "render-box.json"))
    with ScriptedBackend(tmp_path / "state", result):
        (tmp_path / "state" / "connection.json").rename(tmp_path / "render-box.json")
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error


def test_one_undo_step_removes_a_result_and_the_files_can_be_imported_again(addon, picture, result, tmp_path):
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="a cube")
    result["mesh_lod1.glb"] = files.wedge_glb()[0]
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert len(bpy.data.objects) == 4
    bpy.ops.ed.undo()
    assert [item.name for item in bpy.data.objects] == ["Cube"]
    assert not bpy.data.collections
    bpy.ops.orrery.import_result(job=job.id)
    assert len(bpy.data.objects) == 4


def test_the_preview_in_the_scene_goes_with_its_job_and_is_never_saved(addon, picture, result, tmp_path):
    small = files.png(np.full((8, 8, 3), 90, np.uint8))
    bpy.ops.ed.undo_push(message="before")
    with ScriptedBackend(tmp_path / "state", result, previews={"cutout": small}) as backend:
        backend.hold.set()
        job = generate(addon, picture)
        pump_until(addon, lambda: scene_preview.NAME in bpy.data.objects)
        bpy.ops.ed.undo_push(message="what the user does meanwhile")
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "meanwhile.blend"), copy=True)
        backend.hold.clear()
        pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    with bpy.data.libraries.load(str(tmp_path / "meanwhile.blend")) as (there, _):
        assert scene_preview.NAME not in there.objects
    bpy.ops.ed.undo()
    assert scene_preview.NAME in bpy.data.objects  # the file as it was then
    addon.pump()
    assert scene_preview.NAME not in bpy.data.objects


def test_a_result_waits_while_a_mesh_is_edited(addon, picture, result, tmp_path):
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.state is State.RECEIVED)
        addon.pump()
        assert (job.state, bpy.context.mode) == (State.RECEIVED, "EDIT_MESH")
    bpy.ops.object.mode_set(mode="OBJECT")
    pump_until(addon, lambda: job.final)
    assert job.state is State.IMPORTED, job.error


def test_a_result_that_waits_or_is_on_its_way_into_the_scene_can_be_left_out(
    addon, picture, result, tmp_path
):
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.state is State.RECEIVED)
    bpy.ops.orrery.cancel()
    assert job.state is State.CANCELLED
    bpy.ops.object.mode_set(mode="OBJECT")
    addon.pump()
    assert (job.state, len(bpy.data.objects)) == (State.CANCELLED, 1)
    addon.begin_import(job)
    while not addon.importing._made and "duck Gaussians" not in bpy.data.objects:
        addon.pump(0.0001)
    bpy.ops.orrery.cancel()
    addon.pump()
    assert (job.state, addon.importing) == (State.CANCELLED, None)
    assert len(bpy.data.objects) == 1
    bpy.ops.orrery.import_result(job=job.id)  # it is kept, for another mind
    assert (job.state, len(bpy.data.objects)) == (State.IMPORTED, 3)


def test_a_result_that_blender_cannot_read_is_a_failed_job_not_a_traceback(addon, picture, result, tmp_path):
    result["splats.ply"] = b"ply\n"
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(addon, picture)
        pump_until(addon, lambda: job.final)
    assert job.state is State.FAILED
    assert "PLY" in str(job.error)
    assert not bpy.data.objects


def test_an_import_is_made_of_many_slices_and_shows_nothing_before_its_end(addon, result, tmp_path):
    for name, data in result.items():
        (tmp_path / name).write_bytes(data)
    scene = bpy.context.scene
    slices = result_steps(prepare(tmp_path), Provenance("a" * 32, "duck", 0), Placement(), scene)
    seen = [len(scene.collection.children) for _ in slices]
    assert len(seen) > 20
    assert not any(seen[:-2])
    assert [child.name for child in scene.collection.children] == ["duck"]


@pytest.mark.parametrize("slices_done", [1, 5, 12, 20])
def test_an_import_that_is_stopped_in_between_leaves_nothing(addon, result, tmp_path, slices_done):
    result["mesh_lod1.glb"] = result["mesh.glb"]
    for name, data in result.items():
        (tmp_path / name).write_bytes(data)
    scene = bpy.context.scene
    slices = result_steps(prepare(tmp_path), Provenance("a" * 32, "duck", 0), Placement(), scene)
    for _ in range(slices_done):
        next(slices)
    slices.close()
    for kind in ("meshes", "objects", "collections"):
        assert not len(getattr(bpy.data, kind)), kind


def test_leaving_a_backend_elsewhere_keeps_its_jobs_to_be_found_again(addon, picture, result, tmp_path):
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(addon, picture)
        pump_until(addon, lambda: job.state is State.RUNNING)
        bpy.ops.orrery.disconnect()
        pump_until(addon, lambda: addon.jobs.link is Link.OFF)
        pump_until(addon, lambda: job.state is State.AWAY)
        backend.hold.clear()
        bpy.ops.orrery.connect()
        pump_until(addon, lambda: job.final or job.state is State.RECEIVED)
    assert job.error is None
    assert len(backend.submitted) == 1
