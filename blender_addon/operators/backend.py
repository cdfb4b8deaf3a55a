"""The backend of this machine: install, repair, remove, stop; weights."""

import bpy

from .. import session
from ..backend_install import CPU_TORCH, NO_TORCH, Task, begun, package_wheel
from ..backend_process import find_python
from ..jobs import Link
from ..preferences import preferences

OFFLINE = "Blender is offline: Preferences > System > Network > Allow Online Access"


def _idle(cls: type[bpy.types.Operator], online: bool = False, replaces: bool = False) -> bool:
    """Whether this can be done now; replaces: under a job of this machine it cannot."""
    current = session.current()
    if current is None:
        return False
    if current.installer.running:
        cls.poll_message_set("Another installation is running")
        return False
    if replaces and current.jobs.active is not None and not current.jobs.host:
        cls.poll_message_set("A job is running")
        return False
    if online and not bpy.app.online_access:
        cls.poll_message_set(OFFLINE)
        return False
    return True


class ORRERY_OT_install_backend(bpy.types.Operator):
    """Install the backend into a Python environment of its own; nothing goes into Blender's Python"""

    bl_idname = "orrery.install_backend"
    bl_label = "Install"

    with_torch: bpy.props.BoolProperty(options={"SKIP_SAVE", "HIDDEN"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return _idle(cls, online=True, replaces=True)

    def execute(self, context: bpy.types.Context) -> set[str]:
        return _install(self.with_torch, repair=False)


class ORRERY_OT_repair_backend(bpy.types.Operator):
    """Make the backend's environment anew, from nothing"""

    bl_idname = "orrery.repair_backend"
    bl_label = "Repair"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not _idle(cls, online=True, replaces=True):
            return False
        if not begun(session.backend_folder()):
            cls.poll_message_set("No backend is installed here")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        return _install(False, repair=True)


def _install(with_torch: bool, repair: bool) -> set[str]:
    current, torch = session.current(), preferences().torch
    if with_torch and torch == NO_TORCH:
        torch = CPU_TORCH
    if current.jobs.link is Link.READY and not current.jobs.host:
        current.disconnect(stop=True)  # its files are about to be replaced
    current.jobs.error = None
    folder, log = session.backend_folder(), session.user_folder() / "install.log"
    current.installer.install(folder, package_wheel(), torch, log, repair)
    return {"FINISHED"}


class ORRERY_OT_remove_backend(bpy.types.Operator):
    """Delete the backend that was installed here; jobs and results stay"""

    bl_idname = "orrery.remove_backend"
    bl_label = "Remove"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not _idle(cls, replaces=True):
            return False
        if not begun(session.backend_folder()):
            cls.poll_message_set("No backend is installed here")
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        if current.jobs.link is Link.READY and not current.jobs.host:
            current.disconnect(stop=True)
        current.installer.remove(session.backend_folder(), session.user_folder() / "install.log")
        return {"FINISHED"}


class ORRERY_OT_cancel_install(bpy.types.Operator):
    """Stop the installation; it can be taken up again"""

    bl_idname = "orrery.cancel_install"
    bl_label = "Cancel"
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current().installer.cancel()
        return {"FINISHED"}


class ORRERY_OT_stop_backend(bpy.types.Operator):
    """Stop the backend; waiting jobs are kept and go on when it is started again"""

    bl_idname = "orrery.stop_backend"
    bl_label = "Stop"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        if current is None or current.jobs.link is not Link.READY:
            cls.poll_message_set("No backend is connected")
            return False
        return not current.jobs.host

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if session.current().jobs.active is not None:
            return context.window_manager.invoke_confirm(self, event)
        return self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current().disconnect(stop=True)
        return {"FINISHED"}


class ORRERY_OT_pull_weights(bpy.types.Operator):
    """Let the backend fetch these published weights"""

    bl_idname = "orrery.pull_weights"
    bl_label = "Pull Weights"

    names: bpy.props.StringProperty(options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not _idle(cls, online=True):
            return False
        if session.current().jobs.host:
            cls.poll_message_set("The backend is on another machine: pull them there")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        current, place = session.current(), session.place()
        names = self.names.split()
        log = session.user_folder() / "install.log"

        def command() -> tuple[str, ...]:
            return (
                *find_python(place.python, place.folder, place.backend),
                "-m", "backend", "models", "pull", *names,
            )  # fmt: skip

        words = f"fetching {', '.join(names)}"
        current.installer.run(Task(words, command), log, dict(place.environment), current.reconnect)
        return {"FINISHED"}
