"""A backend that plays a script, for what a real one does only when it is in trouble.

It speaks the wire through `shared_protocol`, runs in a thread, and keeps a connection file as the real
one does. `ScriptedBackend(folder, files, ...)` answers hello, upload, submit, subscribe, manifest, fetch.
"""

import hashlib
import os
import threading
from pathlib import Path

import zmq

from shared_protocol import frames, messages
from shared_protocol.endpoint import Endpoint, remove_endpoint, write_endpoint
from shared_protocol.errors import OrreryError, UnknownJob
from shared_protocol.messages import Event, Failure
from shared_protocol.transfer import Receiving, Sending, checksum

TOKEN = "secret of the test"
ENGINES = (
    messages.EngineState("splats", "cpu", "on the CPU", True, True),
    messages.EngineState("splats", "gsplat", "on CUDA", False, False, "no CUDA device", "Use a GPU."),
)


class ScriptedBackend:
    """files: the result. outcome: what the last event says. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        files: dict[str, bytes],
        *,
        outcome: str = messages.SUCCEEDED,
        failure: OrreryError | None = None,
        damage: int = 0,
        speaks: bytes | None = None,
        mute: bool = False,
        previews: dict[str, bytes] | None = None,
        records: tuple[messages.JobRecord, ...] = (),
        forgotten: bool = False,
    ) -> None:
        self.folder, self.files = folder, files
        self.outcome, self.failure = outcome, failure
        self.damage = damage  # so many chunks are altered on their way
        self.speaks = speaks  # prefix of another protocol version
        self.mute = mute
        self.previews = previews or {}  # name -> picture, shown while a job runs
        self.records = records  # jobs of others
        self.forgotten = forgotten  # jobs that it was not sent itself are unknown
        self.paused = False
        self.sessions = 1  # programs that use it
        self.moved: list[tuple[str, int]] = []
        self.pictures: list[bytes] = []
        self.submitted: list[messages.Submit] = []
        self.cancelled: list[str] = []
        self.chunks = 0
        self.hold = threading.Event()  # set: a job waits in its first stage
        self._stop = threading.Event()
        self._content = {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        self._uploads: dict[int, tuple[Receiving, bytearray]] = {}
        self._sending: dict[int, tuple[bytes, str, Sending]] = {}
        self._subscribed: dict[str, tuple[bytes, int]] = {}

    def __enter__(self) -> "ScriptedBackend":
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._boot = os.urandom(8).hex()
        endpoint = Endpoint(f"tcp://127.0.0.1:{port}", TOKEN, os.getpid(), self._boot)
        write_endpoint(endpoint, self.folder)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._socket.close(0)
        self._context.term()
        remove_endpoint(self.folder, self._boot)

    def _work(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(10):
                peer, *parts = self._socket.recv_multipart()
                if not self.mute:
                    self._answer(peer, frames.decode(parts))
            for job, (peer, request) in list(self._subscribed.items()):
                if job in self.cancelled:
                    self._finish(peer, request, job, messages.CANCELLED)
                elif not self.hold.is_set():
                    self._finish(peer, request, job, self.outcome)
            for number in list(self._sending):
                self._push(number)

    def _send(
        self, peer: bytes, message: messages.Message, request: int, buffer: bytes | None = None
    ) -> None:
        parts = frames.encode(message, request, buffer)
        if self.speaks:
            parts[0] = self.speaks
        self._socket.send_multipart([peer, *parts])

    def _answer(self, peer: bytes, envelope: frames.Envelope) -> None:
        message, request = envelope.message, envelope.request
        if isinstance(message, messages.Hello):
            assert message.token == TOKEN
            reply = messages.HelloReply(
                "orrery", "0.0.1", "1.1", self._boot, messages.Limits(), ENGINES,
                ("image_to_3d", "sides_to_3d"), ("previews", "logs", "queue"),
            )  # fmt: skip
            self._send(peer, reply, request)
        elif isinstance(message, messages.Ping):
            self._send(peer, messages.Pong(self._boot), request)
        elif isinstance(message, messages.UploadStart):
            self._uploads[request] = (Receiving(message.sha256, message.size), bytearray())
            self._send(peer, messages.UploadReady(0), request)
        elif isinstance(message, messages.UploadChunk):
            receiving, data = self._uploads[message.transfer]
            receiving.accept(message, envelope.buffer)
            data += envelope.buffer
            if receiving.done:
                receiving.verify()
                self.pictures.append(bytes(data))
            self._send(peer, messages.UploadAck(receiving.offset, receiving.done), message.transfer)
        elif isinstance(message, messages.Submit):
            self.submitted.append(message)
            record = messages.JobRecord(message.job, messages.QUEUED, message.recipe)
            self._send(peer, messages.Submitted(record, True), request)
        elif isinstance(message, messages.Subscribe) and not self._knows(message.job):
            failure = Failure.of(UnknownJob(f"there is no job {message.job}"))
            self._send(peer, messages.ErrorReply(failure), request)
        elif isinstance(message, messages.Subscribe):
            record = messages.JobRecord(message.job, messages.RUNNING, "image_to_3d")
            self._send(peer, messages.Subscribed(record), request)
            event = Event(
                message.job, 1, "step", messages.RUNNING, 0.0, "orbit", 1, 7, 3, 16, "drawing view 3 of 16"
            )
            self._send(peer, event, request)
            for number, name in enumerate(self.previews if message.previews else (), start=1):
                shown = Event(message.job, 1, "preview", messages.RUNNING, 0.0, done=number, text=name)
                self._send(peer, shown, request)
            self._subscribed[message.job] = (peer, request)
        elif isinstance(message, messages.GetPreview):
            number = list(self.previews).index(message.name) + 1
            reply = messages.Preview(message.job, message.name, number)
            self._send(peer, reply, request, self.previews[message.name])
        elif isinstance(message, messages.GetLog):
            text = b"a line of the log\n"
            reply = messages.Log(message.job, message.offset, len(text))
            self._send(peer, reply, request, text[message.offset :])
        elif isinstance(message, messages.ListJobs):
            self._send(peer, messages.Jobs(self.records, 0), request)
        elif isinstance(message, messages.GetStatus):
            status = messages.Status(
                "orrery", "0.0.1", "1.1", self._boot, os.getpid(), 1.0, 0, {},
                {"sessions": self.sessions}, (), ENGINES, paused=self.paused,
            )  # fmt: skip
            self._send(peer, status, request)
        elif isinstance(message, messages.Pause | messages.Resume):
            self.paused = isinstance(message, messages.Pause)
            self._send(peer, messages.QueueState(self.paused, 0), request)
        elif isinstance(message, messages.Move):
            self.moved.append((message.job, message.position))
            record = messages.JobRecord(message.job, messages.QUEUED, "image_to_3d")
            self._send(peer, messages.Job(record), request)
        elif isinstance(message, messages.Cancel):
            self.cancelled.append(message.job)
            record = messages.JobRecord(message.job, messages.RUNNING, "image_to_3d")
            self._send(peer, messages.CancelReply(record), request)
        elif isinstance(message, messages.GetManifest):
            files = tuple(
                messages.ResultFile(name, len(data), hashlib.sha256(data).hexdigest())
                for name, data in self.files.items()
            )
            self._send(peer, messages.Manifest(message.job, 0, len(files), files), request)
        elif isinstance(message, messages.Fetch):
            size = len(self._content[message.sha256])
            sending = Sending(size, message.offset, message.credit)
            self._sending[request] = (peer, message.sha256, sending)
        elif isinstance(message, messages.Credit):
            if message.transfer in self._sending:
                self._sending[message.transfer][2].grant(message.bytes)
        elif isinstance(message, messages.StopFetch):
            self._sending.pop(message.transfer, None)

    def _knows(self, job: str) -> bool:
        return not self.forgotten or any(submit.job == job for submit in self.submitted)

    def _finish(self, peer: bytes, request: int, job: str, state: str) -> None:
        failure = Failure.of(self.failure) if self.failure is not None else None
        self._send(peer, Event(job, 2, state, state, 0.0, error=failure), request)
        del self._subscribed[job]

    def _push(self, number: int) -> None:
        peer, sha256, sending = self._sending[number]
        while (piece := sending.peek()) is not None:
            offset, length = piece
            data = self._content[sha256][offset : offset + length]
            crc = checksum(data)
            if self.damage > 0:
                self.damage -= 1
                crc ^= 1
            self._send(peer, messages.Chunk(offset, sending.size, crc), number, data)
            self.chunks += 1
            sending.sent(length)
            if sending.done:
                del self._sending[number]
                return
