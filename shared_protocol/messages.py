"""Every message between client and daemon, one frozen dataclass each: the reference of the wire.

A header is the msgpack map of a dataclass's fields beside "type" and "request" (see frames.py). Names are
the dataclass's `type`. A reply carries the request number of what it answers; so do the events of a
subscription and the chunks of a transfer. What can go wrong is answered with `error`.

    client                          daemon
    hello                           hello_reply
    ping                            pong
    upload_start                    upload_ready    (how much of this content is already there)
    upload_chunk + bytes            upload_ack
    submit                          submitted       (after the record is on disk; idempotent)
    get_job, list_jobs              job, jobs
    cancel                          cancel_reply
    subscribe, unsubscribe          subscribed, event ..., unsubscribed
    get_manifest                    manifest
    fetch, credit, stop_fetch       chunk + bytes ...
    get_status                      status
    shutdown                        shutdown_reply

Decoding is strict: a field has its declared type or the message is refused; texts, lists and maps have
stated limits; unknown fields are ignored. Times are seconds since 1970 (UTC), 0.0 where there is none.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from shared_protocol.errors import MalformedMessage, OrreryError, from_wire

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
STATES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED)
TERMINAL = (SUCCEEDED, FAILED, CANCELLED)

Plain = Any
"""Scalars, and lists and text-keyed maps of them, at most 4 levels deep."""

_PLAIN_DEPTH = 4
_MAX_INT = 2**63 - 1


@dataclass(frozen=True)
class Limit:
    """Longest text (characters) or list (items) of a field; a `pattern` name narrows a text further."""

    most: int
    hexadecimal: bool = False


Name = Annotated[str, Limit(64)]
Line = Annotated[str, Limit(512)]
Sentence = Annotated[str, Limit(2048)]
JobId = Annotated[str, Limit(32, hexadecimal=True)]
"""uuid4().hex, made by the client: submitting twice is then harmless."""
Sha256 = Annotated[str, Limit(64, hexadecimal=True)]
Options = Annotated[dict[str, Plain], Limit(128)]


@dataclass(frozen=True)
class Record:
    """Base of everything on the wire: checked fields, nothing else."""


@dataclass(frozen=True)
class Message(Record):
    """Base of the messages.

    type            its name on the wire
    carries_buffer  whether a raw buffer follows the header
    """

    type: ClassVar[str] = ""
    carries_buffer: ClassVar[bool] = False


# ---- parts of messages


@dataclass(frozen=True)
class Limits(Record):
    """What the daemon takes.

    image_bytes, images, job_bytes  of one picture, pictures of a job, all pictures of a job
    chunk_bytes, window_bytes       size of a chunk, bytes on the way without a new credit
    """

    image_bytes: int = 32 * 1024 * 1024
    images: int = 64
    job_bytes: int = 512 * 1024 * 1024
    chunk_bytes: int = 1024 * 1024
    window_bytes: int = 8 * 1024 * 1024
    queued_jobs: int = 1000


@dataclass(frozen=True)
class EngineState(Record):
    """One engine of one stage: ready, or why not and what to do."""

    stage: Name
    name: Name
    summary: Line
    embedded: bool
    ready: bool
    reason: Line = ""
    remedy: Line = ""


@dataclass(frozen=True)
class InputFile(Record):
    """One uploaded picture of a job: the user's name for it (never used as a path), its content's hash."""

    name: Line
    sha256: Sha256
    size: int


@dataclass(frozen=True)
class Failure(Record):
    """An error as data: see errors.py."""

    code: Name
    found: Sentence
    expected: Sentence = ""
    remedy: Sentence = ""
    details: Options = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, error: OrreryError) -> "Failure":
        """The error in words that fit the wire."""
        return cls(
            error.code, error.found[:2048], error.expected[:2048], error.remedy[:2048], _plain(error.details)
        )

    def error(self) -> OrreryError:
        """The error to raise."""
        return from_wire(dataclasses.asdict(self))


@dataclass(frozen=True)
class JobRecord(Record):
    """One job as it stands.

    state     queued | running | succeeded | failed | cancelled; the last three are final
    stage, index, stages, done, total, text   where it is: stage `index` (from 0) of `stages`, step `done`
              of `total` (0 of 0 while unknown), in words
    reused    stages whose stored result was taken
    position  in the queue, 0 is next; -1 when not queued
    attempts  how often a worker began it
    seq       number of its latest event
    """

    job: JobId
    state: Name
    recipe: Name
    quality: Name = "standard"
    seed: int = 0
    options: Options = dataclasses.field(default_factory=dict)
    label: Line = ""
    client: Name = ""
    stage: Name = ""
    index: int = 0
    stages: int = 0
    done: int = 0
    total: int = 0
    text: Line = ""
    reused: Annotated[tuple[Name, ...], Limit(32)] = ()
    position: int = -1
    attempts: int = 0
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    seq: int = 0
    error: Failure | None = None


@dataclass(frozen=True)
class ResultFile(Record):
    """One file of a result: POSIX path below the result's folder, size in bytes, sha256 of its content."""

    name: Line
    size: int
    sha256: Sha256


