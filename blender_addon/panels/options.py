"""How a result is put into the scene."""

import bpy

from ..importers.reference import NONE
from ..properties import settings
from .words import CATEGORY


class ORRERY_PT_options(bpy.types.Panel):
    """Import options."""

    bl_label = "Import Options"
    bl_idname = "ORRERY_PT_options"
    bl_parent_id = "ORRERY_PT_generate"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        chosen = settings(context)
        layout = self.layout
        layout.use_property_split = True
        layout.prop(chosen, "at")
        layout.prop(chosen, "size")
        layout.prop(chosen, "floor")
        layout.prop(chosen, "shading")
        layout.prop(chosen, "show")
        layout.prop(chosen, "reference")
        column = layout.column()
        column.active = chosen.reference != NONE
        column.prop(chosen, "pack")
        layout.prop(chosen, "cameras")
        layout.prop(chosen, "import_lods")
        layout.prop(chosen, "import_texture")
        layout.prop(chosen, "decimate")
        layout.prop(chosen, "quad_copy")
        layout.prop(chosen, "preview_in_scene")
