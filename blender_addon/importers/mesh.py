"""Arrays of a GLB -> one mesh object: welded, Principled material, smooth; in slices that are soon done."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np

from ..touched_memory import TouchedMemory
from .glb import GlbMaterial, GlbMesh, read_glb
from .steps import finished

Steps = Iterator[None]

_FACES_AT_ONCE = 30_000
_FACES_A_SLICE = 4_000
"""Blender sets where a face begins one face at a time: 1.5 ms, and the same from Python in a slice."""


def import_mesh(path: Path, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """Import `mesh.glb` into `collection` as one object called `name`, its quads as quads.

    glTF's Y-up has become Blender's Z-up, so the front looks toward -Y. The object has no transform of its
    own. Raises InvalidInput when the file holds no mesh.
    """
    return finished(mesh_steps(read_glb(path), name, collection))


def mesh_steps(
    glb: GlbMesh,
    name: str,
    collection: bpy.types.Collection,
    smooth: bool = True,
    memory: TouchedMemory | None = None,
) -> Steps:
    """The same from arrays, a little at a time; what the generator returns is the object.

    smooth  its faces are shaded so, else each is flat
    memory  `glb.size` bytes of it, for what is made here
    """
    memory = memory or TouchedMemory()
    mesh = bpy.data.meshes.new(name)
    try:
        yield from _geometry(mesh, glb, memory)
        if not smooth:
            _put(mesh, "sharp_face", "BOOLEAN", "FACE", np.ones(len(glb.starts), bool))
            yield
        for entry in glb.materials:
            mesh.materials.append((yield from _material(entry, name, memory)))
    except BaseException:
        with contextlib.suppress(ReferenceError):  # gone already, by an undo in between
            bpy.data.meshes.remove(mesh)
        raise
    item = bpy.data.objects.new(name, mesh)
    collection.objects.link(item)
    return item


def _geometry(mesh: bpy.types.Mesh, glb: GlbMesh, memory: TouchedMemory) -> Steps:
    memory.give_back(glb.vertices.nbytes)
    mesh.vertices.add(len(glb.vertices))
    yield
    mesh.attributes["position"].data.foreach_set("vector", glb.vertices.ravel())
    yield
    memory.give_back(glb.edges.nbytes)
    mesh.edges.add(len(glb.edges))
    _put(mesh, ".edge_verts", "INT32_2D", "EDGE", glb.edges)
    yield
    memory.give_back(glb.corners.nbytes)
    mesh.loops.add(len(glb.corners))
    _put(mesh, ".corner_vert", "INT", "CORNER", glb.corners)
    yield
    memory.give_back(glb.corner_edges.nbytes)
    _put(mesh, ".corner_edge", "INT", "CORNER", glb.corner_edges)
    yield
    memory.give_back(glb.starts.nbytes)
    mesh.polygons.add(len(glb.starts))
    yield
    yield from _beginnings(mesh, glb.starts)
    memory.give_back(glb.uvs.nbytes)
    uv_layer = mesh.uv_layers.new(name="UVMap", do_init=False)
    yield
    uv_layer.uv.foreach_set("vector", glb.uvs.ravel())
    yield
    if len(glb.materials) > 1:
        mesh.polygons.foreach_set("material_index", glb.material_of)
    mesh.update()
    yield


def _beginnings(mesh: bpy.types.Mesh, starts: np.ndarray) -> Steps:
    if len(starts) <= _FACES_AT_ONCE:
        mesh.polygons.foreach_set("loop_start", starts)
        yield
        return
    for first in range(0, len(starts), _FACES_A_SLICE):
        polygons = mesh.polygons
        for number, start in enumerate(starts[first : first + _FACES_A_SLICE].tolist(), first):
            polygons[number].loop_start = start
        yield


def _put(mesh: bpy.types.Mesh, name: str, kind: str, domain: str, values: np.ndarray) -> None:
    """Set one of Blender's own attributes; its slower ways go element by element."""
    attribute = mesh.attributes.get(name) or mesh.attributes.new(name, kind, domain)
    attribute.data.foreach_set("value", values.ravel())


def _material(entry: GlbMaterial, name: str, memory: TouchedMemory) -> Steps:
    """A Principled material; base colour is sRGB-encoded, a normal map is not."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    principled = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    principled.inputs["Metallic"].default_value = entry.metallic
    principled.inputs["Roughness"].default_value = entry.roughness
    principled.inputs["Base Color"].default_value = entry.factor
    yield
    if entry.base_color:
        memory.give_back(len(entry.base_color))
        picture = _texture(nodes, entry.base_color, f"{name} base colour", "sRGB", (-320, 280))
        links.new(picture.outputs["Color"], principled.inputs["Base Color"])
        yield
    if entry.normal:
        memory.give_back(len(entry.normal))
        picture = _texture(nodes, entry.normal, f"{name} normals", "Non-Color", (-520, -120))
        turned = nodes.new("ShaderNodeNormalMap")
        turned.location = (-220, -120)
        links.new(picture.outputs["Color"], turned.inputs["Color"])
        links.new(turned.outputs["Normal"], principled.inputs["Normal"])
        yield
    return material


def _texture(
    nodes: bpy.types.Nodes, data: bytes, name: str, space: str, location: tuple[int, int]
) -> bpy.types.ShaderNodeTexImage:
    """A picture packed into the .blend file; Blender decodes it when it is first drawn."""
    node = nodes.new("ShaderNodeTexImage")
    node.location = location
    node.extension = "EXTEND"  # a chart at the border of the atlas must not meet the other side
    node.image = packed_image(data, name)
    node.image.colorspace_settings.name = space
    return node


def packed_image(data: bytes, name: str) -> bpy.types.Image:
    """An image datablock from the bytes of a picture file, packed."""
    image = bpy.data.images.new(name, 1, 1)
    image.pack(data=data, data_len=len(data))
    image.source = "FILE"
    return image
