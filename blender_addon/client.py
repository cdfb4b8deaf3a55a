"""The add-on's side of the wire: one background thread that owns the socket; no bpy.

The main thread leaves commands in a queue and takes `Update`s out of another; it never waits.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from shared_protocol.errors import InternalError, OrreryError

from .connection import Connection, Place
from .job_run import JobRun
from .jobs import Link, Update

POLL_SECONDS = 0.05
"""The longest a command waits for the thread to look up from the socket."""

CLOSE_SECONDS = 5.0


class Client:
    """Commands in, updates out. All methods are called on the main thread and return at once."""

    def __init__(self) -> None:
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._connection = Connection(self._publish_link)
        self._runs: dict[str, JobRun] = {}

    def connect(self, place: Place) -> None:
        """Reach the backend of this place, or start one."""
        self._do(lambda: self._connection.open(place))

    def submit(
        self,
        place: Place,
        job: str,
        name: str,
        read: Callable[[], bytes],
        settings: dict[str, Any],
        seed: int,
    ) -> None:
        """Send a job; `read` gives the picture's bytes and is called on the client's thread.

        settings  {"quality": ..., "engines": {stage: engine}, "options": {"stage.field": value}}
        """
        self._do(lambda: self._submit(place, JobRun(job, name, read, settings, seed)))

    def cancel(self, job: str) -> None:
        """Stop a job."""
        self._do(lambda: self._runs[job].cancel() if job in self._runs else None)

    def next_update(self) -> Update | None:
        """The oldest piece of news not taken yet."""
        with contextlib.suppress(queue.Empty):
            return self._updates.get_nowait()
        return None

    def close(self) -> None:
        """End the thread, and the backend it started."""
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
        finally:
            self._connection.close()

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

    def _submit(self, place: Place, run: JobRun) -> None:
        self._runs[run.job] = run
        run.begin(self._connection, place.folder, lambda changes: self._publish("job", changes, run.job))
        self._connection.open(place)
        if self._connection.ready:
            run.resume()

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

    def _publish(self, kind: str, changes: dict[str, Any], job: str = "") -> None:
        self._updates.put(Update(kind, changes, job))
