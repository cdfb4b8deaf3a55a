"""Logs, older jobs, preferences and frame times."""

import time
from pathlib import Path

import bpy

from .. import session
from ..jobs import Link

LOG = "Orrery log"
MOST_CHARACTERS = 200_000
FETCH_SECONDS = 5.0
SHOWN_LINES = 25
"""Of the end of a log, in the window that opens."""


class ORRERY_OT_show_log(bpy.types.Operator):
    """Open the log of the backend, of an installation, or of a job in a text editor"""

    bl_idname = "orrery.show_log"
    bl_label = "Open Log"

    job: bpy.props.StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if not self.job or bpy.app.background:
            return self.execute(context)
        current = session.current()
        if current.jobs.link is not Link.READY:
            self.report({"ERROR"}, "The log of a job is at the backend; start or connect it first")
            return {"CANCELLED"}
        current.logs.pop(self.job, None)
        current.client.job_log(self.job)
        self._until = time.monotonic() + FETCH_SECONDS
        self._timer = context.window_manager.event_timer_add(0.1, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        here, late = self.job in session.current().logs, time.monotonic() > self._until
        if not here and not late:
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        if here:
            return self.execute(context)
        self.report({"ERROR"}, "The backend did not send the log")
        return {"CANCELLED"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        if self.job and self.job not in current.logs:  # a script that waits for it itself
            current.client.job_log(self.job)
            return {"FINISHED"}
        texts = [_tail(path) for path in log_files()]
        text = current.logs.pop(self.job) if self.job else "\n".join(filter(None, texts))
        block = bpy.data.texts.get(LOG) or bpy.data.texts.new(LOG)
        block.from_string(text or "Nothing was logged yet.")
        if not bpy.app.background:
            _open_window(block)
        return {"FINISHED"}


def log_files() -> list[Path]:
    """The logs that are kept beside the results."""
    return [session.user_folder() / name for name in ("install.log", "backend.log")]


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")[-MOST_CHARACTERS:]
    return f"===== {path} =====\n{text}"


def _open_window(block: bpy.types.Text) -> None:
    bpy.ops.wm.window_new()
    area = bpy.context.window_manager.windows[-1].screen.areas[0]
    area.type = "TEXT_EDITOR"
    area.spaces.active.text = block
    area.spaces.active.show_word_wrap = True
    first = max(len(block.lines) - SHOWN_LINES, 0)
    block.cursor_set(first)  # the view follows the cursor, which is left behind the last line
    area.spaces.active.top = first


class ORRERY_OT_show_older(bpy.types.Operator):
    """Show more of the history"""

    bl_idname = "orrery.show_older"
    bl_label = "Show Older"
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current().shown += session.SHOWN_JOBS
        return {"FINISHED"}


class ORRERY_OT_show_preferences(bpy.types.Operator):
    """Open the preferences where this can be set"""

    bl_idname = "orrery.show_preferences"
    bl_label = "Preferences"
    bl_options = {"INTERNAL"}

    section: bpy.props.StringProperty(default="ADDONS", options={"SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        if self.section == "ADDONS":
            context.window_manager.addon_search = "Orrery"
        bpy.ops.screen.userpref_show(section=self.section)
        return {"FINISHED"}


class ORRERY_OT_save_frame_times(bpy.types.Operator):
    """Write how long the add-on held up the window, turn by turn, as JSON"""

    bl_idname = "orrery.save_frame_times"
    bl_label = "Save Frame Times"
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        path = session.user_folder() / "frame_times.json"
        session.current().frames.save(path)
        self.report({"INFO"}, f"Written to {path}")
        return {"FINISHED"}
