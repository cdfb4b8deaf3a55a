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
    cancel, move                    cancel_reply, job
    pause, resume                   queue_state
    subscribe, unsubscribe          subscribed, event ..., unsubscribed
    get_preview                     preview + bytes
    get_log                         log + bytes
    get_manifest                    manifest
    fetch, credit, stop_fetch       chunk + bytes ...
    same_host, prove, locate        nonce_file, proved, located
    get_status                      status
    shutdown                        shutdown_reply

Times are seconds since 1970 (UTC), 0.0 where there is none. records.py says what a field may hold.
"""

from shared_protocol.messages import content, daemon, jobs, parts
from shared_protocol.messages.content import (
    Chunk,
    Credit,
    Fetch,
    GetManifest,
    Locate,
    Located,
    Manifest,
    NonceFile,
    Prove,
    Proved,
    SameHost,
    StopFetch,
    UploadAck,
    UploadChunk,
    UploadReady,
    UploadStart,
)
from shared_protocol.messages.daemon import (
    ErrorReply,
    GetStatus,
    Hello,
    HelloReply,
    Ping,
    Pong,
    Shutdown,
    ShutdownReply,
    Status,
)
from shared_protocol.messages.jobs import (
    Cancel,
    CancelReply,
    Event,
    GetJob,
    GetLog,
    GetPreview,
    Job,
    Jobs,
    ListJobs,
    Log,
    Move,
    Pause,
    Preview,
    QueueState,
    Resume,
    Submit,
    Submitted,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from shared_protocol.messages.parts import (
    CANCELLED,
    FAILED,
    PREVIEW_BYTES,
    QUEUED,
    RUNNING,
    STATES,
    SUCCEEDED,
    TERMINAL,
    DeviceState,
    EngineState,
    Failure,
    InputFile,
    JobRecord,
    Limits,
    ResultFile,
    WorkerState,
)
from shared_protocol.messages.records import (
    JobId,
    Limit,
    Line,
    Message,
    Name,
    Options,
    Path,
    Plain,
    Record,
    Sentence,
    Sha256,
    from_plain,
    to_plain,
)

MODULES = (daemon, content, jobs, parts)
"""Where messages and their parts are declared, in the order of the reference."""

MESSAGES: tuple[type[Message], ...] = tuple(Message.__subclasses__())
BY_TYPE: dict[str, type[Message]] = {cls.type: cls for cls in MESSAGES}

__all__ = [
    "BY_TYPE", "CANCELLED", "FAILED", "MESSAGES", "MODULES", "PREVIEW_BYTES", "QUEUED", "RUNNING", "STATES",
    "SUCCEEDED", "TERMINAL", "Cancel", "CancelReply", "Chunk", "Credit", "DeviceState", "EngineState",
    "ErrorReply", "Event", "Failure", "Fetch", "GetJob", "GetLog", "GetManifest", "GetPreview", "GetStatus",
    "Hello", "HelloReply", "InputFile", "Job", "JobId", "JobRecord", "Jobs", "Limit", "Limits", "Line",
    "ListJobs", "Locate", "Located", "Log", "Manifest", "Message", "Move", "Name", "NonceFile", "Options",
    "Path", "Pause", "Ping",
    "Plain", "Pong", "Preview", "Prove", "Proved", "QueueState", "Record", "ResultFile",
    "Resume", "SameHost", "Sentence", "Sha256", "Shutdown", "ShutdownReply", "Status", "StopFetch", "Submit",
    "Submitted", "Subscribe", "Subscribed", "Unsubscribe", "Unsubscribed", "UploadAck", "UploadChunk",
    "UploadReady", "UploadStart", "WorkerState", "from_plain", "to_plain",
]  # fmt: skip