@dataclass(frozen=True)
class WorkerState(Record):
    """One worker process: starting | idle | busy | stopping | stopped."""

    state: Name
    pid: int = 0
    job: Annotated[str, Limit(32)] = ""
    stage: Name = ""
    restarts: int = 0


# ---- connection


@dataclass(frozen=True)
class Hello(Message):
    """First message of a connection, and again after each reconnect.

    token   from the connection file (endpoint.py)
    client  a lasting name of this client, shown beside its jobs ("blender", "cli")
    """

    type = "hello"
    token: Annotated[str, Limit(256)]
    client: Name
    version: Name = ""


@dataclass(frozen=True)
class HelloReply(Message):
    """Who answers. A changed `boot` means: the daemon was started anew, subscribe again."""

    type = "hello_reply"
    product: Name
    version: Name
    protocol: Name
    boot: Name
    limits: Limits
    engines: Annotated[tuple[EngineState, ...], Limit(256)]
    recipes: Annotated[tuple[Name, ...], Limit(64)]
    features: Annotated[tuple[Name, ...], Limit(64)] = ()


@dataclass(frozen=True)
class Ping(Message):
    """Is the daemon's loop alive?"""

    type = "ping"


@dataclass(frozen=True)
class Pong(Message):
    """Yes; the same `boot` as in `hello_reply`."""

    type = "pong"
    boot: Name


@dataclass(frozen=True)
class ErrorReply(Message):
    """The request failed."""

    type = "error"
    failure: Failure


# ---- upload


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


# ---- jobs


@dataclass(frozen=True)
class Submit(Message):
    """A new job. The same job id with the same content gives the same record; with other content, conflict.

    options  {"texture.size": 2048, "orbit.engine": "inflate"}: changes to the preset `quality`
    label    what the user sees in the list
    """

    type = "submit"
    job: JobId
    recipe: Name
    inputs: Annotated[tuple[InputFile, ...], Limit(64)]
    quality: Name = "standard"
    options: Options = dataclasses.field(default_factory=dict)
    seed: int = 0
    label: Line = ""


@dataclass(frozen=True)
class Submitted(Message):
    """The job is on disk and survives a crash. `created` is false when it was known already."""

    type = "submitted"
    record: JobRecord
    created: bool


@dataclass(frozen=True)
class GetJob(Message):
    """How does this job stand?"""

    type = "get_job"
    job: JobId


@dataclass(frozen=True)
class Job(Message):
    """The record of one job."""

    type = "job"
    record: JobRecord


@dataclass(frozen=True)
class ListJobs(Message):
    """Jobs, the newest first, at most `limit` (50); `before` is `next` of the previous page."""

    type = "list_jobs"
    states: Annotated[tuple[Name, ...], Limit(8)] = ()
    limit: int = 50
    before: int = 0


