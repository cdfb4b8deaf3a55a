"""The records inside messages: limits, engines, pictures, failures, jobs, results, workers."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from shared_protocol.errors import OrreryError, from_wire
from shared_protocol.messages.records import (
    JobId,
    Limit,
    Line,
    Name,
    Options,
    Record,
    Sentence,
    Sha256,
    plain_details,
)

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
STATES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED)
TERMINAL = (SUCCEEDED, FAILED, CANCELLED)
PREVIEW_BYTES = 256 * 1024
"""Most of one preview picture."""


@dataclass(frozen=True)
class Limits(Record):
    """What the daemon takes.

    image_bytes, images, job_bytes  of one picture, pictures of a job, all pictures of a job
    chunk_bytes, window_bytes       size of a chunk, bytes on the way without a new credit
    queued_jobs                     waiting jobs of one client
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
            error.code,
            error.found[:2048],
            error.expected[:2048],
            error.remedy[:2048],
            plain_details(error.details),
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
    reused    stages whose stored result was taken; of a waiting job, those that are stored already
    position  in the queue, 0 is next; -1 when not queued
    attempts  how often a worker began it
    priority  higher runs first among the jobs of the same client; clients take turns
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
    priority: int = 0


@dataclass(frozen=True)
class ResultFile(Record):
    """One file of a result: POSIX path below the result's folder, size in bytes, sha256 of its content."""

    name: Line
    size: int
    sha256: Sha256


@dataclass(frozen=True)
class WorkerState(Record):
    """One worker process.

    state         starting | idle | busy | stopping | stalled | stopped
    memory_bytes  resident memory of its process, 0 where the system does not tell
    device        what it computes on: "cpu", "cuda:0" ...
    """

    state: Name
    pid: int = 0
    job: Annotated[str, Limit(32)] = ""
    stage: Name = ""
    restarts: int = 0
    memory_bytes: int = 0
    device: Name = ""


@dataclass(frozen=True)
class DeviceState(Record):
    """One device of the daemon's machine: memory in bytes, 0 where the system does not tell."""

    name: Name
    memory_bytes: int = 0
    free_bytes: int = 0
