"""Gaussians of an older file -> what this Blender and this add-on make today.

A mesh becomes a point cloud of Blender's own type where there is one (5.3); its attributes have that
type's names and numbers already. Elsewhere the object gets today's nodes. Place, parents, children,
collections, custom properties and animation stay.
"""

from dataclasses import replace

import bpy

from . import layout, nodes
from .columns import columns_of

_KEPT = (
    "rotation_mode", "hide_viewport", "hide_render", "hide_select", "show_in_front", "pass_index", "color",
    "display_type", "parent_type", "parent_bone", "lock_location", "lock_rotation", "lock_scale",
)  # fmt: skip


def outdated(item: bpy.types.Object) -> bool:
    """Whether `upgraded` would change this object."""
    if layout.MARK not in item or item.type != "MESH":
        return False
    if layout.native_type() or item[layout.MARK] < layout.LAYOUT_VERSION:
        return True
    modifier = nodes.modifier_of(item)
    return modifier is not None and modifier.node_group["orrery_build"] != nodes.BUILD


def upgraded(item: bpy.types.Object, made: dict[str, layout.Data]) -> bpy.types.Object:
    """The object as it is today: `item`, or a new one in its place. `made` holds the data-blocks that were
    converted, by the old one's name."""
    if not layout.native_type():
        _renew_nodes(item)
        item[layout.MARK] = layout.LAYOUT_VERSION
        return item
    old = item.data
    if old.name not in made:
        stored = layout.read_stored(old)
        made[old.name] = layout.new_data(old.name, stored.count)
        *_, columns = columns_of(stored)
        for _ in layout.fill(made[old.name], replace(columns, antialiased=layout.antialiased(old))):
            pass
        made[old.name].update_tag()
    name = item.name
    new = bpy.data.objects.new(name, made[old.name])
    _take_over(new, item)
    item.user_remap(new)  # collections, children, constraints ... point to the new one now
    bpy.data.objects.remove(item)
    if not old.users:
        bpy.data.meshes.remove(old)
    new.name = name
    return new


def _take_over(new: bpy.types.Object, old: bpy.types.Object) -> None:
    for name in _KEPT:
        setattr(new, name, getattr(old, name))
    new.parent = old.parent
    new.matrix_parent_inverse = old.matrix_parent_inverse.copy()
    new.matrix_basis = old.matrix_basis.copy()
    for key, value in old.items():
        new[key] = value
    new[layout.MARK] = layout.LAYOUT_VERSION
    if old.animation_data is not None and old.animation_data.action is not None:
        new.animation_data_create().action = old.animation_data.action
        if hasattr(new.animation_data, "action_slot"):
            new.animation_data.action_slot = old.animation_data.action_slot


def _renew_nodes(item: bpy.types.Object) -> None:
    modifier = nodes.modifier_of(item)
    if modifier is None:
        nodes.add_modifier(item, layout.degree(item.data), antialiased=layout.antialiased(item.data))
        return
    modifier.node_group = nodes.node_group(layout.degree(item.data))
    nodes.set_input(modifier, nodes.FILTERED, layout.antialiased(item.data))
    for slot in item.material_slots:
        if slot.material is not None and "orrery_build" in slot.material:
            slot.material = nodes.material()


class ORRERY_OT_splats_upgrade(bpy.types.Operator):
    """Bring all Gaussians of this file to what this version of Blender shows best"""

    bl_idname = "orrery.splats_upgrade"
    bl_label = "Upgrade Gaussians"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.mode != "OBJECT":
            cls.poll_message_set("Return to Object Mode first")
            return False
        if not any(outdated(item) for item in bpy.data.objects):
            cls.poll_message_set("All Gaussians are up to date")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        made: dict[str, layout.Data] = {}
        old = [item for item in bpy.data.objects if outdated(item)]
        for item in old:
            upgraded(item, made)
        self.report({"INFO"}, f"{len(old)} objects upgraded")
        return {"FINISHED"}


CLASSES = (ORRERY_OT_splats_upgrade,)