@dataclass(frozen=True)
class Jobs(Message):
    """One page; `next` is 0 on the last one."""

    type = "jobs"
    records: Annotated[tuple[JobRecord, ...], Limit(64)]
    next: int = 0


@dataclass(frozen=True)
class Cancel(Message):
    """Cancel this job, never "the current one"."""

    type = "cancel"
    job: JobId


@dataclass(frozen=True)
class CancelReply(Message):
    """Noted. A running job ends within a second or so: its last event says when."""

    type = "cancel_reply"
    record: JobRecord


# ---- events


@dataclass(frozen=True)
class Subscribe(Message):
    """Send the events of a job numbered above `after` (0: all), then those to come."""

    type = "subscribe"
    job: JobId
    after: int = 0


@dataclass(frozen=True)
class Subscribed(Message):
    """Events follow, under the same request number."""

    type = "subscribed"
    record: JobRecord


@dataclass(frozen=True)
class Event(Message):
    """What happened to a job.

    kind  queued | running | started | step | finished | reused | requeued | cancelling
          | succeeded | failed | cancelled
    seq   1, 2, 3 ... a job; stored and replayable. A `step` is not stored: it has the number of the event
          before it, at most 10 come a second, and a slow reader sees only the newest.
    """

    type = "event"
    job: JobId
    seq: int
    kind: Name
    state: Name
    time: float
    stage: Name = ""
    index: int = 0
    stages: int = 0
    done: int = 0
    total: int = 0
    text: Line = ""
    seconds: float = 0.0
    error: Failure | None = None


@dataclass(frozen=True)
class Unsubscribe(Message):
    """End the subscription with this request number."""

    type = "unsubscribe"
    subscription: int


@dataclass(frozen=True)
class Unsubscribed(Message):
    """No more events come."""

    type = "unsubscribed"


