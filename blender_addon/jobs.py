"""The jobs and the state of the connection, as the panels show them; no bpy.

Only the main thread touches these objects: the client's thread sends `Update`s, `JobList.apply` takes
them in.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from shared_protocol.errors import OrreryError


class State(Enum):
    """What a job is doing."""

    SENDING = "sending the picture"
    QUEUED = "waiting for its turn"
    RUNNING = "running"
    CANCELLING = "cancelling"
    RECEIVING = "receiving the result"
    RECEIVED = "ready to import"
    IMPORTING = "putting it into the scene"
    IMPORTED = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    AWAY = "was going on when Blender was closed"
    STORED = "its result is at the backend"


FINAL = {State.IMPORTED, State.FAILED, State.CANCELLED}
"""Nothing more happens by itself, and late news is passed over."""

GOING_ON = {
    State.SENDING, State.QUEUED, State.RUNNING, State.CANCELLING, State.RECEIVING, State.IMPORTING,
}  # fmt: skip


MOST_FINISHED = ("surface", "splats", "orbit", "cutout")
"""Names of previews."""


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

    kind     "link" | "job" | "jobs" | "history"
    job      name of the job, for "job"
    changes  fields of `Job`, or of `JobList` for "link"; {"records": ...} or {"jobs": ...} for the others
    """

    kind: str
    changes: dict[str, Any]
    job: str = ""


@dataclass
class Job:
    """One job: what was asked, how far it is, what came of it.

    recipe       what the backend makes of the inputs
    client       who sent it, where that was not this Blender
    group        jobs that were sent together, to choose from
    created, started  seconds since 1970, 0 while unknown
    inputs       names of the pictures kept in its folder, for another try
    done, total  steps of the current stage (0, 0 while unknown)
    stage_began  seconds since 1970
    stage_seconds  stage -> seconds it took, of the finished ones; stages taken from the store count 0
    reused       stages whose stored result is taken
    position     in the queue, 0 is next, -1 unknown
    previews     name -> its pictures, the newest last
    offered      found again from an earlier Blender: its result is not imported by itself
    seen         the user has been told of its result or error, and closed that box
    fraction_received  0..1 of the result's bytes
    folder       where the result's files lie, once received
    """

    id: str
    name: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    state: State = State.SENDING
    recipe: str = "image_to_3d"
    client: str = ""
    group: str = ""
    created: float = 0.0
    started: float = 0.0
    inputs: tuple[str, ...] = ()
    stage: str = ""
    index: int = 0
    stages: int = 0
    done: int = 0
    total: int = 0
    text: str = ""
    stage_began: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    reused: tuple[str, ...] = ()
    position: int = -1
    previews: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    offered: bool = False
    seen: bool = False
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
    def going_on(self) -> bool:
        """It changes by itself; one that waits for the user does not."""
        return self.state in GOING_ON or (self.state is State.RECEIVED and not self.offered)

    @property
    def picture(self) -> Path | None:
        """The picture that shows most of the result; its cut-out where nothing had to be computed."""
        found = next((self.previews[name][-1] for name in MOST_FINISHED if self.previews.get(name)), None)
        if found is None and self.folder is not None and (self.folder / "cutout.png").exists():
            return self.folder / "cutout.png"
        return found

    @property
    def fraction(self) -> float:
        """0..1 over the whole job: the stages count alike."""
        if self.state in (State.RECEIVED, State.IMPORTING, State.IMPORTED):
            return 1.0
        if self.state is State.RECEIVING:
            return self.fraction_received
        if not self.stages:
            return 0.0
        within = min(self.done / self.total, 1.0) if self.total else 0.0
        return min((self.index + within) / self.stages, 1.0)


@dataclass
class JobList:
    """All jobs that are remembered, newest last, and the connection.

    server   product, version and address of the backend, in words
    version  of the backend, "" while unknown
    engines  one dict an engine: stage, name, ready, reason, remedy, summary
    recipes  what the backend can be asked for
    paused   no waiting job is begun
    host     where the backend is, "" for this machine
    hidden   ids of jobs that the user deleted: the backend may still list them
    error    why there is no connection
    notice   what became of a connection that was lost
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    link: Link = Link.OFF
    server: str = ""
    version: str = ""
    engines: tuple[dict[str, Any], ...] = ()
    recipes: tuple[str, ...] = ()
    paused: bool = False
    host: str = ""
    hidden: set[str] = field(default_factory=set)
    error: OrreryError | None = None
    notice: str = ""

    @property
    def active(self) -> Job | None:
        """The newest job that is still going on."""
        return next((job for job in reversed(self.jobs.values()) if job.going_on), None)

    @property
    def queue(self) -> list[Job]:
        """The jobs that go on, the oldest first."""
        return [job for job in self.jobs.values() if job.going_on]

    @property
    def latest(self) -> Job | None:
        """The newest job of this Blender."""
        return next((job for job in reversed(self.jobs.values()) if not job.client), None)

    def add(self, job: Job) -> None:
        """Remember a job."""
        self.jobs[job.id] = job

    def take_in(self, jobs: list[Job]) -> None:
        """Remember older jobs beside those that are known."""
        known = {**{job.id: job for job in jobs}, **self.jobs}
        self.jobs = {job.id: job for job in sorted(known.values(), key=lambda job: job.created)}

    def away(self) -> list[Job]:
        """Jobs of an earlier Blender that the backend has not been asked about."""
        return [job for job in self.jobs.values() if job.state is State.AWAY]

    def to_import(self) -> list[Job]:
        """Jobs whose result has arrived and is to be put into the scene by itself."""
        return [job for job in self.jobs.values() if job.state is State.RECEIVED and not job.offered]

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
