"""Jobs outlive Blender: kept on the disk, found again at the backend, offered, run again, deleted."""

import hashlib
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
from blender_addon import history, preferences, session  # noqa: E402
from blender_addon.download import FileDownload  # noqa: E402
from blender_addon.jobs import Job, Link, State  # noqa: E402
from shared_protocol import messages  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support.blender_backend import ScriptedBackend  # noqa: E402
from tests.support.blender_pump import pump_until  # noqa: E402

pytestmark = pytest.mark.blender

JPEG = b"\xff\xd8 not a real one \xff\xd9"


@pytest.fixture
def result():
    return {"mesh.glb": files.wedge_glb()[0], "splats.ply": files.splat_ply(**files.ball_splats(count=50))}


@pytest.fixture
def blender_again(blender, tmp_path, monkeypatch):
    """A function that closes Blender's session, if there is one, and begins another."""
    monkeypatch.setenv("ORRERY_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(preferences.Defaults, "auto_start", False)
    monkeypatch.setattr(session, "user_folder", lambda: tmp_path / "user")
    path = tmp_path / "duck.png"
    path.write_bytes(files.png(np.full((8, 8, 3), 200, np.uint8)))

    def begin():
        if session.current() is not None:
            blender_addon.unregister()
        blender_addon.register()
        session.current().start()
        bpy.context.scene.orrery.path = str(path)
        return session.current()

    yield begin
    if session.current() is not None:
        blender_addon.unregister()


def generate(current):
    bpy.ops.orrery.generate()
    return current.jobs.latest


def test_a_finished_job_is_in_the_history_of_the_next_blender_and_can_be_imported(
    blender_again, result, tmp_path
):
    current = blender_again()
    bpy.context.scene.orrery.seed = 7
    with ScriptedBackend(tmp_path / "state", result, previews={"cutout": JPEG, "orbit": JPEG}):
        first = generate(current)
        pump_until(current, lambda: first.final)
        assert first.state is State.IMPORTED, first.error
    bpy.ops.wm.read_factory_settings(use_empty=True)
    current = blender_again()
    pump_until(current, lambda: current.jobs.jobs)
    job = current.jobs.jobs[first.id]
    assert (job.state, job.name, job.seed) == (State.IMPORTED, "duck", 7)
    assert job.settings["quality"] == "standard"
    assert job.previews["cutout"][-1].read_bytes() == JPEG
    assert job.inputs == ("input-0-duck.png",)
    assert not bpy.data.objects
    bpy.ops.orrery.import_result(job=job.id)  # without a backend: the files are here
    assert "duck" in bpy.data.objects


def test_a_job_that_was_going_on_is_found_again_and_offered_not_imported(blender_again, result, tmp_path):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(current)
        pump_until(current, lambda: job.state is State.RUNNING)
        current = blender_again()
        pump_until(current, lambda: current.jobs.jobs and current.jobs.link is Link.READY)
        found = current.jobs.jobs[job.id]
        pump_until(current, lambda: found.state is State.RUNNING)
        backend.hold.clear()
        pump_until(current, lambda: found.state is State.RECEIVED)
        current.pump()
        assert not bpy.data.objects
        assert not backend.submitted[1:], "the job was known already"
    bpy.ops.orrery.dismiss(job=job.id)
    current = blender_again()
    pump_until(current, lambda: current.jobs.jobs)
    found = current.jobs.jobs[job.id]
    assert (found.state, found.seen) == (State.RECEIVED, True)
    bpy.ops.orrery.import_result(job=job.id)
    assert found.state is State.IMPORTED
    assert "duck" in bpy.data.objects


def test_without_a_backend_the_jobs_left_behind_wait_and_nothing_is_an_error(blender_again, result, tmp_path):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(current)
        pump_until(current, lambda: job.state is State.RUNNING)
        blender_again()
    current = blender_again()
    pump_until(current, lambda: current.jobs.jobs)
    for _ in range(20):
        current.pump()
        time.sleep(0.005)
    assert current.jobs.away() == [current.jobs.jobs[job.id]]
    assert (current.jobs.link, current.jobs.error) == (Link.OFF, None)
    with ScriptedBackend(tmp_path / "state", result):
        bpy.ops.orrery.connect()  # the panel's "Find Again"
        pump_until(current, lambda: current.jobs.jobs[job.id].state is State.RECEIVED)


def test_a_job_that_the_backend_forgot_is_said_to_be_lost_and_can_be_run_again(
    blender_again, result, tmp_path
):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.hold.set()
        job = generate(current)
        pump_until(current, lambda: job.state is State.RUNNING)
        picture = backend.pictures[0]
        blender_again()
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result, forgotten=True) as backend:
        pump_until(current, lambda: current.jobs.jobs and current.jobs.jobs[job.id].final)
        lost = current.jobs.jobs[job.id]
        assert "does not know this job" in str(lost.error)
        bpy.ops.orrery.retry(job=job.id)
        again = current.jobs.latest
        pump_until(current, lambda: again.final)
        assert again.state is State.IMPORTED, again.error
        assert backend.pictures == [picture]
        assert (backend.submitted[0].seed, backend.submitted[0].quality) == (lost.seed, "standard")


