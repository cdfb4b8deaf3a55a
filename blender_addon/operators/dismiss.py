"""Close a box that says something."""

import bpy

from .. import session


class ORRERY_OT_dismiss(bpy.types.Operator):
    """Hide this message"""

    bl_idname = "orrery.dismiss"
    bl_label = "Dismiss"
    bl_options = {"INTERNAL"}

    job: bpy.props.StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        job = current.jobs.jobs.get(self.job)
        if job is not None:
            current.told(job)
        elif current.installer.error is not None:
            current.installer.error = None
        elif current.jobs.error is not None:
            current.jobs.error = None
        else:
            current.jobs.notice = ""
        return {"FINISHED"}
