"""Switch a result between its mesh and its Gaussians."""

import bpy

from ..importers.result import SHOW_BOTH, SHOW_GAUSSIANS, SHOW_MESH, show


class ORRERY_OT_show_result(bpy.types.Operator):
    """Show the mesh, the Gaussians, or both of this result"""

    bl_idname = "orrery.show_result"
    bl_label = "Show"
    bl_options = {"UNDO", "INTERNAL"}

    collection: bpy.props.StringProperty()
    what: bpy.props.EnumProperty(
        items=[(key, key.title(), "") for key in (SHOW_MESH, SHOW_GAUSSIANS, SHOW_BOTH)]
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        collection = bpy.data.collections.get(self.collection)
        if collection is None:
            self.report({"ERROR"}, f"There is no collection '{self.collection}'")
            return {"CANCELLED"}
        show(collection, self.what)
        return {"FINISHED"}
