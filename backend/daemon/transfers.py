"""Content in and out of the artifact store: the files behind the state machines of `transfer.py`."""

import contextlib
import mmap
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from backend.daemon.wire import Peer
from backend.pipeline.artifacts import ArtifactStore, check_room, translate_os_error
from shared_protocol.errors import (
    AccessDenied,
    DiskFull,
    LimitExceeded,
    MalformedMessage,
    UnknownJob,
    Unsupported,
)
from shared_protocol.messages import Chunk, Fetch, Limits, UploadAck, UploadChunk, UploadReady, UploadStart
from shared_protocol.transfer import (
    CHECKS,
    CHUNK_BYTES,
    MAX_CREDIT_BYTES,
    Receiving,
    Sending,
    keep_chunk_memory,
)

PARK_SECONDS = 60.0
"""A transfer without credit, or an upload without a chunk, for so long is dropped; it can be resumed."""
KEEP_UPLOAD_SECONDS = 24 * 3600.0
MAX_TRANSFERS = 64
"""Of one connection."""

MAX_CONNECTION_CREDIT = MAX_CREDIT_BYTES
"""Of all transfers of one connection together: so much may lie unread for one client."""

Key = tuple[Peer, int]
"""Connection, request number."""


@dataclass
class _Outgoing:
    file: BinaryIO
    sending: Sending
    check: str
    moved: float


@dataclass
class _Incoming:
    path: Path
    file: BinaryIO
    receiving: Receiving
    moved: float


