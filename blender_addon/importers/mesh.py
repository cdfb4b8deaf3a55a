"""mesh.glb -> one mesh object: Blender's own glTF importer, then tidied up."""

from pathlib import Path

import bpy
from mathutils import Matrix

from shared_protocol.errors import InternalError, InvalidInput

from .quads import join_quads, quads_in

GLTF_OPTIONS = {
    "import_shading": "SMOOTH",
    # The exporter splits vertices at UV seams because glTF must; welding them again gives back the
    # watertight mesh that sculpting and remeshing need.
    "merge_vertices": True,
    "import_pack_images": True,
    "import_scene_as_collection": False,
    "import_select_created_objects": False,
}


def import_mesh(path: Path, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """Import `mesh.glb` into `collection` as one object called `name`, its quads as quads.

    The importer turns glTF's Y-up into Blender's Z-up, so the front looks toward -Y. The importer's
    empties are dropped; the object has no transform of its own.

    Raises InvalidInput when the file holds no mesh, InternalError when Blender cannot read it.
    """
    before = {
        kind: set(getattr(bpy.data, kind)) for kind in ("objects", "collections", "materials", "images")
    }
    known = _operator_options()
    try:
        bpy.ops.import_scene.gltf(
            filepath=str(path), **{key: value for key, value in GLTF_OPTIONS.items() if key in known}
        )
    except RuntimeError as error:
        raise InternalError(
            f"Blender's glTF importer could not read {path.name}: {error}",
            remedy="Generate again; if it stays so, send the file to the developers.",
        ) from error
    new = {kind: [item for item in getattr(bpy.data, kind) if item not in before[kind]] for kind in before}
    bpy.context.view_layer.update()  # world matrices of the new objects
    meshes = [item for item in new["objects"] if item.type == "MESH"]
    if not meshes:
        raise InvalidInput(f"{path.name} holds no mesh", "a GLB with one textured mesh")
    for item in meshes:
        _move_to(item, collection)
    for item in new["objects"]:
        if item.type != "MESH":
            bpy.data.objects.remove(item)
    for item in new["collections"]:
        if not item.objects and not item.children:
            bpy.data.collections.remove(item)
    result = meshes[0]
    if len(meshes) > 1:
        with bpy.context.temp_override(
            active_object=result, object=result, selected_objects=meshes, selected_editable_objects=meshes
        ):
            bpy.ops.object.join()
    result.name = result.data.name = name
    for material in new["materials"]:
        material.name = name
        _prepare_material(material, name)
    if quads := quads_in(path):
        join_quads(result.data, quads)
    _smooth(result.data)
    return result


def _operator_options() -> set[str]:
    """The importer's options in this Blender version; they differ between 4.2 and 5."""
    if not hasattr(bpy.types, "IMPORT_SCENE_OT_gltf"):
        raise InternalError(
            "Blender's glTF importer is switched off",
            remedy="Enable the add-on 'glTF 2.0 format' in Edit > Preferences > Add-ons.",
        )
    return set(bpy.ops.import_scene.gltf.get_rna_type().properties.keys())


def _move_to(item: bpy.types.Object, collection: bpy.types.Collection) -> None:
    """Out of the importer's empties into `collection`, the world matrix applied to the vertices."""
    world = item.matrix_world.copy()
    item.parent = None
    item.rotation_mode = "XYZ"
    item.matrix_world = Matrix.Identity(4)
    item.data.transform(world)
    for owner in list(item.users_collection):
        owner.objects.unlink(item)
    collection.objects.link(item)


def _prepare_material(material: bpy.types.Material, name: str) -> None:
    """Base colour is sRGB-encoded, a normal map is not; a generated surface stays matte."""
    for node in material.node_tree.nodes if material.node_tree else ():
        if node.type == "BSDF_PRINCIPLED":
            socket, words, space = node.inputs["Base Color"], "base colour", "sRGB"
        elif node.type == "NORMAL_MAP":
            socket, words, space = node.inputs["Color"], "normals", "Non-Color"
        else:
            continue
        for link in socket.links:
            image = getattr(link.from_node, "image", None)
            if image is not None:
                image.name = f"{name} {words}"
                image.colorspace_settings.name = space


def _smooth(mesh: bpy.types.Mesh) -> None:
    if "custom_normal" in mesh.attributes:
        mesh.attributes.remove(mesh.attributes["custom_normal"])
    mesh.shade_smooth()
