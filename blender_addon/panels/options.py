"""How a result is put into the scene."""

import bpy

from ..importers.reference import NONE
from ..properties import settings
from .words import CATEGORY, options


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
        options(layout, chosen, "at", "size", "floor", "shading", "show", "reference")
        column = layout.column()
        column.active = chosen.reference != NONE
        options(column, chosen, "pack")
        names = ("cameras", "import_lods", "import_texture", "decimate", "quad_copy", "preview_in_scene")
        options(layout, chosen, *names)
