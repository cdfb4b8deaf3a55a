"""A file of Gaussians -> points in the attribute layout of Blender 5.3's native type, on every version.

    position           FLOAT_VECTOR  metres
    scale              FLOAT_VECTOR  standard deviations, metres
    rotation           QUATERNION    w, x, y, z
    radiance:base      r, g, b of the constant harmonic, and opacity (FLOAT_COLOR below 5.3)
    radiance:sh_0 ...  FLOAT_VECTOR  one a higher harmonic, INRIA order

From 5.3 on that is a point cloud that Blender draws itself. Below, it is the vertices of a mesh and a
geometry-nodes modifier (`splat_nodes`) that turns each into a Gaussian for Cycles.
"""

import bpy
import numpy as np

from shared_protocol.splats.files import decode_splats

from . import splat_nodes

LAYOUT_VERSION = 1
"""Stored on the object, so that a later version can upgrade an older file."""

TRANSPARENT_BOUNCES = 128
"""A ray through haze meets more than Cycles' default of 8 Gaussians; 128 is where the picture stops
changing visibly (20 bounces lose 8 dB on a scene of 20,000 splats)."""


def import_splats(data: bytes, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """Import the bytes of a file of Gaussians (.ply, .compressed.ply, .spz, .splat) into `collection`.

    Raises InvalidInput when it is no such file, and the other errors of `decode_stored`.
    """
    splats = decode_splats(data)
    return splats_object(
        name,
        splats.positions,
        splats.scales,
        splats.rotations,
        splats.opacities,
        splats.harmonics,
        collection,
    )


def splats_object(
    name: str,
    positions: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    opacities: np.ndarray,
    harmonics: np.ndarray,
    collection: bpy.types.Collection,
) -> bpy.types.Object:
    """Build the object from arrays.

    positions (G, 3), scales (G, 3) metres; rotations (G, 4) wxyz; opacities (G,); harmonics (G, K, 3)
    """
    native = _native_type()
    data = _native_cloud(name, len(positions), native) if native else _vertices(name, len(positions))
    _set(data, "position", "FLOAT_VECTOR", "vector", positions)
    _set(data, "scale", "FLOAT_VECTOR", "vector", scales)
    _set(data, "rotation", "QUATERNION", "value", rotations)
    base = np.concatenate([harmonics[:, 0], np.asarray(opacities)[:, None]], axis=1)  # (G, 4)
    if native:
        _set(data, "radiance:base", "FLOAT4", "value", base)
    else:
        _set(data, "radiance:base", "FLOAT_COLOR", "color", base)
    for index in range(1, harmonics.shape[1]):
        _set(data, f"radiance:sh_{index - 1}", "FLOAT_VECTOR", "vector", harmonics[:, index])
    data.update_tag()
    item = bpy.data.objects.new(name, data)
    item["orrery_splat_layout"] = LAYOUT_VERSION
    collection.objects.link(item)
    if not native:
        splat_nodes.add_modifier(item, degree=round(harmonics.shape[1] ** 0.5) - 1)
    return item


def prepare_scene(scene: bpy.types.Scene) -> None:
    """Let Cycles' rays pass through enough Gaussians; a higher setting of the user's stays."""
    cycles = getattr(scene, "cycles", None)
    if cycles is not None and cycles.transparent_max_bounces < TRANSPARENT_BOUNCES:
        cycles.transparent_max_bounces = TRANSPARENT_BOUNCES


def _native_type() -> str:
    """Identifier of the native Gaussian point-cloud type, "" where this Blender has none (below 5.3)."""
    kind = bpy.types.PointCloud.bl_rna.properties.get("type")
    if kind is None or not hasattr(bpy.types.PointCloud, "resize"):
        return ""
    return next((item.identifier for item in kind.enum_items if "SPLAT" in item.identifier), "")


def _native_cloud(name: str, count: int, kind: str) -> bpy.types.PointCloud:
    cloud = bpy.data.pointclouds.new(name)
    cloud.resize(count)
    cloud.type = kind
    return cloud


def _vertices(name: str, count: int) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(count)
    return mesh


def _set(
    data: bpy.types.Mesh | bpy.types.PointCloud, name: str, kind: str, field: str, values: np.ndarray
) -> None:
    attribute = data.attributes.get(name) or data.attributes.new(name, kind, "POINT")
    attribute.data.foreach_set(field, np.ascontiguousarray(values, dtype=np.float32).ravel())
