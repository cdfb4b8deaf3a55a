"""*Connect*: reach the backend, or start one."""

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
