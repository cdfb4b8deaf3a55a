"""Messages about jobs: submit, list, cancel, order of the queue, events, previews, logs."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from shared_protocol.messages.parts import Failure, InputFile, JobRecord
from shared_protocol.messages.records import JobId, Limit, Line, Message, Name, Options


@dataclass(frozen=True)
class Submit(Message):
    """A new job. The same job id with the same content gives the same record; with other content, conflict.

    options  {"texture.size": 2048, "orbit.engine": "inflate"}: changes to the preset `quality`
    label    what the user sees in the list
    priority  higher runs first among the jobs of the same client, -100 to 100
    """

    type = "submit"
    job: JobId
    recipe: Name
    inputs: Annotated[tuple[InputFile, ...], Limit(64)]
    quality: Name = "standard"
    options: Options = dataclasses.field(default_factory=dict)
    seed: int = 0
    label: Line = ""
    priority: int = 0


@dataclass(frozen=True)
class Submitted(Message):
    """The job is on disk and survives a crash. `created` is false when it was known already.

    reused  stages whose result is stored already, from an earlier job: they will not be run again
    """

    type = "submitted"
    record: JobRecord
    created: bool
    reused: Annotated[tuple[Name, ...], Limit(32)] = ()


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


@dataclass(frozen=True)
class Subscribe(Message):
    """Send the events of a job numbered above `after` (0: all), then those to come.

    previews  whether `preview` events are wanted too
    """

    type = "subscribe"
    job: JobId
    after: int = 0
    previews: bool = False


@dataclass(frozen=True)
class Subscribed(Message):
    """Events follow, under the same request number; none when `record` is final and `after` its last."""

    type = "subscribed"
    record: JobRecord


@dataclass(frozen=True)
class Event(Message):
    """What happened to a job.

    kind  queued | running | started | step | finished | reused | requeued | cancelling
          | succeeded | failed | cancelled | preview
    seq   1, 2, 3 ... a job; stored and replayable. A `step` is not stored: it has the number of the event
          before it, at most 10 come a second, and a slow reader sees only the newest. So is a `preview`,
          which says that `get_preview` has something newer: `text` is its name, `done` its number.
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


# ---- the queue


@dataclass(frozen=True)
class Move(Message):
    """Put a waiting job at this place (0: next) among the waiting jobs of its client. Answered with `job`."""

    type = "move"
    job: JobId
    position: int


@dataclass(frozen=True)
class Pause(Message):
    """Begin no waiting job until `resume`, also after a restart; what runs goes on."""

    type = "pause"


@dataclass(frozen=True)
class Resume(Message):
    """Begin waiting jobs again."""

    type = "resume"


@dataclass(frozen=True)
class QueueState(Message):
    """How the queue stands now."""

    type = "queue_state"
    paused: bool
    waiting: int


# ---- previews and logs


@dataclass(frozen=True)
class GetPreview(Message):
    """The newest picture called `name` ("cutout", "orbit", "splats", "surface") of a running job.

    after  number of the one that is here already: an older or equal one is not sent again
    """

    type = "get_preview"
    job: JobId
    name: Name
    after: int = 0


@dataclass(frozen=True)
class Preview(Message):
    """A small picture, at most 256 KiB. `number` grows; the buffer is empty when there is none newer."""

    type = "preview"
    carries_buffer = True
    job: JobId
    name: Name
    number: int
    media_type: Name = "image/jpeg"


@dataclass(frozen=True)
class GetLog(Message):
    """What was logged of a job, from byte `offset`."""

    type = "get_log"
    job: JobId
    offset: int = 0


@dataclass(frozen=True)
class Log(Message):
    """A piece of UTF-8 text, lines of JSON and what libraries printed; `size` bytes there are in all now."""

    type = "log"
    carries_buffer = True
    job: JobId
    offset: int
    size: int
