"""The jobs of this session and the state of the connection, as the panel shows them; no bpy.

Only the main thread touches these objects: the client's thread sends `Update`s, `JobList.apply` takes
them in.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from shared_protocol.errors import OrreryError


class State(Enum):
    """What a job is doing. The last four are final."""

    SENDING = "sending the picture"
    QUEUED = "waiting for its turn"
    RUNNING = "running"
    CANCELLING = "cancelling"
    RECEIVING = "receiving the result"
    RECEIVED = "ready to import"
    IMPORTED = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = {State.IMPORTED, State.FAILED, State.CANCELLED}


class Link(Enum):
    """The connection to the backend."""

    OFF = "not connected"
    STARTING = "starting the backend"
    CONNECTING = "connecting"
    READY = "connected"
    LOST = "connection lost, trying again"


@dataclass(frozen=True)
class Update:
    """News from the client's thread.

    kind     "link" | "hello" | "job" | "engines"
    job      name of the job, for "job"
    changes  fields of `Job`, or of `JobList` for the other kinds
    """

    kind: str
    changes: dict[str, Any]
    job: str = ""


@dataclass
class Job:
    """One job: what was asked, how far it is, what came of it.

    done, total  steps of the current stage (0, 0 while unknown)
    fraction_received  0..1 of the result's bytes
    folder       where the result's files lie, once received
    """

    id: str
    name: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    state: State = State.SENDING
    stage: str = ""
    index: int = 0
    stages: int = 0
    done: int = 0
    total: int = 0
    text: str = ""
    fraction_received: float = 0.0
    folder: Path | None = None
    error: OrreryError | None = None
    warnings: list[str] = field(default_factory=list)
    collection: str = ""

    @property
    def final(self) -> bool:
        """Nothing more will happen to this job."""
        return self.state in FINAL

    @property
    def fraction(self) -> float:
        """0..1 over the whole job: the stages count alike."""
        if self.state in (State.RECEIVED, State.IMPORTED):
            return 1.0
        if self.state is State.RECEIVING:
            return self.fraction_received
        if not self.stages:
            return 0.0
        within = min(self.done / self.total, 1.0) if self.total else 0.0
        return min((self.index + within) / self.stages, 1.0)


@dataclass
class JobList:
    """All jobs of this session, newest last, and the connection.

    server   product, version and address of the backend, in words
    engines  one dict an engine: stage, name, ready, reason, remedy, summary
    error    why there is no connection
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    link: Link = Link.OFF
    server: str = ""
    engines: tuple[dict[str, Any], ...] = ()
    error: OrreryError | None = None

    @property
    def active(self) -> Job | None:
        """The newest job that is still going on."""
        return next((job for job in reversed(self.jobs.values()) if not job.final), None)

    @property
    def latest(self) -> Job | None:
        """The newest job."""
        return next(reversed(self.jobs.values()), None)

    def add(self, job: Job) -> None:
        """Remember a job."""
        self.jobs[job.id] = job

    def to_import(self) -> list[Job]:
        """Jobs whose result has arrived and is not in the scene yet."""
        return [job for job in self.jobs.values() if job.state is State.RECEIVED]

    def apply(self, update: Update) -> None:
        """Take in one piece of news; news for a finished or unknown job is old and is passed over."""
        target: Job | JobList | None = self.jobs.get(update.job) if update.kind == "job" else self
        if target is None or (isinstance(target, Job) and target.final):
            return
        for name, value in update.changes.items():
            if (
                name == "state"
                and target.state is State.CANCELLING
                and value in (State.QUEUED, State.RUNNING)
            ):
                continue  # the cancel overtook a progress report
            setattr(target, name, value)
