"""*Delete*: forget a job and its files."""

import bpy

from .. import session
from .of_job import OfJob


class ORRERY_OT_delete_job(OfJob, bpy.types.Operator):
    """Forget this job and delete its files; what is in the scene stays"""

    bl_idname = "orrery.delete_job"
    bl_label = "Delete"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = self.found()
        if job is None:
            return {"CANCELLED"}
        session.current().delete(job)
        return {"FINISHED"}
