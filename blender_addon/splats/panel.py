"""The panel of the Gaussians: how they are shown, and what can be done with them."""

import bpy

from ..widths import beside
from . import layout, nodes
from .editing import can_edit, chosen_splats, refresh_nodes
from .upgrade import outdated

MESH, GAUSSIANS, BOTH = "MESH", "GAUSSIANS", "BOTH"


def partner(item: bpy.types.Object) -> bpy.types.Object | None:
    """The mesh that shows the same thing as these Gaussians: their parent, a child, or a sibling."""
    near = [item.parent, *item.children, *(item.parent.children if item.parent else ())]
    return next((o for o in near if o is not None and o.type == "MESH" and not layout.is_splats(o)), None)


class ORRERY_OT_splats_show(bpy.types.Operator):
    """Show the mesh, the Gaussians or both, in the viewport and in renders"""

    bl_idname = "orrery.splats_show"
    bl_label = "Show"
    bl_options = {"REGISTER", "UNDO"}

    what: bpy.props.EnumProperty(
        items=((MESH, "Mesh", ""), (GAUSSIANS, "Gaussians", ""), (BOTH, "Both", "")), name="Show"
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        pair = _pair(context.active_object)
        if pair is None:
            cls.poll_message_set("The active object is no pair of a mesh and Gaussians")
        return pair is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        for item, alone in zip(_pair(context.active_object), (MESH, GAUSSIANS), strict=True):
            item.hide_viewport = item.hide_render = self.what not in (alone, BOTH)
        return {"FINISHED"}


def _pair(item: bpy.types.Object | None) -> tuple[bpy.types.Object, bpy.types.Object] | None:
    """(mesh, Gaussians) that `item` is one of."""
    if layout.is_splats(item):
        other = partner(item)
        return (other, item) if other is not None else None
    if item is not None and item.type == "MESH":
        return next(((item, child) for child in item.children if layout.is_splats(child)), None)
    return None


class ORRERY_OT_splats_display(bpy.types.Operator):
    """How 3D views show the selected Gaussians"""

    bl_idname = "orrery.splats_display"
    bl_label = "Viewport Display"
    bl_options = {"REGISTER", "UNDO"}

    what: bpy.props.EnumProperty(
        name="Display",
        items=(
            (nodes.DRAWN, "Drawn", "As a splat viewer shows them"),
            (nodes.ELLIPSOIDS, "Ellipsoids", "Solid ellipsoids of the modifier; slow for many"),
        ),
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not any(nodes.modifier_of(item) for item in chosen_splats(context)):
            cls.poll_message_set("Select an object with Gaussians")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        for item in chosen_splats(context):
            nodes.set_display(item, self.what)
        return {"FINISHED"}


class ORRERY_OT_splats_blend(bpy.types.Operator):
    """How Cycles mixes Gaussians: in linear light, as it does all else, or as splat viewers do"""

    bl_idname = "orrery.splats_blend"
    bl_label = "Blend in Renders"
    bl_options = {"REGISTER", "UNDO"}

    trained: bpy.props.BoolProperty(
        name="As Trained",
        description="Mix sRGB-encoded colours and show them as they are (view transform Raw): soft edges are "
        "exact, but meshes come out too dark. For Gaussians alone",
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not any(nodes.modifier_of(item) for item in context.scene.objects):
            cls.poll_message_set("The scene has no Gaussians that Cycles renders by nodes")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        for item in context.scene.objects:
            if modifier := nodes.modifier_of(item):
                nodes.set_input(modifier, nodes.ENCODED, self.trained)
        context.scene.view_settings.view_transform = "Raw" if self.trained else "Standard"
        return {"FINISHED"}


class ORRERY_OT_splats_antialiased(bpy.types.Operator):
    """Draw the selected Gaussians with Mip-Splatting's filter: for files that were trained with it, and say
    nothing of it"""

    bl_idname = "orrery.splats_antialiased"
    bl_label = "Trained Antialiased"
    bl_options = {"REGISTER", "UNDO"}

    wanted: bpy.props.BoolProperty(name="Antialiased", default=True)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return can_edit(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        blocks = {item.data for item in chosen_splats(context)}
        for data in blocks:
            layout.set_antialiased(data, self.wanted)
        for item in bpy.data.objects:
            if item.data in blocks:
                refresh_nodes(item)
        return {"FINISHED"}


class ORRERY_PT_gaussians(bpy.types.Panel):
    """The active object's Gaussians."""

    bl_label = "Gaussians"
    bl_idname = "ORRERY_PT_gaussians"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Orrery"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        item = context.active_object
        if any(outdated(other) for other in context.scene.objects):
            column.operator("orrery.splats_upgrade", icon="FILE_REFRESH")
        if layout.is_splats(item):
            degree = layout.degree(item.data)
            column.label(text=f"{layout.count(item.data):,} of degree {degree}", icon="POINTCLOUD_DATA")
        if _pair(item) is not None:
            row = beside(column)
            for what in (MESH, GAUSSIANS, BOTH):
                row.operator("orrery.splats_show", text=what.title()).what = what
        if layout.is_splats(item) and nodes.modifier_of(item) is not None:
            row = beside(column)
            for what in (nodes.DRAWN, nodes.ELLIPSOIDS):
                pressed = nodes.display(item) == what
                row.operator("orrery.splats_display", text=what.title(), depress=pressed).what = what
            modifier = nodes.modifier_of(item)
            row = beside(column)
            row.label(text="Cycles")
            for trained, words in ((False, "Linear"), (True, "As Trained")):
                pressed = bool(nodes.input_of(modifier, nodes.ENCODED)) == trained
                row.operator("orrery.splats_blend", text=words, depress=pressed).trained = trained
            if context.scene.view_settings.view_transform not in ("Standard", "Raw"):
                column.operator("orrery.standard_view", icon="INFO")
        if layout.is_splats(item):
            filtered = layout.antialiased(item.data)
            button = column.operator(
                "orrery.splats_antialiased", icon="CHECKBOX_HLT" if filtered else "CHECKBOX_DEHLT"
            )
            button.wanted = not filtered
        box = column.column(align=True)
        box.operator_menu_enum("orrery.splats_select", "by", text="Select by")
        box.operator("orrery.splats_delete", text="Delete Selected")
        row = box.row(align=True)
        row.operator("orrery.splats_crop", text="Crop to Box").shape = "BOX"
        row.operator("orrery.splats_crop", text="Sphere").shape = "SPHERE"
        box.operator("orrery.splats_merge")
        box.operator("orrery.splats_apply")
        box.operator("orrery.splats_bake")
        row = column.row(align=True)
        row.operator("orrery.render_gaussians", text="Render")
        row.operator("orrery.render_gaussians", text="Animation").animation = True
        row = column.row(align=True)
        row.operator("orrery.import_splats", text="Import")
        row.operator("orrery.export_splats", text="Export")


CLASSES = (
    ORRERY_OT_splats_show,
    ORRERY_OT_splats_display,
    ORRERY_OT_splats_blend,
    ORRERY_OT_splats_antialiased,
    ORRERY_PT_gaussians,
)