class Transfers:
    """All transfers of the daemon, sent in turn, one chunk each. `now` is monotonic seconds."""

    def __init__(self, store: ArtifactStore, uploads: Path, limits: Limits) -> None:
        self._store = store
        self._uploads = uploads
        self._limits = limits
        self._outgoing: dict[Key, _Outgoing] = {}
        self._incoming: dict[Key, _Incoming] = {}
        self._chunk = _chunk_memory()
        keep_chunk_memory()

    def __len__(self) -> int:
        return len(self._outgoing) + len(self._incoming)

    # ---- daemon -> client

    def fetch(self, key: Key, message: Fetch, size: int, now: float) -> None:
        """Open a transfer of stored content. UnknownJob when the store no longer has it."""
        self._check_room(key)
        if message.check not in CHECKS:
            raise Unsupported(
                f"the checksum '{message.check[:20]}' is unknown", "one of " + ", ".join(CHECKS)
            )
        self._check_credit(key, message.credit)
        path = self._store.blob_path(message.sha256)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise UnknownJob(
                "the result's content was removed from the store", remedy="Submit the job again."
            ) from None
        except OSError as error:
            raise AccessDenied("the result's content cannot be read") from error
        if os.fstat(file.fileno()).st_size != size:
            file.close()
            raise UnknownJob("the result's content is damaged", remedy="Submit the job again.")
        try:
            sending = Sending(size, message.offset, message.credit)
        except (MalformedMessage, LimitExceeded):
            file.close()
            raise
        if size and sending.done:
            file.close()
        else:
            self._outgoing[key] = _Outgoing(file, sending, message.check, now)

    def credit(self, key: Key, count: int, now: float) -> None:
        """More may be sent. Credit for a transfer that has ended is no error: they cross on the way."""
        outgoing = self._outgoing.get(key)
        if outgoing is not None:
            self._check_credit(key, count)
            outgoing.sending.grant(count)
            outgoing.moved = now

    def sendable(self) -> list[Key]:
        """Transfers that have something to send and credit for it."""
        return [key for key, one in self._outgoing.items() if one.sending.peek() is not None]

    def next_chunk(self, key: Key) -> tuple[Chunk, memoryview]:
        """The chunk to send now; call `sent` once it went out. Its bytes are good until the next call."""
        outgoing = self._outgoing[key]
        peeked = outgoing.sending.peek()
        assert peeked is not None
        offset, length = peeked
        data = self._chunk[:length]  # always the same, so that it stays in the processor's cache
        outgoing.file.seek(offset)
        if outgoing.file.readinto(data) != length:
            raise UnknownJob("the result's content is damaged", remedy="Submit the job again.")
        return CHECKS[outgoing.check](offset, outgoing.sending.size, data), data

    def sent(self, key: Key, length: int, now: float) -> None:
        """A chunk of this length went out; the transfer is closed after the last one."""
        outgoing = self._outgoing[key]
        outgoing.sending.sent(length)
        outgoing.moved = now
        if outgoing.sending.done:
            self.stop(key)

    def stop(self, key: Key) -> None:
        """Close a transfer to a client, if it is open."""
        outgoing = self._outgoing.pop(key, None)
        if outgoing is not None:
            outgoing.file.close()

    # ---- client -> daemon

    def upload(self, key: Key, message: UploadStart, now: float) -> UploadReady:
        """Open an upload; it goes on where an interrupted one stopped. LimitExceeded, DiskFull."""
        self._check_room(key)
        if not 0 < message.size <= self._limits.image_bytes:
            raise LimitExceeded(
                f"a picture of {message.size} bytes",
                f"1 to {self._limits.image_bytes}",
                "Save it smaller, or as JPEG or WebP.",
            )
        with self._translated():
            if self.has(message.sha256, message.size):
                return UploadReady(message.size)
            check_room(self._uploads, message.size)
            self._uploads.mkdir(parents=True, exist_ok=True)
            path = self._uploads / f"{message.sha256}.part"
            if any(one.path == path for one in self._incoming.values()):
                path = self._uploads / f"{message.sha256}.{secrets.token_hex(4)}.part"
            receiving = Receiving(message.sha256, message.size)
            file = path.open("a+b")
            file.seek(0)
            receiving.resume(file.read(message.size + 1))
            if receiving.offset >= message.size:  # never complete here: completed ones are moved away
                file.truncate(0)
                receiving = Receiving(message.sha256, message.size)
        self._incoming[key] = _Incoming(path, file, receiving, now)
        return UploadReady(receiving.offset)

    def chunk(self, key: Key, message: UploadChunk, buffer: bytes | memoryview, now: float) -> UploadAck:
        """Take a chunk; the last one checks the whole and moves it into the store."""
        incoming = self._incoming.get(key)
        if incoming is None:
            raise MalformedMessage(
                f"upload {message.transfer} is not open", "upload_start first", reason="not_open"
            )
        try:
            incoming.receiving.accept(message, buffer)
            with self._translated():
                incoming.file.write(buffer)
                if not incoming.receiving.done:
                    incoming.moved = now
                    return UploadAck(incoming.receiving.offset)
                incoming.file.flush()
                os.fsync(incoming.file.fileno())
        except (MalformedMessage, DiskFull, AccessDenied):
            self._close_upload(key)
            raise
        self._close_upload(key)
        try:
            incoming.receiving.verify()
        except MalformedMessage:
            incoming.path.unlink(missing_ok=True)
            raise
        with self._translated():
            target = self._store.blob_path(incoming.receiving.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(incoming.path, target)
        return UploadAck(incoming.receiving.offset, complete=True)

    def has(self, sha256: str, size: int) -> bool:
        """Whether this content is stored."""
        try:
            return self._store.blob_path(sha256).stat().st_size == size
        except OSError:
            return False

    # ---- both

    def drop(self, peer: Peer) -> None:
        """The connection is gone; what was uploaded so far is kept."""
        for key in [key for key in self._outgoing if key[0] == peer]:
            self.stop(key)
        for key in [key for key in self._incoming if key[0] == peer]:
            self._close_upload(key)

    def park(self, now: float) -> None:
        """Drop transfers that stood still for a minute."""
        for key in [key for key, one in self._outgoing.items() if now - one.moved > PARK_SECONDS]:
            self.stop(key)
        for key in [key for key, one in self._incoming.items() if now - one.moved > PARK_SECONDS]:
            self._close_upload(key)

    def forget_old_uploads(self, now: float) -> None:
        """Remove what was left of uploads that nobody has gone on with for a day; `now`: since 1970."""
        open_now = {one.path for one in self._incoming.values()}
        for path in self._uploads.glob("*.part"):
            with contextlib.suppress(OSError):
                if path not in open_now and now - path.stat().st_mtime > KEEP_UPLOAD_SECONDS:
                    path.unlink()

    def close(self) -> None:
        """Close all files."""
        for key in list(self._outgoing):
            self.stop(key)
        for key in list(self._incoming):
            self._close_upload(key)

    def _check_room(self, key: Key) -> None:
        if key in self._outgoing or key in self._incoming:
            raise MalformedMessage(f"request number {key[1]} names an open transfer", "a new number")
        if sum(one[0] == key[0] for one in (*self._outgoing, *self._incoming)) >= MAX_TRANSFERS:
            raise LimitExceeded("too many open transfers", f"at most {MAX_TRANSFERS} a connection")

    def _check_credit(self, key: Key, more: int) -> None:
        of_connection = sum(one.sending.credit for other, one in self._outgoing.items() if other[0] == key[0])
        if more > 0 and of_connection + more > MAX_CONNECTION_CREDIT:
            raise LimitExceeded(
                f"a credit of {of_connection + more} bytes in all transfers of this connection",
                f"at most {MAX_CONNECTION_CREDIT}",
            )

    def _close_upload(self, key: Key) -> None:
        incoming = self._incoming.pop(key, None)
        if incoming is not None:
            with contextlib.suppress(OSError):
                incoming.file.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            known = translate_os_error(error, Path("the backend's store"))
            if known is error:
                raise AccessDenied("the backend's store cannot be written") from error
            raise known from error


def _chunk_memory() -> memoryview:
    """Room for one chunk, as one huge page where the system (Linux) has them.

    Pages of 4 KiB lie anywhere and push one another out of the processor's cache: an eighth of the CPU time.
    """
    room = mmap.mmap(-1, 2 * CHUNK_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    start = -np.frombuffer(room, np.uint8).ctypes.data % CHUNK_BYTES
    return memoryview(room)[start : start + CHUNK_BYTES]
