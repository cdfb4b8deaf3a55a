"""*Cancel*: stop a job."""

import bpy

from .. import session
from ..jobs import State


class ORRERY_OT_cancel(bpy.types.Operator):
    """Stop this job; its finished stages are kept for another try"""

    bl_idname = "orrery.cancel"
    bl_label = "Cancel"

    job: bpy.props.StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        current = session.current()
        job = current.jobs.active if current is not None else None
        if job is None:
            cls.poll_message_set("No job is running")
            return False
        if all(job.state is State.CANCELLING for job in current.jobs.queue):
            cls.poll_message_set("The job is being cancelled")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        job = current.jobs.jobs.get(self.job) if self.job else current.jobs.active
        if job is None or not job.going_on or job.state is State.CANCELLING:
            return {"CANCELLED"}
        current.cancel(job)
        return {"FINISHED"}
