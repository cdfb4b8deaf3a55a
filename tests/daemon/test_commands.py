"""The daemon's commands on the command line; the last test is the whole thing with the real stages."""

import contextlib
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from backend.cli import run
from tests.support.daemon import PICTURE, ROOT, running_daemon, submit, wait_until

EXAMPLE = ROOT / "examples" / "rocket.png"


def _orrery(state, *arguments):
    """The command in this process: its exit code and what it wrote."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = run([*map(str, arguments), "--state", str(state)])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=errors.getvalue())


def _orrery_process(state, *arguments, seconds=60):
    return subprocess.run(
        [sys.executable, "-m", "backend", *map(str, arguments), "--state", str(state)],
        capture_output=True, text=True, cwd=ROOT, timeout=seconds, check=False,
    )  # fmt: skip


def test_jobs_and_status_are_told_in_words_and_as_json(daemon):
    with daemon.client() as client:
        job = submit(client)
        client.wait(job)
    assert job[:8] in _orrery(daemon.state, "jobs").stdout
    record = json.loads(_orrery(daemon.state, "jobs", "--json").stdout)[0]
    assert (record["job"], record["state"]) == (job, "succeeded")
    assert "1 succeeded" in _orrery_process(daemon.state, "status").stdout
    assert json.loads(_orrery(daemon.state, "status", "--json").stdout)["counts"]["succeeded"] == 1


def test_results_are_fetched_by_the_beginning_of_the_jobs_id(daemon, tmp_path):
    with daemon.client() as client:
        job = submit(client)
        client.wait(job)
    done = _orrery(daemon.state, "fetch", job[:10], "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 files" in done.stdout
    assert (tmp_path / "out" / "six" / "result.bin").is_file()


def test_cancel_waits_until_the_job_has_ended(daemon):
    with daemon.client() as client:
        job = submit(client, {"two": {"milliseconds": 20_000}}, seed=1)
        wait_until(lambda: client.job(job).stage == "two")
        done = _orrery(daemon.state, "cancel", job[:10])
        assert done.stdout == f"job {job[:8]} cancelled\n"
        assert client.job(job).state == "cancelled"
        done = _orrery(daemon.state, "fetch", job, "-o", "unused")
        assert (done.returncode, done.stderr) == (130, f"cancelled: job {job[:8]} was cancelled.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cancel", "ffffffff"), "unknown_job: no job begins with 'ffffffff'"),
        (("cancel", "f"), "invalid_input: 'f' is too short"),
        (("fetch", "0" * 32, "-o", "unused"), "unknown_job: job 0000"),
        (("submit", "absent.png"), "invalid_input: absent.png does not exist"),
        (("submit", "."), "invalid_input: . is a folder"),
        (("submit", "pyproject.toml"), "invalid_input: the recipe 'image_to_3d' cannot be submitted"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(daemon, arguments, words):
    done = _orrery(daemon.state, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1


def test_without_a_backend_the_words_say_how_to_start_one(tmp_path):
    done = _orrery(tmp_path, "jobs")
    assert done.returncode == 2
    assert done.stderr.startswith("not_reachable: no backend is running. Start one: python -m backend serve")


@pytest.mark.slow
def test_a_worker_that_hears_no_cancel_is_ended_after_five_seconds(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        job = submit(client, {"two": {"trouble": "deaf"}})
        wait_until(lambda: "two" in daemon.runs())
        worker = daemon.worker_pid()
        client.cancel(job)
        assert wait_until(lambda: client.job(job).state == "cancelled")
        assert client.wait(submit(client, seed=1)).state == "succeeded"
        assert daemon.worker_pid() != worker


@pytest.mark.slow
def test_a_picture_goes_through_the_real_stages_and_comes_back_as_files(tmp_path):
    state = tmp_path / "state"
    environment = os.environ | {"ORRERY_CACHE": str(tmp_path / "cache")}
    serve = subprocess.Popen(
        [sys.executable, "-m", "backend", "serve", "--state", str(state)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    try:
        assert serve.stdout.readline().startswith("orrery backend listening on tcp://127.0.0.1:")
        out = tmp_path / "out"
        options = ["--quality", "draft", "--texture-size", "256", "--watch", "-o", out]
        done = _orrery_process(state, "submit", EXAMPLE, *options, seconds=280)
        assert (done.returncode, done.stderr) == (0, "")
        names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert names >= {
            "cutout.png", "cameras.json", "mesh.glb", "orbit/000.png", "orbit/015.png", "report.json",
            "splats.ply", "turntable.mp4", "turntable.png",
        }  # fmt: skip
        report = json.loads((out / "report.json").read_text())
        assert (report["source"], report["sizes"]["texture_pixels"]) == ("rocket.png", 256)
        again = _orrery_process(state, "submit", EXAMPLE, *options[:2], "--texture-size", "512", "--watch")
        assert again.stdout.count("reused from an earlier run") == 5
        assert _orrery_process(state, "stop").returncode == 0
        assert serve.wait(15) == 0
    finally:
        serve.kill()
        serve.wait()
        serve.stdout.close()


def test_a_picture_that_is_none_fails_in_the_worker_with_one_sentence(tmp_path):
    state = tmp_path / "state"
    environment = os.environ | {"ORRERY_CACHE": str(tmp_path / "cache")}
    serve = subprocess.Popen(
        [sys.executable, "-m", "backend", "serve", "--state", str(state)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    try:
        serve.stdout.readline()
        path = tmp_path / "notes.txt"
        path.write_bytes(PICTURE[1])
        done = _orrery_process(state, "submit", path, "--watch")
        assert done.returncode == 2
        assert done.stderr.startswith("invalid_input: notes.txt is not")
    finally:
        serve.kill()
        serve.wait()
        serve.stdout.close()
