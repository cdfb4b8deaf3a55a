"""The add-on's side of the wire: one background thread that owns the socket; no bpy.

The main thread leaves commands in a queue and takes `Update`s out of another; it never waits.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_protocol import messages
from shared_protocol.errors import InternalError, NotReachable, OrreryError
from shared_protocol.messages import Message

from . import history
from .backend_place import Place
from .connection import Connection
from .job_run import JobRun
from .jobs import Link, State, Update
from .sending import Order

POLL_SECONDS = 0.05
"""The longest a command waits for the thread to look up from the socket."""

LIST_SECONDS = 3.0
"""How often the backend's list of jobs is asked for while one of ours goes on."""

LISTED_JOBS = 50
CLOSE_SECONDS = 5.0
ALONE_SECONDS = 0.5


class Client:
    """Commands in, updates out. All methods are called on the main thread and return at once."""

    def __init__(self) -> None:
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._connection = Connection(self._publish_link)
        self._runs: dict[str, JobRun] = {}
        self._listed = 0.0
        self._stop_backend = True

    def connect(self, place: Place) -> None:
        """Reach the backend of this place, or start one."""
        self._do(lambda: self._connection.open(place))

    def look(self, place: Place) -> None:
        """Reach the backend of this place if it runs; no error, and none is started, where it does not."""
        self._do(lambda: self._look(place))

    def rejoin(self, place: Place) -> None:
        """Connect anew if connected; jobs go on where they are."""
        self._do(lambda: (self._connection.drop(), self._look(place)))

    def disconnect(self, stop: bool = False) -> None:
        """Leave the backend; `stop` ends it, if this Blender started it or it is asked to."""
        self._do(lambda: self._disconnect(stop))

    def submit(self, place: Place, job: str, order: Order) -> None:
        """Send a job; the order's pictures are read on the client's thread."""
        self._do(lambda: self._begin(place, JobRun(job, order)))

    def adopt(self, place: Place, job: str) -> None:
        """Follow a job that the backend has already, to its result."""
        self._do(lambda: self._begin(place, JobRun(job, None)))

    def cancel(self, job: str) -> None:
        """Stop a job."""
        self._do(lambda: self._cancel(job))

    def tell(self, message: Message) -> None:
        """Send an order whose effect the next list of jobs shows: pause, resume, move."""
        self._do(lambda: self._tell(message))

    def load(self, folder: Path) -> None:
        """Read the history; comes as an update of kind "history"."""
        self._do(
            lambda: self._publish("history", {"jobs": history.load(folder), "hidden": history.hidden(folder)})
        )

    def save(self, folder: Path, plain: dict[str, Any], new: bool = False) -> None:
        """Write one job into the history; new: only where it is not there yet."""
        self._do(lambda: self._quietly(lambda: history.save(folder, plain, new)))

    def forget(self, folder: Path, job: str) -> None:
        """Delete what is kept of a job."""
        self._do(lambda: self._quietly(lambda: history.forget(folder, job)))

    def job_log(self, job: str) -> None:
        """What the backend logged of a job; comes as an update of kind "log"."""
        self._do(lambda: self._ask_log(job, b""))

    def next_update(self) -> Update | None:
        """The oldest piece of news not taken yet."""
        with contextlib.suppress(queue.Empty):
            return self._updates.get_nowait()
        return None

    def close(self, stop_backend: bool = True) -> None:
        """End the thread when its commands are done; and the backend it started, or leave that to end."""
        self._stop_backend = stop_backend
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    # ---- on the client's thread

    def _do(self, command: Callable[[], None]) -> None:
        self._commands.put(command)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="orrery-client", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                while not self._commands.empty():
                    self._guarded(self._commands.get())
                self._guarded(lambda: self._connection.step(POLL_SECONDS, wanted=bool(self._runs)))
                self._runs = {name: run for name, run in self._runs.items() if not run.over}
                if self._runs and time.monotonic() - self._listed > LIST_SECONDS:
                    self._guarded(self._list)
            while not self._commands.empty():
                self._guarded(self._commands.get())  # what was to be written is written
        finally:
            self._connection.close(self._stop_backend and self._alone())

    def _alone(self) -> bool:
        """Whether no other program uses the backend: then it ends with us, else by itself after them."""
        others: list[int] = []
        if not self._connection.started_backend:
            return True
        if self._connection.ready:
            self._connection.send(
                messages.GetStatus(),
                lambda message, _: others.append(getattr(message, "counters", {}).get("sessions", 1) - 1),
            )
        end = time.monotonic() + ALONE_SECONDS
        while self._connection.ready and not others and time.monotonic() < end:
            self._guarded(lambda: self._connection.step(POLL_SECONDS, wanted=False))
        return not any(others)

    def _guarded(self, action: Callable[[], None]) -> None:
        """A mistake of ours must not end the thread in silence: the panel shows it."""
        try:
            action()
        except OrreryError as error:
            self._publish("link", {"link": Link.OFF, "error": error})
            self._fail_all(error)
        except Exception as error:  # noqa: BLE001 - the thread's last line of defence, shown to the user
            self._fail_all(InternalError(f"the add-on's client stumbled: {error!r}"))
            self._connection.drop()

    @staticmethod
    def _quietly(action: Callable[[], None]) -> None:
        """The history is a convenience: a disk that refuses it must not stop a job."""
        with contextlib.suppress(OSError):
            action()

    def _look(self, place: Place) -> None:
        with contextlib.suppress(NotReachable):
            self._connection.open(place, may_start=False)

    def _disconnect(self, stop: bool) -> None:
        if stop and self._connection.ready:
            self._connection.tell(messages.Shutdown())
            self._connection.step(POLL_SECONDS, wanted=False)
        self._connection.drop()
        if stop:
            self._fail_all(NotReachable("the backend was stopped", remedy="Start it again, and retry."))
        for name, run in self._runs.items():
            run.leave()
            self._publish("job", {"state": State.AWAY, "text": ""}, name)
        self._runs.clear()

    def _begin(self, place: Place, run: JobRun) -> None:
        if run.job in self._runs:
            return
        self._runs[run.job] = run
        run.begin(self._connection, place.folder, lambda changes: self._publish("job", changes, run.job))
        self._connection.open(place)
        if self._connection.ready:
            run.resume()

    def _cancel(self, job: str) -> None:
        if job in self._runs:
            self._runs[job].cancel()
        else:
            self._publish("job", {"state": State.CANCELLED, "text": ""}, job)

    def _tell(self, message: Message) -> None:
        if self._connection.ready:
            self._connection.send(message, lambda *_: self._list())

    def _list(self) -> None:
        """Ask for the newest jobs and for the state of the queue."""
        self._listed = time.monotonic()
        if self._connection.ready:
            self._connection.send(messages.ListJobs((), LISTED_JOBS), self._on_list)
            self._connection.send(messages.GetStatus(), self._on_list)

    def _on_list(self, message: Message, _: bytes | None) -> None:
        if isinstance(message, messages.Jobs):
            self._publish("jobs", {"records": message.records})
        elif isinstance(message, messages.Status):
            engines = tuple(messages.to_plain(engine) for engine in message.engines)
            self._publish("link", {"paused": message.paused, "engines": engines})

    def _ask_log(self, job: str, before: bytes) -> None:
        def on_piece(message: Message, buffer: bytes | None) -> None:
            text = before + bytes(buffer or b"")
            if isinstance(message, messages.Log) and buffer and len(text) < message.size:
                self._ask_log(job, text)
            else:
                self._publish("log", {"text": text.decode("utf-8", "replace")}, job)

        if self._connection.ready:
            self._connection.send(messages.GetLog(job, len(before)), on_piece)

    def _fail_all(self, error: OrreryError) -> None:
        for run in self._runs.values():
            run.fail(error)
        self._runs.clear()

    def _publish_link(self, changes: dict[str, Any]) -> None:
        """News of the connection; a new one makes every unfinished job go on where it was."""
        self._publish("link", changes)
        if changes.get("link") is Link.READY:
            for run in list(self._runs.values()):
                run.resume()
            self._list()

    def _publish(self, kind: str, changes: dict[str, Any], job: str = "") -> None:
        self._updates.put(Update(kind, changes, job))
