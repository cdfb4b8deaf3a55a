"""Gaussians as points in the attribute layout of Blender 5.3's native type, on every version.

    position           FLOAT_VECTOR  metres
    scale              FLOAT_VECTOR  standard deviations, metres
    rotation           QUATERNION    w, x, y, z
    radiance:base      r, g, b of the constant harmonic, and opacity (FLOAT_COLOR below 5.3)
    radiance:sh_0 ...  FLOAT_VECTOR  one a higher harmonic, INRIA order

From 5.3 on that is a point cloud that Blender draws itself. Below, it is the vertices of a mesh: drawn in
the viewport by `viewport`, in Cycles by the geometry nodes of `nodes`.

Beside these stand the numbers as the file had them (logarithms, logits, quaternions of any length), since
exp and its inverse do not bring every float32 back. `read_stored` takes them where they still belong to
the activated ones, so that import and export leave every bit in place:

    stored:log_scale FLOAT_VECTOR   stored:logit FLOAT   stored:rotation QUATERNION
"""

from collections.abc import Iterator

import bpy
import numpy as np

from shared_protocol.splats.arrays import (
    SplatArrays,
    StoredSplats,
    opacities_of,
    store,
    unit_quaternions,
)

from . import nodes
from .columns import Columns, columns_of

MARK = "orrery_splat_layout"
LAYOUT_VERSION = 2
"""Stored on the object under `MARK`, so that a later version can upgrade an older file."""

ANTIALIASED = "orrery_antialiased"
"""On a data-block: its Gaussians were trained with Mip-Splatting's 2D filter, and are drawn with it."""

SELECTION = ".selection"
"""Where point clouds keep it."""

Data = bpy.types.Mesh | bpy.types.PointCloud

_KINDS = {
    "position": ("FLOAT_VECTOR", "vector", 3),
    "scale": ("FLOAT_VECTOR", "vector", 3),
    "rotation": ("QUATERNION", "value", 4),
    "stored:log_scale": ("FLOAT_VECTOR", "vector", 3),
    "stored:logit": ("FLOAT", "value", 1),
    "stored:rotation": ("QUATERNION", "value", 4),
}
_FIELDS = {
    "FLOAT_VECTOR": ("vector", 3),
    "QUATERNION": ("value", 4),
    "FLOAT": ("value", 1),
    "FLOAT_COLOR": ("color", 4),
    "FLOAT4": ("vector", 4),
}
_CLOSE = 1e-6
"""Relative difference up to which a stored number belongs to its activated one."""


def is_splats(item: bpy.types.Object | None) -> bool:
    """Whether this object holds Gaussians in this layout, whoever made it."""
    if item is None or item.type not in ("MESH", "POINTCLOUD"):
        return False
    return MARK in item or (item.type == "POINTCLOUD" and "radiance:base" in item.data.attributes)


def count(data: Data) -> int:
    """Number of Gaussians."""
    return len(data.vertices if isinstance(data, bpy.types.Mesh) else data.points)


def degree(data: Data) -> int:
    """Highest degree whose harmonics are all there, 0 to 3."""
    names = set(data.attributes.keys())  # "in" would have Blender copy an attribute that objects share
    return max(d for d in range(4) if all(coefficient(k) in names for k in range(1, (d + 1) ** 2)))


def coefficient(index: int) -> str:
    """Name of the attribute with harmonic `index`."""
    return f"radiance:sh_{index - 1}" if index else "radiance:base"


def values(data: Data, name: str, scratch: np.ndarray | None = None) -> np.ndarray:
    """(G, width) float32, a copy of one attribute; width is the attribute's.

    scratch  where to put it, flat: memory that was touched before costs less
    """
    attribute = data.attributes[name]
    field, width = _FIELDS[attribute.data_type]
    size = len(attribute.data) * width
    flat = np.empty(size, np.float32) if scratch is None else scratch[:size]
    attribute.data.foreach_get(field, flat)
    return flat.reshape(-1, width)


def make(data: Data, name: str) -> bpy.types.Attribute:
    """One attribute of all Gaussians, made when it is not there."""
    if name == "radiance:base":
        kind = "FLOAT4" if native(data) else "FLOAT_COLOR"
    else:
        kind = _KINDS[name][0] if name in _KINDS else "FLOAT_VECTOR"
    return data.attributes.get(name) or data.attributes.new(name, kind, "POINT")


def put(data: Data, name: str, given: np.ndarray) -> None:
    """Set one attribute of all Gaussians, made when it is not there."""
    for _ in _put_steps(data, name, given):
        pass


def _put_steps(data: Data, name: str, given: np.ndarray) -> Iterator[None]:
    """The same, making and setting in a step each: both touch all of its memory."""
    if name not in data.attributes:
        if name == "radiance:base":
            kind = "FLOAT4" if native(data) else "FLOAT_COLOR"
        else:
            kind = _KINDS[name][0] if name in _KINDS else "FLOAT_VECTOR"
        data.attributes.new(name, kind, "POINT")
        yield
    attribute = data.attributes[name]  # looked up again: a step may have moved it
    field, _ = _FIELDS[attribute.data_type]
    attribute.data.foreach_set(field, np.ascontiguousarray(given, np.float32).reshape(-1))
    yield


def antialiased(data: Data) -> bool:
    """Whether these Gaussians are drawn with Mip-Splatting's filter."""
    return bool(data.get(ANTIALIASED, False))


