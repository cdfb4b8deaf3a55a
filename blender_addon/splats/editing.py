"""Editing Gaussians: crop, select, delete, merge, apply transform, bake to colours of a mesh."""

import bpy
import numpy as np
from mathutils import Matrix
from mathutils.kdtree import KDTree

from shared_protocol.conventions import linear_from_srgb
from shared_protocol.splats.arrays import StoredSplats, activate

from . import harmonics, layout, nodes
from .transform import joined, matrices, transformed

COLORS = "Gaussians"
"""Name of the colour attribute that is baked."""
NEIGHBOURS = 12
"""Gaussians that are looked at for the colour of a vertex."""


def chosen_splats(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The selected objects that hold Gaussians."""
    return [item for item in context.selected_objects if layout.is_splats(item)]


def can_edit(cls: type, context: bpy.types.Context, *, least: int = 1) -> bool:
    """Poll: enough selected objects hold Gaussians, in Object Mode; says why not."""
    if context.mode != "OBJECT":
        cls.poll_message_set("Return to Object Mode first")
        return False
    if len(chosen_splats(context)) < least:
        cls.poll_message_set(
            "Select an object with Gaussians"
            if least == 1
            else f"Select {least} or more objects with Gaussians"
        )
        return False
    return True


def world_positions(item: bpy.types.Object) -> np.ndarray:
    """(G, 3) float32."""
    matrix = np.array(item.matrix_world)
    positions = layout.values(item.data, "position")
    return positions @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)


def keep(item: bpy.types.Object, mask: np.ndarray) -> int:
    """Leave only the Gaussians of `mask` (G,) bool; returns how many went."""
    gone = int(len(mask) - mask.sum())
    if gone:
        stored = layout.read_stored(item.data)
        layout.replace(item.data, StoredSplats(*(values[mask] for values in stored)))
        layout.select(item.data, np.zeros(int(mask.sum()), bool))
    return gone


def inside(points: np.ndarray, shape: bpy.types.Object, *, sphere: bool) -> np.ndarray:
    """(G,) bool: which world points lie in an object's box, or in the ellipsoid within it.

    The box of an empty is its displayed cube or sphere, every other object's its bounding box.
    """
    if shape.type == "EMPTY":
        high = np.full(3, shape.empty_display_size)
        low = -high
    else:
        corners = np.array(shape.bound_box)
        low, high = corners.min(axis=0), corners.max(axis=0)
    inverse = np.linalg.inv(np.array(shape.matrix_world))
    local = points @ inverse[:3, :3].T + inverse[:3, 3]
    unit = (local - (low + high) / 2) / np.maximum((high - low) / 2, 1e-12)
    return (unit**2).sum(axis=1) <= 1 if sphere else (np.abs(unit) <= 1).all(axis=1)


class ORRERY_OT_splats_crop(bpy.types.Operator):
    """Keep the Gaussians of the selected objects that lie inside the active object: an empty or a mesh"""

    bl_idname = "orrery.splats_crop"
    bl_label = "Crop"
    bl_options = {"REGISTER", "UNDO"}

    shape: bpy.props.EnumProperty(
        name="Shape",
        items=(
            ("BOX", "Box", "The box around the active object; an empty is a cube of its size"),
            ("SPHERE", "Sphere", "The ellipsoid within that box"),
        ),
    )
    outside: bpy.props.BoolProperty(name="Outside", description="Keep what lies outside instead")

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not can_edit(cls, context):
            return False
        active = context.active_object
        if active is None or layout.is_splats(active):
            cls.poll_message_set("Select the Gaussians, then an empty or a mesh that is the shape")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        masks = []
        for item in _once(chosen_splats(context)):
            within = inside(world_positions(item), context.active_object, sphere=self.shape == "SPHERE")
            masks.append((item, within != self.outside))
        if not any(mask.any() for _, mask in masks):
            self.report({"ERROR"}, "No Gaussian lies there; nothing was removed. Move or enlarge the shape.")
            return {"CANCELLED"}
        gone = sum(keep(item, mask) for item, mask in masks)
        self.report({"INFO"}, f"{gone:,} Gaussians removed")
        return {"FINISHED"}


class ORRERY_OT_splats_select(bpy.types.Operator):
    """Select Gaussians by a number of theirs; Edit Mode shows them and selects further by hand"""

    bl_idname = "orrery.splats_select"
    bl_label = "Select Gaussians"
    bl_options = {"REGISTER", "UNDO"}

    by: bpy.props.EnumProperty(
        name="By",
        items=(
            ("OPACITY", "Opacity", "0 is clear, 1 is solid"),
            ("SIZE", "Size", "The largest standard deviation, metres in the world"),
            ("DISTANCE", "Distance", "Metres from the object's origin, in the world"),
        ),
    )
    low: bpy.props.FloatProperty(name="From", min=0.0, default=0.0, precision=4)
    high: bpy.props.FloatProperty(name="To", min=0.0, default=0.1, precision=4)
    extend: bpy.props.BoolProperty(name="Extend", description="Add to what is selected")

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return can_edit(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        total = 0
        for item in _once(chosen_splats(context)):
            numbers = _measure(item, self.by)
            mask = (numbers >= self.low) & (numbers <= self.high)
            if self.extend:
                mask |= layout.selected(item.data)
            layout.select(item.data, mask)
            total += int(mask.sum())
        self.report({"INFO"}, f"{total:,} Gaussians selected")
        return {"FINISHED"}


def _measure(item: bpy.types.Object, by: str) -> np.ndarray:
    """(G,) the number that is selected by."""
    if by == "OPACITY":
        return layout.values(item.data, "radiance:base")[:, 3]
    matrix = np.array(item.matrix_world, np.float32)
    if by == "DISTANCE":
        return np.linalg.norm(world_positions(item) - matrix[:3, 3], axis=1)
    axes = matrix[:3, :3] @ matrices(layout.values(item.data, "rotation"))
    axes *= layout.values(item.data, "scale")[:, None, :]
    return np.linalg.norm(axes, ord=2, axis=(1, 2))


class ORRERY_OT_splats_delete(bpy.types.Operator):
    """Delete the selected Gaussians of the selected objects"""

    bl_idname = "orrery.splats_delete"
    bl_label = "Delete Selected Gaussians"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return can_edit(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        gone = sum(keep(item, ~layout.selected(item.data)) for item in _once(chosen_splats(context)))
        if not gone:
            self.report({"WARNING"}, "No Gaussian is selected; use Select Gaussians, or Edit Mode")
            return {"CANCELLED"}
        self.report({"INFO"}, f"{gone:,} Gaussians deleted")
        return {"FINISHED"}


class ORRERY_OT_splats_merge(bpy.types.Operator):
    """Put the Gaussians of the selected objects into the active one, where they are"""

    bl_idname = "orrery.splats_merge"
    bl_label = "Merge"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not can_edit(cls, context, least=2):
            return False
        if not layout.is_splats(context.active_object):
            cls.poll_message_set("The active object holds no Gaussians")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        active = context.active_object
        target_from_world = np.linalg.inv(np.array(active.matrix_world))
        parts = [layout.read_stored(active.data)]
        others = [item for item in chosen_splats(context) if item is not active]
        for item in others:
            parts.append(
                transformed(layout.read_stored(item.data), target_from_world @ np.array(item.matrix_world))
            )
        filtered = {layout.antialiased(item.data) for item in (active, *others)}
        if len(filtered) > 1:
            self.report({"WARNING"}, "Only some were trained antialiased; the merged ones are drawn without")
        if active.data.users > 1:
            active.data = active.data.copy()
        whole = joined(parts)
        layout.replace(active.data, whole)
        layout.set_antialiased(active.data, filtered == {True})
        refresh_nodes(active)
        for item in others:
            data = item.data
            bpy.data.objects.remove(item)
            if not data.users:
                layout.remove_data(data)
        self.report({"INFO"}, f"{whole.count:,} Gaussians in {active.name}")
        return {"FINISHED"}


class ORRERY_OT_splats_apply(bpy.types.Operator):
    """Apply location, rotation and scale to the Gaussians; colours that follow the view are turned too"""

    bl_idname = "orrery.splats_apply"
    bl_label = "Apply Transform"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not can_edit(cls, context):
            return False
        if any(item.data.users > 1 for item in chosen_splats(context)):
            cls.poll_message_set("Some Gaussians are shared by several objects; make them single-user first")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        for item in chosen_splats(context):
            basis = np.array(item.matrix_basis)
            if abs(np.linalg.det(basis[:3, :3])) < 1e-12:
                self.report(
                    {"ERROR"}, f"{item.name} is scaled to nothing along an axis; give it a size first"
                )
                return {"CANCELLED"}
        for item in chosen_splats(context):
            kept = {child: child.matrix_world.copy() for child in item.children}
            layout.replace(
                item.data, transformed(layout.read_stored(item.data), np.array(item.matrix_basis, np.float64))
            )
            item.matrix_basis = Matrix.Identity(4)
            context.view_layer.update()
            for child, world in kept.items():
                child.matrix_world = world
        return {"FINISHED"}


class ORRERY_OT_splats_bake(bpy.types.Operator):
    """Colour the active mesh with the selected Gaussians, as seen from in front of each vertex"""

    bl_idname = "orrery.splats_bake"
    bl_label = "Bake to Mesh Colours"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not can_edit(cls, context):
            return False
        active = context.active_object
        if active is None or active.type != "MESH" or layout.is_splats(active):
            cls.poll_message_set("Select the Gaussians, then the mesh that takes their colours")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        mesh_object = context.active_object
        mesh = mesh_object.data
        parts = [
            transformed(layout.read_stored(item.data), np.array(item.matrix_world, np.float64))
            for item in chosen_splats(context)
        ]
        whole = joined(parts)
        if not whole.count or not len(mesh.vertices):
            self.report({"ERROR"}, "There are no Gaussians, or the mesh has no vertices")
            return {"CANCELLED"}
        matrix = np.array(mesh_object.matrix_world)
        points = np.empty(3 * len(mesh.vertices), np.float32)
        normals = np.empty_like(points)
        mesh.vertices.foreach_get("co", points)
        mesh.vertices.foreach_get("normal", normals)
        points = points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
        normals = normals.reshape(-1, 3) @ np.linalg.inv(matrix)[:3, :3]
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        colors = np.ones((len(points), 4), np.float32)
        colors[:, :3] = linear_from_srgb(np.clip(colors_at(whole, points, normals), 0, 1))
        attribute = mesh.color_attributes.get(COLORS)
        if attribute is not None and (attribute.domain, attribute.data_type) != ("POINT", "FLOAT_COLOR"):
            mesh.color_attributes.remove(attribute)
            attribute = None
        attribute = attribute or mesh.color_attributes.new(COLORS, "FLOAT_COLOR", "POINT")
        attribute.data.foreach_set("color", colors.ravel())
        mesh.color_attributes.active_color = attribute
        mesh.update()
        self.report({"INFO"}, f"{len(points):,} vertices coloured, attribute '{COLORS}'")
        return {"FINISHED"}


def colors_at(stored: StoredSplats, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(V, 3) sRGB-encoded colours at points (V, 3) with unit normals (V, 3), all in the world.

    A mean of the nearest Gaussians, each weighted by its opacity times its value at the point, at least a
    little, so that a vertex beside all of them takes the nearest one's colour.
    """
    splats = activate(stored)
    tree = KDTree(stored.count)
    for index, position in enumerate(stored.positions.tolist()):
        tree.insert(position, index)
    tree.balance()
    near = min(NEIGHBOURS, stored.count)
    found = np.array([[index for _, index, _ in tree.find_n(point, near)] for point in points.tolist()])
    axes = matrices(splats.rotations)[found]  # (V, near, 3, 3), columns are the Gaussian's axes
    offset = points[:, None].astype(np.float32) - splats.positions[found]
    local = np.einsum("vnij,vni->vnj", axes, offset) / np.maximum(splats.scales[found], 1e-9)
    squared = np.minimum((local**2).sum(axis=2), 60.0)
    weights = splats.opacities[found] * np.exp(-0.5 * squared) + 1e-12 / (1 + (offset**2).sum(axis=2))
    weights /= weights.sum(axis=1, keepdims=True)
    basis = harmonics.values_of(-normals, splats.harmonics.shape[1])
    seen = np.maximum(0.5 + np.einsum("vk,vnkc->vnc", basis, splats.harmonics[found]), 0)
    return np.einsum("vn,vnc->vc", weights, seen)


def refresh_nodes(item: bpy.types.Object) -> None:
    """Nodes for the degree and the filter that the data now have."""
    modifier = nodes.modifier_of(item)
    if modifier is not None:
        shown = nodes.display(item)
        modifier.node_group = nodes.node_group(layout.degree(item.data))
        nodes.set_display(item, shown)
        nodes.set_input(modifier, nodes.FILTERED, layout.antialiased(item.data))


def _once(items: list[bpy.types.Object]) -> list[bpy.types.Object]:
    """One object of each data-block."""
    return list({item.data.name: item for item in items}.values())


CLASSES = (
    ORRERY_OT_splats_crop,
    ORRERY_OT_splats_select,
    ORRERY_OT_splats_delete,
    ORRERY_OT_splats_merge,
    ORRERY_OT_splats_apply,
    ORRERY_OT_splats_bake,
)
