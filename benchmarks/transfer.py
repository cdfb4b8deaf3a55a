"""How fast 200 MiB come from the daemon: python -m benchmarks.transfer

Side by side in one run, a server process and this one, over loopback, best of several interleaved rounds:

    raw TCP        one socket, recv_into a buffer, nothing checked
    ours           our daemon, chunks of 2 MiB with 8 MiB of credit, each chunk's checksum verified
    ours, sha256   the same, and the sha256 of the whole verified beside the reception
    base64 JSON    the file as base64 in a JSON document over HTTP, read, parsed and decoded
    one blob       the bytes in one msgpack message over ZeroMQ
    shared path    the daemon tells where the file lies and it is copied, for clients that see its store

Beside the speed: processor time of both sides, median of the rounds, which other programs on the machine
disturb less. In rounds of their own, whose speed does not count, another client asks small questions during
our transfers, then it submits jobs and cancels them, with the store on the disk. The last line is JSON.
"""

import argparse
import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import zmq

from backend.client import Client
from backend.daemon.config import DaemonConfig
from backend.daemon.server import Daemon
from backend.daemon.status import memory_bytes
from backend.pipeline.artifacts import ArtifactStore
from shared_protocol import messages as m
from shared_protocol.transfer import Download

MIB = 2**20
PAUSE_SECONDS = 0.01
SLOW_ROUNDS = 2
"""Rounds of the ways that take seconds each."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, tempfile.TemporaryDirectory() as disk:
        result = measure(Path(folder), Path(disk), arguments.mib, arguments.rounds)
    sys.stdout.write(json.dumps(result) + "\n")


def measure(folder: Path, disk: Path, mib: int, rounds: int) -> dict[str, float]:
    """The figures; prints a table. The content lies in `folder`, the daemon's state on `disk`."""
    state = disk / "state"
    content = np.random.default_rng(0).bytes(mib * MIB)
    path = folder / "content"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    os.environ["ORRERY_CACHE"] = str(folder / "cache")
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(_served(_serve_raw, str(path)))
        web = stack.enter_context(_served(_serve_base64, str(path)))
        blob = stack.enter_context(_served(_serve_blob, str(path)))
        stack.enter_context(_served(_serve_daemon, str(state), str(path), digest))
        client = stack.enter_context(Client(state=state))
        file = m.ResultFile("content", len(content), digest)
        daemon = client.status().pid
        before = memory_bytes(daemon)
        ways: dict[str, Callable[[], None]] = {
            "raw TCP": lambda: _read_raw(raw, len(content)),
            "ours": lambda: _read_ours(client, file),
            "ours, sha256": lambda: _check(len(client.read(file)) == file.size),
            "shared path": lambda: _copy(client, file, folder / "copy"),
            "one blob": lambda: _read_blob(blob, len(content)),
            "base64 JSON": lambda: _read_base64(web, len(content)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        processors: dict[str, list[float]] = {name: [] for name in ways}
        pids = [process.pid or 0 for process in multiprocessing.active_children()] + [os.getpid()]
        pinger = stack.enter_context(_Pinger(state, m.InputFile("a.png", digest, len(content))))
        peak = 0
        for turn in range(rounds):
            for name, way in ways.items():
                if name in ("one blob", "base64 JSON") and turn >= SLOW_ROUNDS:
                    continue
                start, used = time.perf_counter(), sum(map(_processor_seconds, pids))
                way()
                times[name].append(time.perf_counter() - start)
                processors[name].append(sum(map(_processor_seconds, pids)) - used)
                peak = max(peak, memory_bytes(daemon))
        for turn in range(2 * rounds):
            if turn == rounds:
                pinger.orders.set()
            pinger.busy.set()
            ways["ours"]()
            pinger.busy.clear()
            peak = max(peak, memory_bytes(daemon))
        best = {name: mib / min(seconds) for name, seconds in times.items()}
        for name, speed in best.items():
            sys.stdout.write(
                f"{name:<14} {speed:8.0f} MiB/s  {speed / best['raw TCP']:6.2f} of raw TCP  "
                f"{np.median(processors[name]) * 1000:6.0f} CPU-ms\n"
            )
        sys.stdout.write(
            f"daemon's memory {peak / MIB:.0f} MiB, {(peak - before) / MIB:+.0f} with the transfers\n"
        )
        paired = np.median(np.array(times["raw TCP"]) / np.array(times["ours"]))
        sys.stdout.write(f"ours of raw TCP, median of the rounds: {paired:.2f}\n")
        waits = pinger.times()
        for kind, seconds in waits.items():
            sys.stdout.write(
                f"{len(seconds):5d} x {kind:<7} meanwhile: median {np.median(seconds) * 1000:.1f} ms, "
                f"99 % within {np.percentile(seconds, 99) * 1000:.1f} ms\n"
            )
    return {
        "ours_of_raw_tcp": round(best["ours"] / best["raw TCP"], 3),
        "ours_of_raw_tcp_median_round": round(float(paired), 3),
        "ours_with_sha256_of_raw_tcp": round(best["ours, sha256"] / best["raw TCP"], 3),
        "ours_vs_base64": round(best["ours"] / best["base64 JSON"], 1),
        "daemon_mib": round(peak / MIB, 1),
        "small_request_p99_ms": round(np.percentile(waits["ping"], 99) * 1000, 1),
        "submit_p99_ms": round(np.percentile(waits["submit"], 99) * 1000, 1),
        "cancel_p99_ms": round(np.percentile(waits["cancel"], 99) * 1000, 1),
    }


# ---- the ways


def _read_raw(port: int, size: int) -> None:
    buffer = memoryview(np.empty(size, np.uint8))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        done = 0
        while done < size:
            done += connection.recv_into(buffer[done : done + MIB])


def _read_ours(client: Client, file: m.ResultFile) -> None:
    buffer = memoryview(np.empty(file.size, np.uint8))
    download = Download(file.sha256, file.size, check="sum64", digest=False)

    def write(offset: int, data: memoryview) -> None:
        buffer[offset : offset + len(data)] = data

    client._patiently(lambda: client._download(download, write))
    _check(download.done)


def _copy(client: Client, file: m.ResultFile, target: Path) -> None:
    _check(client._sees_store())
    found = client._call(m.Locate(file.sha256), m.Located)
    shutil.copyfile(found.path, target)
    _check(target.stat().st_size == file.size)


def _read_blob(port: int, size: int) -> None:
    context = zmq.Context()
    with context.socket(zmq.DEALER) as socket_:
        socket_.connect(f"tcp://127.0.0.1:{port}")
        socket_.send(b"")
        _check(len(msgpack.unpackb(socket_.recv(), max_bin_len=size)["data"]) == size)
    context.term()


def _read_base64(port: int, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    document = json.loads(connection.getresponse().read())
    _check(len(base64.b64decode(document["data"])) == size)
    connection.close()


def _check(right: bool) -> None:
    if not right:
        raise SystemExit("what came is not what was sent")


# ---- the servers, each in a process of its own


@contextlib.contextmanager
def _served(serve: Callable[..., None], *arguments: str) -> Iterator[int]:
    """The port of a server that runs meanwhile."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(False)
    process = context.Process(target=serve, args=(sender, *arguments), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()
        process.join()


def _serve_raw(sender, path: str) -> None:
    content = Path(path).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender.send(listener.getsockname()[1])
        while True:
            connection = listener.accept()[0]
            with connection:
                connection.sendall(content)


def _serve_base64(sender, path: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": base64.b64encode(Path(path).read_bytes()).decode()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Silent."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    sender.send(server.server_port)
    server.serve_forever()


def _serve_blob(sender, path: str) -> None:
    content = Path(path).read_bytes()
    router = zmq.Context().socket(zmq.ROUTER)
    sender.send(router.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        peer, _ = router.recv_multipart()
        router.send_multipart([peer, msgpack.packb({"data": content})])


def _serve_daemon(sender, state: str, path: str, digest: str) -> None:
    """Our daemon, with the content as the result of a job that has ended."""
    store = ArtifactStore()
    target = store.blob_path(digest)
    target.parent.mkdir(parents=True)
    shutil.copyfile(path, target)
    size = target.stat().st_size
    nobody = (sys.executable, "-c", "import sys; sys.stdin.buffer.read()")
    daemon = Daemon(DaemonConfig(Path(state), worker=nobody))
    submit = m.Submit("0" * 32, "image_to_3d", (m.InputFile("a.png", digest, size),))
    daemon._core.store.submit(submit, "benchmark", 7, 1.0, 10)
    daemon._core.store.finish("0" * 32, m.SUCCEEDED, time.time(), results=[m.ResultFile("a", size, digest)])
    sender.send(0)
    daemon.run()


class _Pinger:
    """Asks small things from a third process while `busy` is set; with `orders`, submits and cancels jobs."""

    def __init__(self, state: Path, picture: m.InputFile) -> None:
        context = multiprocessing.get_context("spawn")
        self.busy, self.orders, self._over = context.Event(), context.Event(), context.Event()
        self._receiver, sender = context.Pipe(False)
        self._process = context.Process(
            target=_ping, args=(sender, str(state), picture, self.busy, self.orders, self._over), daemon=True
        )

    def __enter__(self) -> "_Pinger":
        self._process.start()
        self._receiver.recv()  # it has said hello
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def times(self) -> dict[str, list[float]]:
        """Seconds that each answer took, by its kind; ends the asking."""
        self._over.set()
        return self._receiver.recv()


def _ping(sender, state: str, picture: m.InputFile, busy, orders, over) -> None:
    times: dict[str, list[float]] = {"ping": [], "submit": [], "cancel": []}
    number = 0
    with Client(state=Path(state), name="pinger") as client:

        def timed(kind: str, message: m.Message, reply: type[m.Message]) -> None:
            start = time.perf_counter()
            client._exchange(message, reply)
            times[kind].append(time.perf_counter() - start)
            time.sleep(PAUSE_SECONDS)

        client.hello()
        sender.send("ready")
        while not over.is_set():
            if not busy.wait(0.1):
                continue
            if not orders.is_set():
                timed("ping", m.Ping(), m.Pong)
            else:
                number += 1
                job = f"{number:032x}"
                timed("submit", m.Submit(job, "image_to_3d", (picture,), seed=number), m.Submitted)
                timed("cancel", m.Cancel(job), m.CancelReply)
    sender.send(times)


def _processor_seconds(pid: int) -> float:
    """What a process has used, with all its threads, where the system (Linux) tells it; else 0."""
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) would name it


if __name__ == "__main__":
    main()
