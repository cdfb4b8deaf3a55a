"""Real jobs: killed and resumed with the same bytes, cancelled in every stage, previewed, partly reused."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from backend.client import Client
from tests.support.daemon import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here"),
]


class Served:
    """`python -m backend serve` with its own store."""

    def __init__(self, folder):
        self.state = folder / "state"
        self._environment = os.environ | {"ORRERY_CACHE": str(folder / "cache")}
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve", "--state", str(self.state)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self._environment,
        )  # fmt: skip
        assert self.process.stdout.readline().startswith("orrery backend listening")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def served(folder):
    daemon = Served(folder)
    try:
        with Client(state=daemon.state) as client:
            yield daemon, client
    finally:
        daemon.kill()


def _job(client):
    return client.submit([ROOT / "examples" / "rocket.png"], quality="draft", seed=3).job


def _contents(client, job):
    return {file.name: file.sha256 for file in client.manifest(job) if file.name != "report.json"}


def test_killing_worker_and_daemon_in_the_middle_of_the_surface_changes_no_byte_of_the_result(tmp_path):
    with served(tmp_path / "undisturbed") as (_, client):
        job = _job(client)
        client.wait(job)
        expected = _contents(client, job)
    with served(tmp_path / "disturbed") as (daemon, client):
        job, killed, begun = _job(client), [], 0
        for event in client.events(job):
            begun += event.kind == "started" and event.stage == "surface"
            if event.kind != "step" or event.stage != "surface" or event.done < 2 or begun <= len(killed):
                continue
            if not killed:
                os.kill(client.status().workers[0].pid, signal.SIGKILL)
                killed.append("worker")
            elif killed == ["worker"]:
                daemon.kill()
                daemon.start()
                killed.append("daemon")
        assert killed == ["worker", "daemon"]
        assert client.job(job).reused == ("matting", "orbit", "refine", "splats")
        assert _contents(client, job) == expected


STAGES = ("matting", "orbit", "refine", "splats", "surface", "texture", "export")
SLACK = 2.0
"""Seconds beyond the promised ones that a machine gets which does other things besides."""


def test_a_real_job_is_cancelled_in_every_stage_and_the_next_one_runs(tmp_path):
    """Acknowledged within 0.1 s, over within 1 s; the next job takes finished stages from the store."""
    with served(tmp_path) as (_, client):
        for stage in STAGES:
            job = _job(client)
            for event in client.events(job):
                if event.stage == stage and event.kind in ("started", "step"):
                    break
            else:
                pytest.fail(f"{stage} was never begun")
            start = time.monotonic()
            client.cancel(job)
            acknowledged = time.monotonic() - start
            assert [event.kind for event in client.events(job)][-1] == "cancelled"
            over = time.monotonic() - start
            sys.stdout.write(f"{stage}: acknowledged in {acknowledged:.3f} s, over in {over:.3f} s\n")
            assert acknowledged < 0.1 + SLACK
            assert over < 1.0 + SLACK
        job = _job(client)
        assert client.wait(job).state == "succeeded"
        assert client.job(job).reused == STAGES[:-1]


def test_previews_of_a_real_job_show_every_kind(tmp_path):
    with served(tmp_path) as (_, client):
        job, seen, number = _job(client), set(), 0
        for event in client.events(job, previews=True):
            if event.kind == "preview":
                found, data = client.preview(job, event.text, number)
                number = max(number, found.number if data else 0)
                if data:
                    assert data[:2] == b"\xff\xd8"  # JPEG
                    seen.add(event.text)
        assert seen == {"cutout", "orbit", "splats", "surface"}


def test_another_texture_setting_takes_the_stored_stages_and_says_so_at_once(tmp_path):
    with served(tmp_path) as (_, client):
        client.wait(_job(client))
        record = client.submit(
            [ROOT / "examples" / "rocket.png"], quality="draft", seed=3, options={"texture.size": 512}
        )
        assert record.reused == STAGES[:5]
        client.wait(record.job)
        assert client.job(record.job).reused == STAGES[:5]
        ran = [event.stage for event in client.events(record.job) if event.kind == "finished"]
        assert ran == ["texture", "export"]