def test_a_job_is_run_again_from_its_texture_with_the_earlier_stages_as_they_were(
    blender_again, result, tmp_path
):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result) as backend:
        bpy.context.scene.orrery.faces = 3000
        job = generate(current)
        pump_until(current, lambda: job.final)
        bpy.ops.orrery.rerun(job=job.id, stage="texture", texture_size="2048", delight=True)
        again = current.jobs.latest
        pump_until(current, lambda: again.final)
        first, second = backend.submitted
    assert (first.seed, first.inputs) == (second.seed, second.inputs), "or the backend computes all anew"
    assert second.options == {
        "surface.faces": 3000, "texture.size": 2048, "texture.delight": True, "texture.normal_map": False,
    }  # fmt: skip


def test_retry_with_changes_puts_picture_and_settings_into_the_panel(blender_again, result, tmp_path):
    current = blender_again()
    chosen = bpy.context.scene.orrery
    chosen.seed, chosen.quality, chosen.texture_size, chosen.lods = 9, "draft", "512", 2
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(current)
        pump_until(current, lambda: job.final)
    chosen.seed, chosen.quality, chosen.texture_size, chosen.lods, chosen.path = 0, "high", "0", 0, ""
    bpy.ops.orrery.retry_with_changes(job=job.id)
    assert (chosen.seed, chosen.quality, chosen.texture_size, chosen.lods) == (9, "draft", "512", 2)
    assert chosen.path.endswith("input-0-duck.png")
    bpy.ops.orrery.generate()
    assert current.jobs.latest.name == "duck"


def test_a_deleted_job_is_gone_from_the_disk_and_stays_away(blender_again, result, tmp_path):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(current)
        pump_until(current, lambda: job.final)
    bpy.ops.orrery.delete_job(job=job.id)
    assert not current.jobs.jobs
    record = messages.JobRecord(job.id, messages.SUCCEEDED, "image_to_3d", label="duck", created=1.0)
    current = blender_again()
    assert not (tmp_path / "user" / "jobs" / job.id).exists()
    with ScriptedBackend(tmp_path / "state", result, records=(record,)):
        bpy.ops.orrery.connect()
        pump_until(current, lambda: current.jobs.link is Link.READY)
        for _ in range(20):
            current.pump()
            time.sleep(0.01)
    assert not current.jobs.jobs


def test_jobs_of_other_programs_are_listed_and_can_be_imported(blender_again, result, tmp_path):
    record = messages.JobRecord(
        "ab" * 16, messages.SUCCEEDED, "image_to_3d", label="teapot", client="cli", seed=3, created=1.0
    )
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result, records=(record,)):
        bpy.ops.orrery.connect()
        pump_until(current, lambda: current.jobs.jobs)
        job = current.jobs.jobs[record.job]
        assert (job.state, job.client, job.name) == (State.STORED, "cli", "teapot")
        with pytest.raises(RuntimeError, match="not kept here"):
            bpy.ops.orrery.retry(job=job.id)
        bpy.ops.orrery.import_result(job=job.id)
        pump_until(current, lambda: job.final)
    assert job.state is State.IMPORTED, job.error
    assert "teapot" in bpy.data.objects


def test_variations_are_offered_side_by_side_and_the_chosen_one_is_imported(blender_again, result, tmp_path):
    current = blender_again()
    bpy.context.scene.orrery.variations = 3
    with ScriptedBackend(tmp_path / "state", result) as backend:
        generate(current)
        jobs = list(current.jobs.jobs.values())
        pump_until(current, lambda: all(job.state is State.RECEIVED for job in jobs))
    assert [submit.seed for submit in backend.submitted] == [0, 1, 2]
    assert not bpy.data.objects
    bpy.ops.orrery.import_result(job=jobs[1].id)
    assert bpy.data.objects["duck"]["orrery_seed"] == 1


