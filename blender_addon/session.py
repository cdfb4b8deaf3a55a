"""The one session of this Blender: job list and client, drained on the main thread.

`pump()` is called by a timer in the window and directly by tests. The client's thread never touches
bpy; what it has to say waits in a queue until here.
"""

import os
import tempfile
import time
from pathlib import Path

import bpy

from shared_protocol import messages

from . import history, scene_preview
from .backend_install import Installer, installed
from .backend_place import Place
from .client import Client
from .frame_log import FrameLog
from .import_task import ImportTask
from .jobs import Job, JobList, Link, State, Update
from .preferences import PACKAGE, preferences
from .records import take_records
from .sending import Order

FRAME_SECONDS = 0.016
"""The main thread is never held up for longer."""

WORK_SECONDS = 0.003
"""No slice is begun after so long: the longest slices take 5 ms (300,000 triangles, 730,000 Gaussians)."""

BUSY_INTERVAL, IDLE_INTERVAL, IMPORT_INTERVAL = 0.1, 0.5, 0.01

SHOWN_JOBS = 12
"""Of the history, and so many more each time *Show Older* is pressed."""

KEPT_CHANGES = {"state", "error", "warnings", "inputs", "stage_seconds", "reused"}
"""A change of one of these is written to the history."""


class Session:
    """Job list, client, and what happens on the main thread between them."""

    def __init__(self, client: Client) -> None:
        self.jobs = JobList()
        self.client = client
        self.frames = FrameLog()
        self.installer = Installer()
        self.logs: dict[str, str] = {}
        self.shown = SHOWN_JOBS
        self.importing: ImportTask | None = None
        self._changed: set[str] = set()

    # ---- orders

    def start(self) -> None:
        """Read the history, and look whether a backend runs; none is started."""
        self.client.load(user_folder())

    def connect(self) -> None:
        """Reach the backend, or start one, as the preferences say."""
        self.jobs.error, self.jobs.notice = None, ""
        self.jobs.link = Link.CONNECTING
        self.client.connect(place())

    def disconnect(self, stop: bool) -> None:
        """Leave the backend, or stop it."""
        self.client.disconnect(stop)

    def reconnect(self) -> None:
        """Say hello anew: the backend's engines may have become ready. Jobs go on where they are."""
        self.client.rejoin(place())

    def submit(self, job: Job, order: Order) -> None:
        """Send a job; the order's pictures are read on the client's thread."""
        self.jobs.error, self.jobs.notice = None, ""
        job.created = job.created or time.time()
        self.jobs.add(job)
        self._keep(job)
        self.client.submit(place(), job.id, order)

    def fetch(self, job: Job) -> None:
        """Follow a job that the backend has, to its result."""
        job.state, job.error, job.seen = State.QUEUED, None, False
        self.jobs.error = None
        self.client.adopt(place(), job.id)

    def cancel(self, job: Job) -> None:
        """Ask for a job to be stopped; one that is here already is left out of the scene."""
        if job.state in (State.RECEIVED, State.IMPORTING):
            if self.importing is not None and self.importing.job is job:
                self.importing.stop()
                self.importing = None
            job.state = State.CANCELLED
            self._keep(job)
            return
        job.state = State.CANCELLING
        self.client.cancel(job.id)

    def told(self, job: Job) -> None:
        """Speak no more of what became of this job; the history does."""
        job.seen = True
        self._keep(job)

    def pause(self, paused: bool) -> None:
        """Begin no waiting job, or begin them again."""
        self.jobs.paused = paused
        self.client.tell(messages.Pause() if paused else messages.Resume())

    def move(self, job: Job, position: int) -> None:
        """Put a waiting job elsewhere in the queue."""
        self.client.tell(messages.Move(job.id, position))

    def delete(self, job: Job) -> None:
        """Forget a job and its files; what is in the scene stays."""
        if job.going_on:
            self.client.cancel(job.id)
        self.jobs.jobs.pop(job.id, None)
        self.jobs.hidden.add(job.id)
        self.client.forget(user_folder(), job.id)

    # ---- the main thread's share

    def pump(self, seconds: float = WORK_SECONDS) -> bool:
        """Take in news and go on with an import, for about `seconds`. Returns whether anything changed."""
        end = time.perf_counter() + seconds
        changed = False
        with self.frames.work("news"):
            while time.perf_counter() < end:
                update = self.client.next_update()
                if update is None:
                    break
                self._take_in(update)
                changed = True
        changed |= self.installer.pump()
        if self.importing is None:
            waiting = self.jobs.to_import()
            if waiting and ready_to_import():
                self.begin_import(waiting[0])
        if self.importing is not None:
            changed |= self._go_on_importing(end)
        if changed or scene_preview.left_over(self.jobs.queue):
            with self.frames.work("preview"):
                scene_preview.update(self.jobs.queue)
        return changed

    def begin_import(self, job: Job) -> None:
        """Put a job's result into the scene, a slice at a time."""
        job.state = State.IMPORTING
        self.importing = ImportTask(job, self.jobs.version)

    def finish_import(self) -> None:
        """Go on with the import until it is done."""
        while self.importing is not None:
            self._go_on_importing(float("inf"))

    def close(self) -> None:
        """End the client's thread, and the backend it started unless a job goes on there."""
        self.installer.cancel()
        if self.importing is not None:
            self.importing.stop()
        for name in self._changed:
            if name in self.jobs.jobs:
                self._keep(self.jobs.jobs[name])
        unfinished = any(job.state in (State.QUEUED, State.RUNNING) for job in self.jobs.queue)
        self.client.close(stop_backend=not unfinished or self.jobs.paused)

    @property
    def busy(self) -> bool:
        """Whether anything changes by itself."""
        return self.jobs.active is not None or self.installer.running or self.jobs.link is Link.STARTING

    def _take_in(self, update: Update) -> None:
        if update.kind == "history":
            self.jobs.hidden |= update.changes["hidden"]
            self.jobs.take_in([job for job in update.changes["jobs"] if job.id not in self.jobs.hidden])
            self.client.look(place())
        elif update.kind == "jobs":
            for job in take_records(self.jobs, update.changes["records"]):
                self._keep(job, new=True)
        elif update.kind == "log":
            self.logs[update.job] = update.changes["text"]
        else:
            self.jobs.apply(update)
        if update.kind == "job" and KEPT_CHANGES & update.changes.keys() and update.job in self.jobs.jobs:
            self._keep(self.jobs.jobs[update.job])
        if update.kind == "link" and update.changes.get("link") is Link.READY:
            for job in self.jobs.away():
                self.fetch(job)

    def _go_on_importing(self, end: float) -> bool:
        task = self.importing
        with self.frames.work("import"):
            done = task.go_on(end)
        if done:
            self.importing = None
            self._keep(task.job)
        return done

    def _keep(self, job: Job, new: bool = False) -> None:
        if job.id not in self.jobs.hidden:  # deleted while it was imported
            self.client.save(user_folder(), history.to_plain(job), new)


