"""What daemon and worker say to each other: length-prefixed messages over the worker's stdin and stdout.

    4 bytes  length, big-endian, at most 256 KiB
    header   msgpack map as in frames.py, declared here

    daemon                         worker
                                   ready                 once, when it has loaded its tables
    run                            progress ... then done or failed
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
    EngineState,
    Failure,
    JobId,
    Limit,
    Line,
    Name,
    Record,
    ResultFile,
    Submit,
)

MAX_BYTES = 256 * 1024
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Ready(Record):
    """The worker can take a job. engines: also those of other installed packages."""

    pid: int
    engines: Annotated[tuple[EngineState, ...], Limit(256)]


@dataclass(frozen=True)
class Run(Record):
    """Run this job."""

    submit: Submit


@dataclass(frozen=True)
class CancelRun(Record):
    """Stop this job, if it is still running."""

    job: JobId


@dataclass(frozen=True)
class RunProgress(Record):
    """As `pipeline.stage.Progress`: kind is started | step | finished | reused."""

    job: JobId
    kind: Name
    stage: Name
    index: int
    stages: int
    done: int = 0
    total: int = 0
    text: Line = ""
    seconds: float = 0.0


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
    cls.__name__: cls for cls in (Ready, Run, CancelRun, RunProgress, Done, Failed)
}


def write(stream: BinaryIO, record: Record) -> None:
    """Send one record and flush. OSError (a broken pipe) when the other side is gone."""
    data = msgpack.packb([type(record).__name__, messages.to_plain(record)])
    if len(data) > MAX_BYTES:
        raise MalformedMessage(f"a worker message of {len(data)} bytes", f"at most {MAX_BYTES}")
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    stream.flush()


def read(stream: BinaryIO) -> Record | None:
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
        name, fields = msgpack.unpackb(data, max_ext_len=0)
        cls = _BY_NAME[name]
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise MalformedMessage("a worker message that is none of ours") from error
    return messages.from_plain(cls, fields)


def _read_exactly(stream: BinaryIO, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            return None
        data += more
    return data
