"""Messages that move content: pictures to the daemon, results to the client."""

from dataclasses import dataclass
from typing import Annotated

from shared_protocol.messages.parts import ResultFile
from shared_protocol.messages.records import JobId, Limit, Message, Name, Path, Sha256


@dataclass(frozen=True)
class UploadStart(Message):
    """Announce content by its hash. Its request number names the transfer in `upload_chunk`."""

    type = "upload_start"
    sha256: Sha256
    size: int


@dataclass(frozen=True)
class UploadReady(Message):
    """Send from `offset`; equal to the size when the content is already there."""

    type = "upload_ready"
    offset: int


@dataclass(frozen=True)
class UploadChunk(Message):
    """Bytes at `offset`, in order; crc32 (zlib) of the buffer. `transfer` is `upload_start`'s request."""

    type = "upload_chunk"
    carries_buffer = True
    transfer: int
    offset: int
    crc32: int


@dataclass(frozen=True)
class UploadAck(Message):
    """Everything before `offset` is stored; `complete` after the whole was checked against its hash.

    Answers with the request number of `upload_start`.
    """

    type = "upload_ack"
    offset: int
    complete: bool = False


@dataclass(frozen=True)
class GetManifest(Message):
    """The files of a finished job, from number `start`."""

    type = "get_manifest"
    job: JobId
    start: int = 0


@dataclass(frozen=True)
class Manifest(Message):
    """Files `start` to `start + len(files)` of `total`."""

    type = "manifest"
    job: JobId
    start: int
    total: int
    files: Annotated[tuple[ResultFile, ...], Limit(128)]


@dataclass(frozen=True)
class Fetch(Message):
    """Send a result's content from `offset` to its end, `credit` bytes at first. Its request number names
    the transfer; an interrupted one is resumed by a new `fetch` from where it stopped.

    check  which checksum the chunks carry: crc32, or the quicker sum64
    """

    type = "fetch"
    sha256: Sha256
    offset: int = 0
    credit: int = 8 * 1024 * 1024
    check: Name = "crc32"


@dataclass(frozen=True)
class Chunk(Message):
    """Bytes at `offset` of content that has `size` bytes in all.

    crc32  zlib's, of the buffer; 0 where sum64 was asked for
    sum64  the buffer, padded with zeros to a multiple of 8, as little-endian 64-bit integers: their sum
           modulo 2**64, as a signed integer
    """

    type = "chunk"
    carries_buffer = True
    offset: int
    size: int
    crc32: int
    sum64: int = 0


@dataclass(frozen=True)
class Credit(Message):
    """`bytes` more may be sent in this transfer. Not answered."""

    type = "credit"
    transfer: int
    bytes: int


@dataclass(frozen=True)
class StopFetch(Message):
    """Send no more of this transfer. Not answered."""

    type = "stop_fetch"
    transfer: int


# ---- without a copy through the connection, where client and daemon see the same files


@dataclass(frozen=True)
class SameHost(Message):
    """Where is a file that only those can read who see the daemon's store?"""

    type = "same_host"


@dataclass(frozen=True)
class NonceFile(Message):
    """Read this file and `prove` that you did. Whoever cannot read it fetches chunks."""

    type = "nonce_file"
    path: Path


@dataclass(frozen=True)
class Prove(Message):
    """The text of the nonce file."""

    type = "prove"
    nonce: Name


@dataclass(frozen=True)
class Proved(Message):
    """This connection may `locate`."""

    type = "proved"


@dataclass(frozen=True)
class Locate(Message):
    """Where does a result's content lie? After `prove` only."""

    type = "locate"
    sha256: Sha256


@dataclass(frozen=True)
class Located(Message):
    """An immutable file: read it or map it, never write it."""

    type = "located"
    path: Path
    size: int
