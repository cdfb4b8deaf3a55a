"""Chunks, credit and resume: plain state machines, no socket, no file, no clock.

Download (daemon -> client): the client opens with a credit of 8 MiB and gives back what it has taken, so
at most the window is on its way and small messages on the same connection wait for little.
Upload (client -> daemon): the client sends at most the window beyond the last acknowledged byte.

    client          daemon                     client            daemon
    Download        Sending                    Uploading         Receiving

A chunk comes with its checksum; the whole is checked against its sha256.
"""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from shared_protocol.errors import LimitExceeded, MalformedMessage
from shared_protocol.messages import Chunk, Fetch, UploadChunk

CHUNK_BYTES = 2 * 1024 * 1024
"""Of a download at most; each chunk costs both sides the same, whatever its length."""
UPLOAD_CHUNK_BYTES = 1024 * 1024
WINDOW_BYTES = 8 * 1024 * 1024
MAX_CREDIT_BYTES = 64 * 1024 * 1024


_LARGE_BYTES = 31 * 1024 * 1024


@cache
def keep_chunk_memory() -> None:
    """Let the memory of freed chunks serve the next ones.

    glibc gives freed memory back to the system, page by page to be cleared again: a fifth of a transfer's CPU
    time. After it has seen a larger block come and go it keeps that much (32 MiB at most); this one is never
    written to, so it takes no memory. Other systems' allocators lose nothing by it.
    """
    bytes(_LARGE_BYTES)


def checksum(buffer: bytes | memoryview) -> int:
    """crc32 of a chunk, 0 to 2**32 - 1."""
    return zlib.crc32(buffer)


