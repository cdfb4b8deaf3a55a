"""Show colours as they are in the picture: in renders, in the view."""

import bpy


class ORRERY_OT_standard_view(bpy.types.Operator):
    """Use the Standard view transform, so that renders have the colours of the picture"""

    bl_idname = "orrery.standard_view"
    bl_label = "Use Standard View"
    bl_options = {"UNDO", "INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.view_settings.view_transform = "Standard"
        return {"FINISHED"}


class ORRERY_OT_show_textures(bpy.types.Operator):
    """Show textures in this view's solid shading, which leaves them out by default"""

    bl_idname = "orrery.show_textures"
    bl_label = "Show Textures"
    bl_options = {"INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.space_data is not None and context.space_data.type == "VIEW_3D"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.space_data.shading.color_type = "TEXTURE"
        return {"FINISHED"}
