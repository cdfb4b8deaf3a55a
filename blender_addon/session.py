"""The one session of this Blender: job list and client, drained on the main thread.

`pump()` is called by a timer in the window and directly by tests. The client's thread never touches
bpy; what it has to say waits in a queue until here.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bpy

from shared_protocol.errors import InternalError

from .client import Client
from .connection import Place
from .jobs import Job, JobList, Link, State
from .preferences import PACKAGE, preferences

FRAME_SECONDS = 0.016
"""The main thread takes in news for at most this long at a time."""

BUSY_INTERVAL, IDLE_INTERVAL = 0.1, 0.5


class Session:
    """Job list, client, and what happens on the main thread between them."""

    def __init__(self, client: Client) -> None:
        self.jobs = JobList()
        self.client = client

    def connect(self) -> None:
        """Reach the backend, or start one, as the preferences say."""
        self.jobs.error = None
        self.jobs.link = Link.CONNECTING
        self.client.connect(self._place())

    def submit(self, job: Job, read: Callable[[], bytes]) -> None:
        """Send a job; `read` gives the picture's bytes and is called on the client's thread."""
        self.jobs.error = None
        self.jobs.add(job)
        self.client.submit(self._place(), job.id, job.name, read, job.settings, job.seed)

    def cancel(self, job: Job) -> None:
        """Ask for a job to be stopped."""
        job.state = State.CANCELLING
        self.client.cancel(job.id)

    def pump(self, seconds: float = FRAME_SECONDS) -> bool:
        """Take in news for at most `seconds`, then import one result if one has arrived.

        Returns whether anything changed.
        """
        end = time.monotonic() + seconds
        changed = False
        while time.monotonic() < end:
            update = self.client.next_update()
            if update is None:
                break
            self.jobs.apply(update)
            changed = True
        for job in self.jobs.to_import()[:1]:
            changed |= _import(job)
        return changed

    def close(self) -> None:
        """End the client's thread and the backend it started."""
        self.client.close()

    @staticmethod
    def _place() -> Place:
        chosen = preferences()
        return Place(
            python=bpy.path.abspath(chosen.python) if chosen.python.startswith("//") else chosen.python,
            auto_start=chosen.auto_start,
            connection_file=bpy.path.abspath(chosen.connection_file),
            folder=user_folder(),
            online=bool(bpy.app.online_access),
        )


def user_folder() -> Path:
    """Where results and logs lie: the extension's user folder, or a temporary one without it."""
    try:
        return Path(bpy.utils.extension_path_user(PACKAGE, create=True))
    except ValueError:  # not installed as an extension
        return Path(tempfile.gettempdir()) / "orrery-addon"


_current: Session | None = None


def current() -> Session | None:
    """The session, None while the add-on is not registered."""
    return _current


def register() -> None:
    """Begin the session and its timer."""
    global _current
    _current = Session(Client())
    if not bpy.app.background:
        bpy.app.timers.register(_tick, first_interval=IDLE_INTERVAL, persistent=True)


def unregister() -> None:
    """End the session."""
    global _current
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _current is not None:
        _current.close()
    _current = None


def _tick() -> float | None:
    if _current is None:
        return None
    if _current.pump():
        _redraw()
    return BUSY_INTERVAL if _current.jobs.active is not None else IDLE_INTERVAL


def _import(job: Job) -> bool:
    """Import a result, as one undo step; waits while the user edits a mesh or paints."""
    if bpy.context.mode != "OBJECT":
        return False
    windows = bpy.context.window_manager.windows
    override = {"window": windows[0]} if bpy.context.window is None and len(windows) else {}
    try:
        with bpy.context.temp_override(**override):  # a timer has no window of its own
            bpy.ops.orrery.import_result("EXEC_DEFAULT", True, job=job.id)
    except RuntimeError as error:  # how Blender hands on an operator's error report
        if job.error is None:
            job.error = InternalError(f"the result could not be imported: {error}")
        job.state = State.FAILED
    return True


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()