def set_antialiased(data: Data, wanted: bool) -> None:
    """Draw them so from now on; the nodes of objects follow by `editing.refresh_nodes`."""
    if wanted:
        data[ANTIALIASED] = True
    elif ANTIALIASED in data:
        del data[ANTIALIASED]


def native(data: Data) -> bool:
    """Whether this is Blender's own type of Gaussians."""
    return isinstance(data, bpy.types.PointCloud)


def native_type() -> str:
    """Identifier of the native Gaussian point-cloud type, "" where this Blender has none (below 5.3)."""
    cloud = bpy.types.PointCloud.bl_rna
    kind = cloud.properties.get("type")
    if kind is None or "resize" not in cloud.functions:
        return ""
    return next((item.identifier for item in kind.enum_items if "SPLAT" in item.identifier), "")


def new_data(name: str, size: int) -> Data:
    """A data-block for `size` Gaussians, native where this Blender has the type."""
    if kind := native_type():
        cloud = bpy.data.pointclouds.new(name)
        cloud.resize(size)
        cloud.type = kind
        return cloud
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(size)
    return mesh


def replace(data: Data, stored: StoredSplats) -> None:
    """Other Gaussians in the same data-block: every object that shows it follows."""
    if native(data):
        data.resize(stored.count)
    else:
        data.clear_geometry()
        data.vertices.add(stored.count)
    for name in [a.name for a in data.attributes if a.name.startswith("radiance:sh_")]:
        data.attributes.remove(data.attributes[name])
    columns = None
    for read in columns_of(stored):
        columns = read
    for _ in fill(data, columns):
        pass
    data.update_tag()


def selected(data: Data) -> np.ndarray:
    """(G,) bool: the selected Gaussians, as Edit Mode shows them."""
    attribute = data.attributes.get(SELECTION)
    result = np.zeros(count(data), bool)
    if attribute is not None:
        attribute.data.foreach_get("value", result)
    elif not native(data):
        data.vertices.foreach_get("select", result)
    return result


def select(data: Data, chosen: np.ndarray) -> None:
    """Select these Gaussians, (G,) bool, and no others."""
    if native(data):
        attribute = data.attributes.get(SELECTION) or data.attributes.new(SELECTION, "BOOLEAN", "POINT")
        attribute.data.foreach_set("value", np.ascontiguousarray(chosen, bool))
    else:
        data.vertices.foreach_set("select", np.ascontiguousarray(chosen, bool))
    data.update_tag()


def remove_data(data: Data) -> None:
    """Take an unused data-block out of the file."""
    (bpy.data.pointclouds if native(data) else bpy.data.meshes).remove(data)


def fill(data: Data, columns: Columns) -> Iterator[None]:
    """Set all attributes, in steps: each makes or sets one."""
    if columns.antialiased:
        set_antialiased(data, wanted=True)
    kept = (
        ("stored:log_scale", columns.log_scales),
        ("stored:logit", columns.logits),
        ("stored:rotation", columns.rotations),
    )
    splats = columns.activated
    yield
    shown = (
        ("position", columns.positions),
        ("scale", splats.scales),
        ("rotation", splats.rotations),
        ("radiance:base", columns.base),
    )
    harmonics = ((coefficient(k), c) for k, c in enumerate(columns.coefficients) if k)
    for name, values in (*kept, *shown, *harmonics):
        columns.memory.give_back(values.nbytes)
        make(data, name)  # takes as long as setting it: the memory is new
        yield
        yield from _put_steps(data, name, values)


def new_object(name: str, data: Data, degree: int, collection: bpy.types.Collection) -> bpy.types.Object:
    """An object that shows `data` as Gaussians."""
    data.update_tag()
    item = bpy.data.objects.new(name, data)
    item[MARK] = LAYOUT_VERSION
    collection.objects.link(item)
    if not native(data):
        nodes.add_modifier(item, degree, antialiased=antialiased(data))
    return item


def read_splats(data: Data) -> SplatArrays:
    """The activated Gaussians of a data-block."""
    base = values(data, "radiance:base")
    harmonics = [base[:, :3], *(values(data, coefficient(k)) for k in range(1, (degree(data) + 1) ** 2))]
    return SplatArrays(
        values(data, "position"),
        values(data, "scale"),
        values(data, "rotation"),
        np.ascontiguousarray(base[:, 3]),
        np.stack(harmonics, axis=1),
    )


def read_stored(data: Data) -> StoredSplats:
    """The Gaussians as a file holds them: bit for bit as they were read, where nothing changed them."""
    splats = read_splats(data)
    made = store(splats)
    kept = {name: values(data, name) for name in _KINDS if name in data.attributes and ":" in name}
    if len(kept) < 3:
        return made
    logits = kept["stored:logit"][:, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        scales = np.exp(kept["stored:log_scale"])
    same_scale = _close(scales, splats.scales).all(axis=1)[:, None]
    same_opacity = np.abs(opacities_of(logits) - splats.opacities) <= _CLOSE
    same_turn = _close(unit_quaternions(kept["stored:rotation"]), splats.rotations).all(axis=1)[:, None]
    return made._replace(
        log_scales=np.where(same_scale, kept["stored:log_scale"], made.log_scales),
        logits=np.where(same_opacity, logits, made.logits),
        rotations=np.where(same_turn, kept["stored:rotation"], made.rotations),
    )


def _close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (np.abs(a - b) <= _CLOSE * np.abs(b)) | (a == b)
