"""A real daemon in a process of its own, with the fake worker; and a proxy that cuts its connections."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from backend.client import Client
from shared_protocol.endpoint import Endpoint, read_endpoint

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ("picture.png", b"not decoded by the fake worker " * 10)


class RunningDaemon:
    """Start, kill and start again, always on the same state folder."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, **options: float) -> None:
        self.folder = folder
        self.options = options
        self.environment = dict(environment or {})
        self.state = folder / "state"
        self.cache = folder / "cache"
        self.log = folder / "stages.log"
        self.log.touch()
        self.process = None
        self.output = ""
        self.start()

    def start(self, worker="tests.support.fake_worker"):
        """Options and environment (see fake_daemon.py) may be changed before."""
        environment = (
            os.environ
            | {
                "ORRERY_CACHE": str(self.cache),
                "ORRERY_FAKE_LOG": str(self.log),
                "PYTHONPATH": str(ROOT),
            }
            | self.environment
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_daemon", str(self.state), worker]
            + [f"{name}={value}" for name, value in self.options.items()],
            stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout.readline().startswith("tcp://127.0.0.1:")

    @property
    def endpoint(self) -> Endpoint:
        return read_endpoint(self.state)

    def client(self, **options) -> Client:
        return Client(state=self.state, **options)

    def kill(self):
        """kill -9: no word of farewell, no cleaning up."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        self.output = self.process.communicate(timeout=15)[0]
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.kill()
        self.process.stdout.close()

    def open_gate(self):
        """Stages with the trouble "gate" go on, now and later."""
        self.log.with_name(self.log.name + ".open").touch()

    def runs(self) -> list[str]:
        """Stages that were really run, in order."""
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def processor_seconds(self) -> float:
        """What the daemon's threads have used (Linux)."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def worker_pid(self) -> int:
        with self.client() as client:
            return wait_until(lambda: client.status().workers[0].pid)


@contextlib.contextmanager
def running_daemon(folder: Path, environment=None, **options):
    daemon = RunningDaemon(folder, environment, **options)
    try:
        yield daemon
    finally:
        daemon.close()


def submit(client, plan=None, **options):
    """A job of six stages; plan: {"three": {"milliseconds": 500}} or {"all": {...}} (see fake_worker.py)."""
    label = json.dumps(plan or {})
    return client.submit([PICTURE], recipe="fake", label=label, **options).job


def wait_until(condition, seconds=15.0):
    """The first true answer of `condition`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class CuttingProxy:
    """Loopback TCP in front of the daemon, which closes every connection once `cut_after` bytes came.

    cut_next  close the connection on the next bytes that come, once
    flip_at  a bit of the byte that comes so many bytes after the start of a connection is flipped, once
    seen     what went through, if `watching`
    """

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after = 0
        self.cut_next = False
        self.cuts = 0
        self.flip_at = 0
        self.flipped = 0
        self.watching = False
        self.seen = bytearray()
        self.forwarded = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while not self._stop.is_set():
            if not select.select([self._listener], [], [], 0.1)[0]:
                continue
            near = self._listener.accept()[0]
            thread = threading.Thread(target=self._forward, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, near):
        came = 0
        with near, socket.create_connection(self._target) as far:
            while not self._stop.is_set():
                for ready in select.select([near, far], [], [], 0.1)[0]:
                    try:
                        data = ready.recv(1 << 16)
                    except OSError:
                        return
                    if not data:
                        return
                    if self.watching:
                        self.seen += data
                    if ready is far:
                        if self.flip_at and came <= self.flip_at < came + len(data):
                            altered = bytearray(data)
                            altered[self.flip_at - came] ^= 0x10
                            data, self.flip_at, self.flipped = bytes(altered), 0, self.flipped + 1
                        came += len(data)
                        self.forwarded += len(data)
                        if self.cut_next or (self.cut_after and came > self.cut_after):
                            self.cut_next = False
                            self.cuts += 1
                            return
                    try:
                        (near if ready is far else far).sendall(data)
                    except OSError:
                        return

    def close(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
