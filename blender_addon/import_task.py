"""One import on its way: files are decoded in a thread, objects are made in slices on the main thread.

The whole is one undo step, pushed at the end. When the user undoes or opens another file in between, the
objects made so far are gone: the import begins again.
"""

import threading
import time

import bpy

from shared_protocol.errors import InternalError, OrreryError

from . import scene_preview
from .importers.prepare import Prepared, prepare
from .importers.result import Provenance, result_steps
from .jobs import Job, State
from .properties import settings

MOST_BEGINNINGS = 3


class ImportTask:
    """Puts the result of `job` into the current scene."""

    def __init__(self, job: Job, backend: str) -> None:
        """backend: version of the one that is connected, stored on the objects."""
        self.job = job
        versions = {"blender": bpy.app.version_string, "backend": backend}
        self._provenance = Provenance(job.id, job.name, job.seed, job.settings, versions)
        self._placement = settings(bpy.context).placement()
        self._prepared: Prepared | None = None
        self._error: BaseException | None = None
        self._steps = None
        self._made = ""
        self._begun = 0
        self._thread = threading.Thread(target=self._prepare, name="orrery-import", daemon=True)
        self._thread.start()

    def go_on(self, end: float) -> bool:
        """Work until `end` (perf_counter), or wait for the thread where `end` is infinite; True when over."""
        if end == float("inf"):
            self._thread.join()
        if self._thread.is_alive():
            return False
        if self._error is not None:
            return self._fail(self._error)
        if self._made and (self._prepared is None or self._made in bpy.data.collections):
            if self._prepared is not None:  # a turn of its own; its memory is there for the undo step then
                self._prepared = None
                return end == float("inf") and self.go_on(end)
            self._finish(undo=end != float("inf"))
            return True
        try:
            if self._steps is None or self._made:  # made, and undone at once
                self._begin()
            while time.perf_counter() < end:
                next(self._steps)
        except StopIteration as finish:
            self._made = finish.value.name  # the undo step, of the whole file, has a turn of its own
            return end == float("inf") and self.go_on(end)
        except ReferenceError as error:
            self._steps = None
            if self._begun >= MOST_BEGINNINGS:
                return self._fail(error)
        except (OrreryError, RuntimeError, MemoryError) as error:
            return self._fail(error)
        return False

    def stop(self) -> None:
        """Give it up: nothing stays in the file."""
        if self._steps is not None:
            self._steps.close()
        self.job.state = State.RECEIVED

    def _prepare(self) -> None:
        try:
            self._prepared = prepare(self.job.folder, self._placement.texture, self._placement.floor)
        except Exception as error:  # noqa: BLE001 - shown in the panel by `go_on`
            self._error = error

    def _begin(self) -> None:
        self._begun += 1
        self._made = ""
        self._steps = result_steps(self._prepared, self._provenance, self._placement, bpy.context.scene)

    def _finish(self, undo: bool) -> None:
        """undo: not where a script calls an operator; there the step is the script's to make."""
        self.job.state, self.job.collection = State.IMPORTED, self._made
        scene_preview.remove()  # not to come back by an undo
        windows = bpy.context.window_manager.windows
        override = {"window": windows[0]} if bpy.context.window is None and len(windows) else {}
        with bpy.context.temp_override(**override):  # a timer has no window of its own
            if undo and bpy.ops.ed.undo_push.poll():
                bpy.ops.ed.undo_push(message=f"Import {self.job.name}")

    def _fail(self, error: BaseException) -> bool:
        if not isinstance(error, OrreryError):
            error = InternalError(f"the result could not be imported: {error}", remedy="Import it again.")
        self.job.state, self.job.error = State.FAILED, error
        return True
