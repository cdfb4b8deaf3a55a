"""The pictures of one job on their way to the backend; no bpy, on the client's thread."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_protocol import messages
from shared_protocol.errors import LimitExceeded, OrreryError
from shared_protocol.messages import Message
from shared_protocol.transfer import Uploading, checksum

from . import history
from .connection import Connection

Reader = Callable[[], bytes]


@dataclass(frozen=True)
class Order:
    """What is asked of the backend.

    inputs    (file name, function that gives its bytes; called on the client's thread) of each picture
    settings  {"quality": ..., "engines": {stage: engine}, "options": {"stage.field": value}}
    """

    name: str
    recipe: str
    inputs: tuple[tuple[str, Reader], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def message(self, job: str, inputs: list[messages.InputFile]) -> messages.Submit:
        """The submission, once its pictures are there."""
        options = {f"{stage}.engine": name for stage, name in self.settings.get("engines", {}).items()}
        return messages.Submit(
            job,
            self.recipe,
            tuple(inputs),
            self.settings.get("quality", "standard"),
            options | self.settings.get("options", {}),
            self.seed,
            self.name[:512],
        )


class Sending:
    """Uploads an order's pictures; begun anew after a lost connection, it goes on where it was.

    done     called with the uploaded pictures
    failed   called with what went wrong
    kept     called once with the names under which the pictures were kept
    """

    def __init__(
        self,
        job: str,
        order: Order,
        folder: Path,
        done: Callable[[list[messages.InputFile]], None],
        failed: Callable[[OrreryError], None],
        kept: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._job, self._order, self._folder = job, order, folder
        self._done, self._failed, self._kept = done, failed, kept
        self._pictures: list[tuple[str, bytes]] | None = None
        self._sent: list[messages.InputFile] = []
        self._upload: Uploading | None = None
        self._number = 0

    def begin(self, connection: Connection) -> None:
        """Send what is not there yet."""
        self._connection = connection
        self._sent = []
        try:
            self._read()
        except OrreryError as error:
            self._failed(error)
            return
        self._next()

    def _read(self) -> None:
        """All pictures at once: they are few, and each is small."""
        if self._pictures is not None:
            return
        pictures = [(name, read()) for name, read in self._order.inputs]
        most = self._connection.limits.image_bytes
        for name, data in pictures:
            if len(data) > most:
                raise LimitExceeded(
                    f"the picture {name} has {len(data) >> 20} MB", f"at most {most >> 20} MB",
                    "Save it smaller.",
                )  # fmt: skip
        self._pictures = pictures
        numbered = enumerate(pictures)
        try:
            files = [
                history.keep_input(self._folder, self._job, n, name, data) for n, (name, data) in numbered
            ]
        except OSError:
            files = []  # a full disk costs another try later, not the job
        self._kept(tuple(files))

    def _next(self) -> None:
        if len(self._sent) == len(self._pictures):
            self._done(self._sent)
            return
        name, self._data = self._pictures[len(self._sent)]
        self._sha256 = hashlib.sha256(self._data).hexdigest()
        self._file = messages.InputFile(name[:512], self._sha256, len(self._data))
        self._upload = Uploading(len(self._data), self._connection.limits.window_bytes)
        message = messages.UploadStart(self._sha256, len(self._data))
        self._number = self._connection.send(message, self._on_reply)

    def _on_reply(self, message: Message, _: bytes | None) -> None:
        if isinstance(message, messages.ErrorReply):
            self._failed(message.failure.error())
            return
        if isinstance(message, messages.UploadReady):
            self._upload.start(message.offset)
            there = self._upload.done
        elif isinstance(message, messages.UploadAck):
            self._upload.acknowledge(message.offset)
            there = message.complete
        else:
            return
        if there:
            self._connection.forget(self._number)
            self._sent.append(self._file)
            self._next()
            return
        while (piece := self._upload.next()) is not None:
            offset, length = piece
            chunk = self._data[offset : offset + length]
            self._connection.tell(messages.UploadChunk(self._number, offset, checksum(chunk)), buffer=chunk)
