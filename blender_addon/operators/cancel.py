"""*Cancel*: stop the running job."""

import bpy

from .. import session
from ..jobs import State


class ORRERY_OT_cancel(bpy.types.Operator):
    """Stop the running job"""

    bl_idname = "orrery.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        job = current.jobs.active if current is not None else None
        if job is None:
            cls.poll_message_set("No job is running")
            return False
        if job.state is State.CANCELLING:
            cls.poll_message_set("The job is being cancelled")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        current.cancel(current.jobs.active)
        return {"FINISHED"}
