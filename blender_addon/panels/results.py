"""The results in the scene: switch between mesh and Gaussians."""

import bpy

from ..importers.result import SHOW_BOTH, SHOW_GAUSSIANS, SHOW_MESH, result_collections, shown
from ..widths import beside
from .words import CATEGORY, paragraph


class ORRERY_PT_results(bpy.types.Panel):
    """What was generated."""

    bl_label = "Results"
    bl_idname = "ORRERY_PT_results"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(result_collections(context.scene))

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        for collection in result_collections(context.scene):
            column = layout.column(align=True)
            column.label(text=collection.name, icon="OUTLINER_COLLECTION")
            row, visible = beside(column), shown(collection)
            for what in (SHOW_MESH, SHOW_GAUSSIANS, SHOW_BOTH):
                button = row.operator("orrery.show_result", text=what.title(), depress=what == visible)
                button.collection, button.what = collection.name, what
        shading = context.space_data.shading
        if shading.type == "SOLID" and shading.color_type != "TEXTURE":
            box = layout.box()
            paragraph(box, "Solid shading shows the mesh without its texture.", "INFO")
            box.operator("orrery.show_textures")
        if context.scene.view_settings.view_transform != "Standard":
            box = layout.box()
            transform = context.scene.view_settings.view_transform
            paragraph(box, f"The view transform {transform} changes the picture's colours.", "INFO")
            box.operator("orrery.standard_view")