# ---- results


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
    the transfer; an interrupted one is resumed by a new `fetch` from where it stopped."""

    type = "fetch"
    sha256: Sha256
    offset: int = 0
    credit: int = 8 * 1024 * 1024


@dataclass(frozen=True)
class Chunk(Message):
    """Bytes at `offset` of content that has `size` bytes in all; crc32 (zlib) of the buffer."""

    type = "chunk"
    carries_buffer = True
    offset: int
    size: int
    crc32: int


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


# ---- the daemon itself


@dataclass(frozen=True)
class GetStatus(Message):
    """How is the daemon?"""

    type = "get_status"


@dataclass(frozen=True)
class Status(Message):
    """counts: jobs by state; counters: messages, refused, chunks ... since the start."""

    type = "status"
    product: Name
    version: Name
    protocol: Name
    boot: Name
    pid: int
    uptime: float
    memory_bytes: int
    counts: Options
    counters: Options
    workers: Annotated[tuple[WorkerState, ...], Limit(64)]
    engines: Annotated[tuple[EngineState, ...], Limit(256)] = ()


@dataclass(frozen=True)
class Shutdown(Message):
    """Stop the daemon; queued jobs stay in the store."""

    type = "shutdown"


@dataclass(frozen=True)
class ShutdownReply(Message):
    """It stops now."""

    type = "shutdown_reply"


MESSAGES: tuple[type[Message], ...] = tuple(Message.__subclasses__())
BY_TYPE: dict[str, type[Message]] = {cls.type: cls for cls in MESSAGES}


# ---- dataclass <-> plain


def to_plain(record: Record) -> dict[str, Any]:
    """The map that stands for a record in a header."""
    return {field.name: _value_to_plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def from_plain(cls: type[Any], fields: dict[str, Any]) -> Any:
    """The record that this map stands for; MalformedMessage names the field that is wrong."""
    values = {}
    for name, kind, limit, required in _schema(cls):
        if name in fields:
            values[name] = _checked(fields[name], kind, limit, f"{cls.__name__}.{name}")
        elif required:
            raise MalformedMessage(f"{cls.__name__} lacks '{name}'")
    return cls(**values)


@cache
def _schema(cls: type[Any]) -> tuple[tuple[str, Any, Limit | None, bool], ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = []
    for field in dataclasses.fields(cls):
        kind, limit = _unwrap(hints[field.name])
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rows.append((field.name, kind, limit, required))
    return tuple(rows)


def _unwrap(hint: Any) -> tuple[Any, Limit | None]:
    if typing.get_origin(hint) is Annotated:
        kind, *extras = typing.get_args(hint)
        return kind, next(extra for extra in extras if isinstance(extra, Limit))
    return hint, None


def _value_to_plain(value: Any) -> Any:
    if isinstance(value, Record):
        return to_plain(value)
    if isinstance(value, tuple):
        return [_value_to_plain(item) for item in value]
    return value


def _checked(value: Any, kind: Any, limit: Limit | None, where: str) -> Any:
    """`value` as the declared type, or MalformedMessage. A bool is no int; an int is a fine float."""
    if kind is str:
        if type(value) is not str or (limit and len(value) > limit.most):
            raise _wrong(value, where, f"a text of at most {limit.most if limit else 0} characters")
        if limit and limit.hexadecimal and (len(value) != limit.most or not _is_hexadecimal(value)):
            raise _wrong(value, where, f"{limit.most} lower-case hexadecimal digits")
        return value
    if kind is bool:
        if type(value) is not bool:
            raise _wrong(value, where, "a bool")
        return value
    if kind is int:
        if type(value) is not int or not -_MAX_INT <= value <= _MAX_INT:
            raise _wrong(value, where, "a 64-bit integer")
        return value
    if kind is float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _wrong(value, where, "a finite number")
        return float(value)
    origin = typing.get_origin(kind)
    if origin is tuple:
        item, item_limit = _unwrap(typing.get_args(kind)[0])
        if type(value) is not list or (limit and len(value) > limit.most):
            raise _wrong(value, where, f"a list of at most {limit.most if limit else 0}")
        return tuple(_checked(one, item, item_limit, where) for one in value)
    if origin is dict:
        if type(value) is not dict or (limit and len(value) > limit.most):
            raise _wrong(value, where, f"a map of at most {limit.most if limit else 0}")
        _check_plain(value, where, _PLAIN_DEPTH)
        return value
    if origin is types.UnionType:
        if value is None:
            return None
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if type(value) is not dict:
        raise _wrong(value, where, "a map")
    return from_plain(kind, value)


def _check_plain(value: Any, where: str, depth: int) -> None:
    if depth < 0:
        raise MalformedMessage(f"{where} is nested too deep", f"at most {_PLAIN_DEPTH} levels")
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _wrong(key, where, "texts as keys")
            _check_plain(item, where, depth - 1)
    elif type(value) is list:
        for item in value:
            _check_plain(item, where, depth - 1)
    elif type(value) is float and not math.isfinite(value):
        raise _wrong(value, where, "finite numbers")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise _wrong(value, where, "plain values")


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    """Details of an error, made fit for the wire: at most 32 of them, what is not plain as text."""
    fit: dict[str, Any] = {}
    for key, value in list(details.items())[:32]:
        try:
            _check_plain(value, key, _PLAIN_DEPTH - 1)
        except MalformedMessage:
            value = str(value)
        fit[str(key)[:64]] = value[:512] if isinstance(value, str) else value
    return fit


def _is_hexadecimal(text: str) -> bool:
    return not text.strip("0123456789abcdef")


def _wrong(value: Any, where: str, expected: str) -> MalformedMessage:
    text = repr(value) if type(value) in (int, float, bool) else f"a {type(value).__name__}"
    return MalformedMessage(f"{where} is {text}", expected)
