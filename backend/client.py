"""A blocking client of the daemon: one thread, one socket. The command line and scripts use it.

    with Client() as client:
        job = client.submit([Path("photo.png")], quality="draft").job
        for event in client.events(job):
            ...
        client.fetch(job, Path("out"))

It reconnects by itself: a daemon that was started again in the meantime is found through its connection
file, and transfers and events go on where they stopped.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Self

import zmq

from backend import __version__
from backend.output import OutputFolder
from backend.pipeline.artifacts import translate_os_error
from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.endpoint import Endpoint, read_endpoint
from shared_protocol.errors import (
    AccessDenied,
    InvalidInput,
    MalformedMessage,
    NotReachable,
    OrreryError,
    ProtocolMismatch,
    Unauthorized,
)
from shared_protocol.transfer import Download, Uploading, checksum

REPLY_SECONDS = 5.0
SILENCE_SECONDS = 2.0
"""After this much silence in a subscription or transfer the daemon is asked whether it lives."""
BACK_OFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
RECONNECT_SECONDS = 30.0
"""How long a daemon may be away before a command gives up."""

OnBytes = Callable[[str, int, int], None]
"""Called with a file's name, bytes done and bytes in all."""


class _Lost(NotReachable):
    """The daemon did not answer in time: try again on a new connection."""

    code = NotReachable.code


