"""Show colours as they are in the picture."""

import bpy


class ORRERY_OT_standard_view(bpy.types.Operator):
    """Use the Standard view transform, so that renders have the colours of the picture"""

    bl_idname = "orrery.standard_view"
    bl_label = "Use Standard View"
    bl_options = {"UNDO", "INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.view_settings.view_transform = "Standard"
        return {"FINISHED"}