def ready_to_import() -> bool:
    """A result waits while the user edits a mesh or paints."""
    return bpy.context.mode == "OBJECT"


def place() -> Place:
    """Where the backend is, as the preferences say."""
    chosen = preferences()
    return Place(
        python=bpy.path.abspath(chosen.python) if chosen.python.startswith("//") else chosen.python,
        auto_start=chosen.auto_start,
        connection_file=bpy.path.abspath(chosen.connection_file),
        folder=user_folder(),
        online=bool(bpy.app.online_access),
        backend=str(backend_folder()),
        patience=chosen.patience,
        environment=(("HF_TOKEN", chosen.token),) if chosen.token else (),
    )


def user_folder() -> Path:
    """Where results and logs lie: the extension's user folder, or a temporary one without it."""
    try:
        return Path(bpy.utils.extension_path_user(PACKAGE, create=True))
    except ValueError:  # not installed as an extension
        return Path(tempfile.gettempdir()) / "orrery-addon"


def backend_folder() -> Path:
    """Where the add-on installs the backend."""
    chosen = preferences().backend_folder
    return Path(bpy.path.abspath(chosen)).expanduser() if chosen else user_folder() / "backend"


def backend_chosen() -> bool:
    """Whether a backend was installed here, or one is named."""
    chosen = preferences()
    named = chosen.python or chosen.connection_file or os.environ.get("ORRERY_PYTHON")
    return bool(named) or installed(backend_folder())


_current: Session | None = None


def current() -> Session | None:
    """The session, None while the add-on is not registered."""
    return _current


def register() -> None:
    """Begin the session and its timer."""
    global _current
    _current = Session(Client())
    bpy.app.handlers.save_pre.append(scene_preview.before_saving)
    if not bpy.app.background:
        _current.start()
        bpy.app.timers.register(_tick, first_interval=IDLE_INTERVAL, persistent=True)


def unregister() -> None:
    """End the session."""
    global _current
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _current is not None:
        _current.close()
    _current = None
    if scene_preview.before_saving in bpy.app.handlers.save_pre:
        bpy.app.handlers.save_pre.remove(scene_preview.before_saving)
    scene_preview.remove()


def _tick() -> float | None:
    if _current is None:
        return None
    with _current.frames.tick():
        if _current.pump():
            redraw()
    if _current.importing is not None:
        return IMPORT_INTERVAL
    return BUSY_INTERVAL if _current.busy else IDLE_INTERVAL


def redraw() -> None:
    """Draw the panels anew."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
