"""What daemon and worker say to each other: length-prefixed messages over the worker's stdin and stdout.

    4 bytes  length, big-endian, at most 512 KiB
    rest     msgpack [name, map of fields] or [name, map of fields, bytes], declared here

    daemon                         worker
                                   ready                 once, when it has loaded its tables
    run                            progress, preview, devices ... then done or failed
    cancel_run                     (failed with code `cancelled`)
    end of the pipe                the worker ends: nobody would take its result

A pipe needs no port and no secret, works on every system, and its end tells at once that the other died.
"""

from dataclasses import dataclass
from typing import Annotated, BinaryIO

import msgpack

from shared_protocol import messages
from shared_protocol.errors import MalformedMessage
from shared_protocol.messages import (
    DeviceState,
    EngineState,
    Failure,
    JobId,
    Limit,
    Line,
    Name,
    Path,
    Record,
    ResultFile,
    Submit,
)

MAX_BYTES = 512 * 1024
SICK_EXIT_CODE = 75
"""With which a worker ends whose GPU context is broken: only a new process gets a new context."""
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Ready(Record):
    """The worker can take a job. engines: also those of other installed packages."""

    pid: int
    engines: Annotated[tuple[EngineState, ...], Limit(256)]


@dataclass(frozen=True)
class Run(Record):
    """Run this job.

    log         file that takes what is printed meanwhile
    low_memory  an earlier attempt ran out of memory, or may have: take the engines' way that needs less
    """

    submit: Submit
    log: Path = ""
    low_memory: bool = False


@dataclass(frozen=True)
class CancelRun(Record):
    """Stop this job, if it is still running."""

    job: JobId


@dataclass(frozen=True)
class RunProgress(Record):
    """As `pipeline.stage.Progress`: kind is started | step | finished | reused.

    key  of the stage's stored result, where it is finished or reused
    """

    job: JobId
    kind: Name
    stage: Name
    index: int
    stages: int
    done: int = 0
    total: int = 0
    text: Line = ""
    seconds: float = 0.0
    key: Annotated[str, Limit(64)] = ""


@dataclass(frozen=True)
class PreviewMade(Record):
    """A small picture of what the job has so far, in the buffer."""

    job: JobId
    name: Name
    media_type: Name


@dataclass(frozen=True)
class Devices(Record):
    """The devices that this worker sees, and their memory."""

    devices: Annotated[tuple[DeviceState, ...], Limit(64)]


@dataclass(frozen=True)
class Done(Record):
    """The job's files are in the artifact store."""

    job: JobId
    results: Annotated[tuple[ResultFile, ...], Limit(1024)]


@dataclass(frozen=True)
class Failed(Record):
    """The job ended with this error."""

    job: JobId
    failure: Failure


_BY_NAME: dict[str, type[Record]] = {
    cls.__name__: cls for cls in (Ready, Run, CancelRun, RunProgress, PreviewMade, Devices, Done, Failed)
}


@dataclass(frozen=True)
class Message:
    """A record as received, and the bytes that came with it."""

    record: Record
    buffer: bytes = b""


def write(stream: BinaryIO, record: Record, buffer: bytes = b"") -> None:
    """Send one record and flush. OSError (a broken pipe) when the other side is gone."""
    data = msgpack.packb([type(record).__name__, messages.to_plain(record), *([buffer] if buffer else [])])
    if len(data) > MAX_BYTES:
        raise MalformedMessage(f"a worker message of {len(data)} bytes", f"at most {MAX_BYTES}")
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    stream.flush()


def read(stream: BinaryIO) -> Message | None:
    """The next record; None at the end of the pipe. MalformedMessage when it is none of ours."""
    head = _read_exactly(stream, _LENGTH_BYTES)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > MAX_BYTES:
        raise MalformedMessage(f"a worker message of {length} bytes", f"at most {MAX_BYTES}")
    data = _read_exactly(stream, length)
    if data is None:
        return None
    try:
        name, fields, *rest = msgpack.unpackb(data, max_ext_len=0)
        cls = _BY_NAME[name]
        (buffer,) = rest or (b"",)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise MalformedMessage("a worker message that is none of ours") from error
    if type(fields) is not dict or type(buffer) is not bytes:
        raise MalformedMessage("a worker message that is none of ours")
    return Message(messages.from_plain(cls, fields), buffer)


def _read_exactly(stream: BinaryIO, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            return None
        data += more
    return data
