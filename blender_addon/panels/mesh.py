"""What becomes of the mesh: budget, quads, coarser copies, maps."""

import bpy

from ..properties import settings
from .words import CATEGORY, options


class ORRERY_PT_mesh(bpy.types.Panel):
    """Options of the mesh."""

    bl_label = "Mesh and Texture"
    bl_idname = "ORRERY_PT_mesh"
    bl_parent_id = "ORRERY_PT_generate"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        names = ("faces", "quads", "lods", "texture_size", "normal_map", "delight")
        options(self.layout, settings(context), *names)
