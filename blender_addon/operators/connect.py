"""*Connect*: reach the backend, or start one; *Disconnect*: leave one on another machine."""

import bpy

from .. import session
from ..jobs import Link


class ORRERY_OT_connect(bpy.types.Operator):
    """Connect to the backend; start one on this machine when none is running"""

    bl_idname = "orrery.connect"
    bl_label = "Connect"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        if current is None:
            return False
        if current.jobs.link in (Link.READY, Link.STARTING, Link.CONNECTING):
            cls.poll_message_set(f"Orrery is {current.jobs.link.value}")
            return False
        if current.installer.running:
            cls.poll_message_set("Wait for the installation")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current().connect()
        return {"FINISHED"}


class ORRERY_OT_disconnect(bpy.types.Operator):
    """Leave the backend on the other machine; its jobs go on there and are found again"""

    bl_idname = "orrery.disconnect"
    bl_label = "Disconnect"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.current() is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current().disconnect(stop=False)
        return {"FINISHED"}
