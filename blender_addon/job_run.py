"""One job on the wire: sending, events, previews, receiving; no bpy, on the client's thread.

Every step can be repeated: after a lost connection, or in another Blender, `resume` goes on from what is
already done.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_protocol import messages
from shared_protocol.errors import InternalError, OrreryError, UnknownJob
from shared_protocol.messages import Message

from . import history
from .connection import Connection
from .jobs import State
from .receiving import Receiving, warnings_of
from .sending import Order, Sending

MOST_PREVIEWS = 8
"""Of one name, kept and shown as a strip."""

_STATES = {messages.QUEUED: State.QUEUED, messages.RUNNING: State.RUNNING}


class JobRun:
    """The life of one job, from the pictures' bytes to the result's files.

    order  what is asked; None for a job that the backend has already
    """

    def __init__(self, job: str, order: Order | None) -> None:
        self.job, self.over = job, False
        self._order = order
        self._submitted = order is None
        self._succeeded = self._cancel = False
        self._seq = 0
        self._inputs: list[messages.InputFile] = []
        self._stage_seconds: dict[str, float] = {}
        self._previews: dict[str, tuple[Path, ...]] = {}
        self._asked: dict[str, int] = {}

    def begin(self, connection: Connection, folder: Path, publish: Callable[[dict[str, Any]], None]) -> None:
        """Say where it runs, where things are kept and who wants to know."""
        self._connection, self._publish, self._base = connection, publish, folder
        self._result = history.result_folder(folder, self.job)
        self._previews = history.previews(folder, self.job)
        self._receiving = Receiving(self.job, self._result, self._received, self.fail, self._tell_received)
        if self._order is not None:
            self._sending = Sending(
                self.job, self._order, folder, self._submit, self.fail,
                lambda files: publish({"inputs": files}),
            )  # fmt: skip

    def resume(self) -> None:
        """The connection is ready (again): go on."""
        if self.over:
            return
        if self._cancel and not self._submitted:
            self._end(State.CANCELLED)
        elif not self._submitted:
            self._sending.begin(self._connection)
        elif self._succeeded:
            self._receiving.begin(self._connection)
        else:
            self._subscribe()
            if self._cancel:
                self._connection.tell(messages.Cancel(self.job))

    def cancel(self) -> None:
        """Stop it; the daemon's last event says when it has stopped."""
        self._cancel = True
        if self._succeeded or not self._submitted:
            self._receiving.close()
            self._end(State.CANCELLED)
        elif self._connection.ready:
            self._connection.tell(messages.Cancel(self.job))
        else:
            self._end(State.CANCELLED)

    def leave(self) -> None:
        """The backend has it; another run takes it up again."""
        self.over = True
        self._receiving.close()

    def fail(self, error: OrreryError) -> None:
        """Nothing more can come of it."""
        if not self.over:
            self.over = True
            self._receiving.close()
            if isinstance(error, UnknownJob) and self._submitted:
                error = UnknownJob(
                    "the backend does not know this job any more",
                    remedy="Generate it again: its picture and settings are kept here.",
                )
            self._publish({"state": State.FAILED, "error": error, "text": ""})

    # ---- submit

    def _submit(self, inputs: list[messages.InputFile]) -> None:
        self._connection.send(self._order.message(self.job, inputs), self._on_submitted)

    def _on_submitted(self, message: Message, _: bytes | None) -> None:
        if self._failed(message) or not isinstance(message, messages.Submitted):
            return
        self._submitted = True
        self._order = self._sending = None
        self._publish({"state": State.QUEUED, "reused": message.reused, "position": message.record.position})
        if self._cancel:
            self._connection.tell(messages.Cancel(self.job))
        self._subscribe()

    # ---- events and previews

    def _subscribe(self) -> None:
        wanted = "previews" in self._connection.features
        self._connection.send(messages.Subscribe(self.job, self._seq, wanted), self._on_event)

    def _on_event(self, message: Message, _: bytes | None) -> None:
        if self._failed(message) or not isinstance(message, messages.Event):
            return
        self._seq = max(self._seq, message.seq)
        if message.kind == "preview":
            self._ask_preview(message.text, message.done)
        elif message.state == messages.SUCCEEDED:
            self._succeeded = True
            self._publish({"state": State.RECEIVING, "text": "", "fraction_received": 0.0})
            self._receiving.begin(self._connection)
        elif message.state == messages.FAILED:
            self.fail(
                message.error.error() if message.error else InternalError("the job failed without a word")
            )
        elif message.state == messages.CANCELLED:
            self._end(State.CANCELLED)
        else:
            self._publish(self._progress(message))

    def _progress(self, event: messages.Event) -> dict[str, Any]:
        changes: dict[str, Any] = {"state": _STATES.get(event.state, State.RUNNING)}
        if event.kind in ("finished", "reused"):
            self._stage_seconds[event.stage] = event.seconds if event.kind == "finished" else 0.0
            changes["stage_seconds"] = dict(self._stage_seconds)
        if event.kind == "running":
            changes["started"] = event.time
        if event.kind == "started":
            changes["stage_began"] = event.time
        if event.stage:
            changes |= {"stage": event.stage, "index": event.index, "stages": event.stages}
            changes |= {"done": event.done, "total": event.total, "text": event.text}
        return changes

    def _ask_preview(self, name: str, number: int) -> None:
        if number > self._asked.get(name, 0):
            self._asked[name] = number
            self._connection.send(messages.GetPreview(self.job, name), self._on_preview)

    def _on_preview(self, message: Message, buffer: bytes | None) -> None:
        """A picture that cannot be had or kept is passed over: the job matters."""
        if self.over or not isinstance(message, messages.Preview) or not buffer:
            return
        try:
            path = history.keep_preview(self._base, self.job, message.name, message.number, bytes(buffer))
        except OSError:
            return
        pictures = (*self._previews.get(message.name, ()), path)
        for old in pictures[:-MOST_PREVIEWS]:
            old.unlink(missing_ok=True)
        self._previews[message.name] = pictures[-MOST_PREVIEWS:]
        self._publish({"previews": dict(self._previews)})

    # ---- results

    def _received(self) -> None:
        self.over = True
        self._publish({
            "state": State.RECEIVED, "text": "", "fraction_received": 1.0,
            "folder": self._result, "warnings": warnings_of(self._result),
        })  # fmt: skip

    def _tell_received(self, fraction: float, name: str) -> None:
        self._publish({"fraction_received": fraction, "text": name})

    def _failed(self, message: Message) -> bool:
        if isinstance(message, messages.ErrorReply):
            self.fail(message.failure.error())
            return True
        return self.over

    def _end(self, state: State) -> None:
        if not self.over:
            self.over = True
            self._publish({"state": state, "text": ""})