def test_the_queue_is_paused_resumed_and_reordered(blender_again, result, tmp_path):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result) as backend:
        with pytest.raises(RuntimeError, match="no connection"):
            bpy.ops.orrery.pause()
        bpy.ops.orrery.connect()
        pump_until(current, lambda: current.jobs.link is Link.READY)
        bpy.ops.orrery.pause()
        pump_until(current, lambda: backend.paused)
        backend.hold.set()
        job = generate(current)
        pump_until(current, lambda: job.state is State.RUNNING)
        job.state = State.QUEUED
        bpy.ops.orrery.move_first(job=job.id)
        bpy.ops.orrery.pause()
        pump_until(current, lambda: not backend.paused and backend.moved)
        assert backend.moved == [(job.id, 0)]
        backend.hold.clear()
        pump_until(current, lambda: job.final)


def test_the_log_of_a_job_is_fetched_into_a_text(blender_again, result, tmp_path):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(current)
        pump_until(current, lambda: job.final)
        bpy.ops.orrery.show_log(job=job.id)
        pump_until(current, lambda: job.id in current.logs)
        bpy.ops.orrery.show_log(job=job.id)
    assert bpy.data.texts["Orrery log"].as_string() == "a line of the log\n"


def test_a_history_that_cannot_be_read_is_passed_over(blender_again, tmp_path):
    for name, content in (("a", "{"), ("b", "[]"), ("c", '{"id": "c", "state": "NO_SUCH"}')):
        folder = tmp_path / "user" / "jobs" / name
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(content)
    current = blender_again()
    for _ in range(20):
        current.pump()
        time.sleep(0.005)
    assert not current.jobs.jobs
    assert current.jobs.error is None


def test_a_job_that_another_blender_follows_is_left_to_it_until_that_ends(blender, tmp_path):
    job = Job("a" * 32, "duck", 0, state=State.RUNNING, created=time.time())
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as other:
        history.save(tmp_path, history.to_plain(job) | {"owner": other.pid})
        assert not history.load(tmp_path)
        other.stdin.close()
    (found,) = history.load(tmp_path)
    assert (found.id, found.state) == (job.id, State.AWAY)


def test_what_another_blender_wrote_of_a_job_is_not_written_over_by_the_backends_list(blender, tmp_path):
    job = Job("a" * 32, "duck", 0, inputs=("input-0-duck.png",), state=State.IMPORTED)
    history.save(tmp_path, history.to_plain(job))
    history.save(tmp_path, history.to_plain(Job(job.id, "duck", 0, state=State.STORED)), new=True)
    assert history.load(tmp_path)[0].inputs == job.inputs


def test_two_blenders_fetch_one_file_beside_each_other_and_what_an_ended_one_left_is_taken_over(
    blender, tmp_path
):
    path, data = tmp_path / "mesh.glb", bytes(range(200)) * 10
    file = messages.ResultFile("mesh.glb", len(data), hashlib.sha256(data).hexdigest())
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as other:
        theirs = tmp_path / f"mesh.glb.{other.pid}.partial"
        theirs.write_bytes(data[:500])
        mine = FileDownload(path, file, 1 << 20)
        assert mine.received == 0
        mine.close()
        other.stdin.close()
    (tmp_path / f"mesh.glb.{os.getpid()}.partial").unlink()
    mine = FileDownload(path, file, 1 << 20)
    mine.close()
    assert mine.received == 500
    assert not theirs.exists()


@pytest.mark.parametrize(("sessions", "stopped"), [(1, True), (2, False)])
def test_a_backend_that_another_program_uses_too_does_not_end_with_this_blender(
    blender_again, result, tmp_path, sessions, stopped
):
    current = blender_again()
    ended = []
    with ScriptedBackend(tmp_path / "state", result) as backend:
        backend.sessions = sessions
        bpy.ops.orrery.connect()
        pump_until(current, lambda: current.jobs.link is Link.READY)
        started = SimpleNamespace(
            process=SimpleNamespace(pid=-1),
            stop=lambda: ended.append(True),
            leave=lambda: ended.append(False),
        )
        current.client._connection._backend = started
        current.close()
    assert ended == [stopped]


def test_a_job_that_is_deleted_while_it_is_imported_does_not_come_back(blender_again, result, tmp_path):
    current = blender_again()
    with ScriptedBackend(tmp_path / "state", result):
        job = generate(current)
        pump_until(current, lambda: current.importing is not None)
        current.delete(job)
        pump_until(current, lambda: current.importing is None)
    current = blender_again()
    for _ in range(20):
        current.pump()
        time.sleep(0.005)
    assert not current.jobs.jobs
    assert not history.load(tmp_path / "user")