def sum64(buffer: bytes | memoryview) -> int:
    """Sum of a chunk's little-endian 64-bit integers modulo 2**64, as a signed one; zeros pad its end.

    Finds every flipped bit, ten times as fast as crc32 without special instructions; what it cannot find
    (exchanged words) the sha256 of the whole does.
    """
    whole = len(buffer) // 8 * 8
    total = int(np.frombuffer(buffer, "<i8", whole // 8).sum(dtype=np.int64))
    total += int.from_bytes(bytes(buffer[whole:]), "little")
    return (total + 2**63) % 2**64 - 2**63


CHECKS: dict[str, Callable[[int, int, bytes], Chunk]] = {
    "crc32": lambda offset, size, data: Chunk(offset, size, checksum(data)),
    "sum64": lambda offset, size, data: Chunk(offset, size, 0, sum64(data)),
}
"""Checksums that a fetch can ask for -> the chunk's header."""


def is_whole(chunk: Chunk, check: str, buffer: bytes | memoryview) -> bool:
    """Whether a chunk's bytes are those that were sent."""
    return sum64(buffer) == chunk.sum64 if check == "sum64" else checksum(buffer) == chunk.crc32


@dataclass
class Download:
    """The client's side of one fetch. The caller writes each accepted buffer at `offset`, in order.

    offset  bytes taken so far; after a cut call `fetch()` again and go on
    check   the checksum of chunks to ask for; a daemon of protocol 1.0 knows crc32 only
    digest  whether the sha256 of the whole is made along the way; without it `verify` is the caller's
    """

    sha256: str
    size: int
    window: int = WINDOW_BYTES
    offset: int = 0
    check: str = "crc32"
    digest: bool = True
    _taken: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def resume(self, data: bytes | memoryview) -> None:
        """Bytes that an earlier, interrupted download left, in order."""
        if self.offset + len(data) > self.size:
            raise MalformedMessage(f"a partial file longer than {self.size} bytes")
        self._digest.update(data)
        self.offset += len(data)

    def fetch(self) -> Fetch:
        """The message that starts this transfer, or takes it up again from `offset`."""
        self._taken = 0
        return Fetch(self.sha256, self.offset, self.window, self.check)

    def accept(self, chunk: Chunk, buffer: bytes | memoryview) -> int:
        """Take one chunk; returns the credit to give back now (0: none yet).

        MalformedMessage when it is not the next one or its checksum is wrong: fetch again from `offset`.
        """
        if chunk.size != self.size or chunk.offset != self.offset or len(buffer) > self.size - self.offset:
            raise MalformedMessage(
                f"a chunk at {chunk.offset} of {chunk.size} bytes", f"{self.offset} of {self.size}"
            )
        if not is_whole(chunk, self.check, buffer):
            raise MalformedMessage(f"the chunk at {chunk.offset} was altered on its way")
        if self.digest:
            self._digest.update(buffer)
        self.offset += len(buffer)
        self._taken += len(buffer)
        if self.done or self._taken * 2 < self.window:
            return 0
        credit, self._taken = self._taken, 0
        return credit

    @property
    def done(self) -> bool:
        """All bytes are here."""
        return self.offset == self.size

    def verify(self) -> None:
        """MalformedMessage when the whole is not what its sha256 says."""
        if self._digest.hexdigest() != self.sha256:
            raise MalformedMessage("the file differs from its checksum", self.sha256, "Fetch it again.")


@dataclass
class Sending:
    """The daemon's side of one fetch: what may be sent next."""

    size: int
    offset: int = 0
    credit: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= self.size:
            raise MalformedMessage(f"a fetch from byte {self.offset}", f"0 to {self.size}")
        initial, self.credit = self.credit, 0
        self.grant(initial)

    def grant(self, credit: int) -> None:
        """More may be sent. LimitExceeded above 64 MiB, MalformedMessage for none or a negative one."""
        if credit <= 0:
            raise MalformedMessage(f"a credit of {credit} bytes", "1 or more")
        if self.credit + credit > MAX_CREDIT_BYTES:
            raise LimitExceeded(
                f"a credit of {self.credit + credit} bytes", f"at most {MAX_CREDIT_BYTES} in one transfer"
            )
        self.credit += credit

    def peek(self) -> tuple[int, int] | None:
        """(offset, length) of the chunk that may be sent now; None while there is no credit, or at the end.

        Content of 0 bytes is sent as one empty chunk.
        """
        length = min(CHUNK_BYTES, self.credit, self.size - self.offset)
        if length <= 0 and self.size:
            return None
        return self.offset, length

    def sent(self, length: int) -> None:
        """That many bytes went out."""
        self.offset += length
        self.credit -= length

    @property
    def done(self) -> bool:
        """Everything was sent."""
        return self.offset == self.size


@dataclass
class Uploading:
    """The client's side of one upload: what to send next."""

    size: int
    window: int = WINDOW_BYTES
    acknowledged: int = 0
    offset: int = 0

    def start(self, offset: int) -> None:
        """The daemon has this much already (`upload_ready`)."""
        if not 0 <= offset <= self.size:
            raise MalformedMessage(f"an upload to go on at byte {offset}", f"0 to {self.size}")
        self.acknowledged = self.offset = offset

    def next(self) -> tuple[int, int] | None:
        """(offset, length) of the chunk to send now, and counts it as sent; None: wait, or all is sent."""
        length = min(
            UPLOAD_CHUNK_BYTES, self.size - self.offset, self.window - (self.offset - self.acknowledged)
        )
        if length <= 0:
            return None
        start, self.offset = self.offset, self.offset + length
        return start, length

    def acknowledge(self, offset: int) -> None:
        """The daemon has everything before `offset` (`upload_ack`)."""
        if not self.acknowledged <= offset <= self.offset:
            raise MalformedMessage(
                f"an acknowledgement of byte {offset}", f"{self.acknowledged} to {self.offset}"
            )
        self.acknowledged = offset

    @property
    def done(self) -> bool:
        """Everything was acknowledged."""
        return self.acknowledged == self.size


@dataclass
class Receiving:
    """The daemon's side of one upload. The caller writes each accepted buffer."""

    sha256: str
    size: int
    offset: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def resume(self, data: bytes) -> None:
        """Bytes that an earlier, interrupted upload left, in order."""
        self._digest.update(data)
        self.offset += len(data)

    def accept(self, chunk: UploadChunk, buffer: bytes | memoryview) -> None:
        """Take one chunk; MalformedMessage when it is not the next one, too long, or altered."""
        if chunk.offset != self.offset or not 0 < len(buffer) <= min(
            UPLOAD_CHUNK_BYTES, self.size - self.offset
        ):
            raise MalformedMessage(
                f"an upload chunk at {chunk.offset} of {len(buffer)} bytes", f"at {self.offset}, up to 1 MiB"
            )
        if checksum(buffer) != chunk.crc32:
            raise MalformedMessage(f"the chunk at {chunk.offset} was altered on its way")
        self._digest.update(buffer)
        self.offset += len(buffer)

    @property
    def done(self) -> bool:
        """All bytes are here."""
        return self.offset == self.size

    def verify(self) -> None:
        """MalformedMessage when the content is not what was announced."""
        if self._digest.hexdigest() != self.sha256:
            raise MalformedMessage("the upload differs from its checksum", self.sha256, "Upload it again.")
