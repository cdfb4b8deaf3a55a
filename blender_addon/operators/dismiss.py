"""Close an error box."""

import bpy

from .. import session


class ORRERY_OT_dismiss(bpy.types.Operator):
    """Hide this message"""

    bl_idname = "orrery.dismiss"
    bl_label = "Dismiss"
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.current()
        latest = current.jobs.latest
        if current.jobs.error is not None:
            current.jobs.error = None
        elif latest is not None:
            latest.error = None
        return {"FINISHED"}
