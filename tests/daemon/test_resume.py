"""A real job that is killed twice ends with the same bytes as one that nobody disturbed."""

import os
import signal
import subprocess
import sys
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


def test_killing_the_worker_and_then_the_daemon_changes_no_byte_of_the_result(tmp_path):
    with served(tmp_path / "undisturbed") as (_, client):
        job = _job(client)
        client.wait(job)
        expected = _contents(client, job)
    with served(tmp_path / "disturbed") as (daemon, client):
        job = _job(client)
        killed = []
        for event in client.events(job):
            if event.kind != "step" or event.stage in killed:
                continue
            if event.stage == "splats":
                os.kill(client.status().workers[0].pid, signal.SIGKILL)
                killed.append("splats")
            elif event.stage == "texture":
                daemon.kill()
                daemon.start()
                killed.append("texture")
        assert killed == ["splats", "texture"]
        assert client.job(job).reused == ("matting", "orbit", "refine", "splats", "surface")
        assert _contents(client, job) == expected
