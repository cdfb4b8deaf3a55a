"""*Pause Queue* and *Next*: the order of the waiting jobs."""

import bpy

from .. import session
from ..jobs import Link, State
from .of_job import OfJob


class ORRERY_OT_pause(bpy.types.Operator):
    """Begin no waiting job until the queue is resumed; what runs goes on"""

    bl_idname = "orrery.pause"
    bl_label = "Pause Queue"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        if current is None or current.jobs.link is not Link.READY:
            cls.poll_message_set("There is no connection to a backend")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        current.pause(not current.jobs.paused)
        return {"FINISHED"}


class ORRERY_OT_move_first(OfJob, bpy.types.Operator):
    """Make this the next job"""

    bl_idname = "orrery.move_first"
    bl_label = "Next"

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = self.found()
        if job is None or job.state is not State.QUEUED:
            return {"CANCELLED"}
        session.current().move(job, 0)
        return {"FINISHED"}