class Client:
    """A connection to the daemon of `state` (default: this user's), or to a known `endpoint`."""

    def __init__(
        self,
        endpoint: Endpoint | None = None,
        *,
        state: Path | None = None,
        name: str = "cli",
        patience: float = RECONNECT_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        self._fixed = endpoint
        self._state = state
        self._name = name
        self._patience = patience
        self._reply_seconds = reply_seconds
        self._context: zmq.Context[Any] = zmq.Context(1)
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._request = 0
        self.welcome: m.HelloReply | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; requests not yet sent are dropped."""
        self._disconnect()
        self._context.destroy(0)

    # ---- questions and orders

    def hello(self) -> m.HelloReply:
        """Connect and be let in. NotReachable, Unauthorized, ProtocolMismatch."""
        self._disconnect()
        endpoint = self._fixed or read_endpoint(self._state)
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, frames.MAX_BUFFER_BYTES + 1024)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
        # Tells at once when the other side is gone; the socket itself would connect again in silence.
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(endpoint.address)
        self._socket = socket
        try:
            reply = self._exchange(m.Hello(endpoint.token, self._name, __version__), m.HelloReply)
        except _Lost:
            self._disconnect()
            raise _Lost(
                f"nothing that speaks our protocol answers at {endpoint.address}",
                remedy="Start a backend: python -m backend serve",
            ) from None
        self.welcome = reply
        return reply

    def ping(self) -> m.Pong:
        """Is the daemon's loop alive?"""
        return self._call(m.Ping(), m.Pong)

    def status(self) -> m.Status:
        """Queue, worker, memory, counters."""
        return self._call(m.GetStatus(), m.Status)

    def jobs(self, states: Sequence[str] = (), limit: int = 50) -> list[m.JobRecord]:
        """Up to `limit` jobs, the newest first."""
        records: list[m.JobRecord] = []
        before = 0
        while True:
            page = self._call(m.ListJobs(tuple(states), min(limit - len(records), 50), before), m.Jobs)
            records += page.records
            before = page.next
            if not before or len(records) >= limit:
                return records[:limit]

    def job(self, job: str) -> m.JobRecord:
        """One job; UnknownJob."""
        return self._call(m.GetJob(job), m.Job).record

    def cancel(self, job: str) -> m.JobRecord:
        """Ask for the end of a job; its last event says when it has ended."""
        return self._call(m.Cancel(job), m.CancelReply).record

    def shutdown(self) -> None:
        """Stop the daemon; queued jobs stay in its store."""
        self._call(m.Shutdown(), m.ShutdownReply)

    def submit(
        self,
        pictures: Sequence[Path | tuple[str, bytes]],
        *,
        recipe: str = "image_to_3d",
        quality: str = "standard",
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        label: str = "",
        job: str | None = None,
    ) -> m.JobRecord:
        """Upload the pictures (files, or name and content) and submit a job; returns its record.

        Safe to repeat with the same `job` id: a job is never made twice.
        """
        inputs = []
        for picture in pictures:
            name, data = picture if isinstance(picture, tuple) else (picture.name, _read(picture))
            inputs.append(m.InputFile(name[-512:], self.upload(data), len(data)))
        message = m.Submit(
            job or uuid.uuid4().hex, recipe, tuple(inputs), quality, dict(options or {}), seed,
            (label or inputs[0].name)[:512],
        )  # fmt: skip
        return self._call(message, m.Submitted).record

    # ---- upload

    def upload(self, data: bytes) -> str:
        """Bring content to the daemon's store unless it is there; returns its sha256."""
        digest = hashlib.sha256(data).hexdigest()
        self._patiently(lambda: self._upload(digest, data))
        return digest

    def _upload(self, digest: str, data: bytes) -> None:
        transfer = self._send(m.UploadStart(digest, len(data)))
        uploading = Uploading(len(data))
        uploading.start(self._expect(transfer, m.UploadReady).offset)
        view = memoryview(data)
        while not uploading.done:
            while (part := uploading.next()) is not None:
                offset, length = part
                buffer = view[offset : offset + length]
                self._send(m.UploadChunk(transfer, offset, checksum(buffer)), buffer)
            uploading.acknowledge(self._expect(transfer, m.UploadAck).offset)

    # ---- events

    def events(self, job: str, after: int = 0) -> Iterator[m.Event]:
        """Events of a job numbered above `after`, until its last one. Survives a daemon's restart."""
        while True:
            try:
                self._connected()
                subscription = self._send(m.Subscribe(job, after))
                self._expect(subscription, m.Subscribed)
                while True:
                    event = self._expect_alive(subscription, m.Event)[0]
                    if event.kind != "step":
                        after = event.seq
                    yield event
                    if event.kind in m.TERMINAL:
                        return
            except _Lost:
                self._reconnect()
            except Unauthorized as error:
                self._hello_again(error)

    def wait(self, job: str) -> m.JobRecord:
        """Wait for a job's end; raises its error when it failed."""
        for _ in self.events(job):
            pass
        record = self.job(job)
        if record.error is not None:
            raise record.error.error()
        return record

    # ---- results

    def manifest(self, job: str) -> list[m.ResultFile]:
        """The files of a job that has succeeded."""
        files: list[m.ResultFile] = []
        while True:
            page = self._call(m.GetManifest(job, len(files)), m.Manifest)
            files += page.files
            if len(files) >= page.total or not page.files:
                return files

    def fetch(self, job: str, out: Path, on_bytes: OnBytes = lambda name, done, size: None) -> list[Path]:
        """Bring a job's files into the folder `out`, each checked against its sha256.

        An interrupted fetch goes on where it stopped; files appear under their names only when all are
        here and whole.
        """
        files = self.manifest(job)
        for file in files:
            check_result_name(file.name)
        with OutputFolder(out) as folder:
            partial = out / f".partial-{job}"
            try:
                partial.mkdir(exist_ok=True)
                paths = {}
                for file in files:
                    path = partial / file.sha256
                    self._fetch_file(file, path, on_bytes)
                    paths[file.name] = path
                folder.publish({name: path.read_bytes() for name, path in paths.items()})
                for path in set(paths.values()):
                    path.unlink()
                partial.rmdir()
            except OSError as error:
                raise translate_os_error(error, out) from error
        return [out / file.name for file in files]

    def read(self, file: m.ResultFile) -> bytes:
        """The content of one result, checked."""
        parts: list[bytes] = []
        download = Download(file.sha256, file.size)
        self._patiently(lambda: self._download(download, parts.append))
        download.verify()
        return b"".join(parts)

    def _fetch_file(self, file: m.ResultFile, path: Path, on_bytes: OnBytes) -> None:
        download = Download(file.sha256, file.size)
        if path.exists():
            if path.stat().st_size > file.size:
                path.unlink()
            else:
                download.resume(path.read_bytes())
        with path.open("ab") as target:

            def write(buffer: bytes) -> None:
                target.write(buffer)
                on_bytes(file.name, download.offset, file.size)

            self._patiently(lambda: self._download(download, write))
        try:
            download.verify()
        except MalformedMessage:
            path.unlink()  # the next fetch begins anew
            raise

    def _download(self, download: Download, write: Callable[[bytes], None]) -> None:
        if download.done and download.size:
            return
        transfer = self._send(download.fetch())
        try:
            while True:
                chunk, buffer = self._expect_alive(transfer, m.Chunk)
                try:
                    credit = download.accept(chunk, buffer)
                except MalformedMessage as error:
                    raise _Lost(str(error)) from error  # fetched again from where we are
                write(bytes(buffer))
                if download.done:
                    return
                if credit:
                    self._send(m.Credit(transfer, credit))
        except BaseException:
            if self._socket is not None:
                self._send(m.StopFetch(transfer))
            raise

    # ---- the connection

    def _call(self, message: m.Message, kind: type[Any]) -> Any:
        """Ask and wait for the answer, on a new connection if need be. All requests may be repeated."""
        return self._patiently(lambda: self._exchange(message, kind))

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        while True:
            self._connected()
            try:
                return attempt()
            except _Lost:
                self._reconnect()
            except Unauthorized as error:
                self._hello_again(error)

    def _connected(self) -> None:
        if self._socket is None:
            self.hello()

    def _hello_again(self, error: Unauthorized) -> None:
        """The daemon has forgotten this connection, or is another one than before: say hello again."""
        if error.details.get("reason") != "hello_first":
            raise error
        self._reconnect()

    def _reconnect(self) -> None:
        """Find the daemon again; NotReachable after `patience` seconds."""
        give_up = time.monotonic() + self._patience
        for attempt in range(1000):
            try:
                self.hello()
            except NotReachable:
                pause = BACK_OFF_SECONDS[min(attempt, len(BACK_OFF_SECONDS) - 1)]
                if time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)
            else:
                return

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close(0)
            self._socket.close(0)
            self._socket = self._monitor = None

    def _exchange(self, message: m.Message, kind: type[Any]) -> Any:
        return self._expect(self._send(message), kind)

    def _send(self, message: m.Message, buffer: bytes | memoryview | None = None) -> int:
        assert self._socket is not None
        self._request += 1
        self._socket.send_multipart(frames.encode(message, self._request, buffer))
        return self._request

    def _expect(self, request: int, kind: type[Any]) -> Any:
        """The next message of this request; _Lost when none comes in time."""
        return self._receive(request, kind, self._reply_seconds)[0]

    def _expect_alive(self, request: int, kind: type[Any]) -> tuple[Any, Any]:
        """As `_expect`, however long it takes, as long as the daemon answers a ping."""
        while True:
            try:
                return self._receive(request, kind, SILENCE_SECONDS)
            except _Lost:
                ping = self._send(m.Ping())
                found = self._receive_any({request: kind, ping: m.Pong}, self._reply_seconds)
                if found[0] == request:
                    return found[1], found[2]

    def _receive(self, request: int, kind: type[Any], seconds: float) -> tuple[Any, Any]:
        _, message, buffer = self._receive_any({request: kind}, seconds)
        return message, buffer

    def _receive_any(self, kinds: Mapping[int, type[Any]], seconds: float) -> tuple[int, Any, Any]:
        assert self._socket is not None and self._monitor is not None
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready = dict(poller.poll(max(1, int(left * 1000))))
            if self._socket not in ready:
                if ready:
                    raise _Lost("the connection to the backend was lost", remedy="Is it still running?")
                continue
            envelope = self._decode(self._socket.recv_multipart())
            if envelope is None:
                continue
            message = envelope.message
            if envelope.request in kinds:
                if isinstance(message, m.ErrorReply):
                    raise message.failure.error()
                if isinstance(message, kinds[envelope.request]):
                    return envelope.request, message, envelope.buffer
            elif isinstance(message, m.ErrorReply) and envelope.request == 0:
                raise message.failure.error()  # it could not even read the number
        raise _Lost("the backend does not answer", remedy="Look at it: python -m backend status")

    @staticmethod
    def _decode(parts: Sequence[bytes]) -> frames.Envelope | None:
        try:
            return frames.decode(parts)
        except ProtocolMismatch:
            raise
        except OrreryError:
            return None  # from a newer minor version, or garbage: not ours to answer


def check_result_name(name: str) -> None:
    """InvalidInput unless a result's name stays below the folder it is written to, on every system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    plain = posix.parts and ".." not in windows.parts and not windows.anchor and not posix.is_absolute()
    if not plain or "\0" in name or ":" in name:
        raise InvalidInput(f"the backend names a result '{name}'", "a plain relative path")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist", "a picture file") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder", "a picture file") from None
    except PermissionError:
        raise AccessDenied(f"{path} cannot be read") from None
