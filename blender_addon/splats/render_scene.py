"""What a render of the scene holds, and its camera."""

import bpy
import numpy as np

from shared_protocol.errors import InvalidInput, Unsupported

from . import layout
from .painter import Instance
from .view import View
from .viewport import instance_of, of_collection

_SEEN_BY_BLENDER = {
    "MESH", "CURVE", "SURFACE", "META", "FONT", "VOLUME", "CURVES", "POINTCLOUD", "GPENCIL", "GREASEPENCIL",
}  # fmt: skip


def rendered_objects(view_layer: bpy.types.ViewLayer) -> list[bpy.types.Object]:
    """Objects that a render of this layer shows."""
    found: dict[str, bpy.types.Object] = {}

    def walk(layer: bpy.types.LayerCollection) -> None:
        if layer.exclude or layer.collection.hide_render:
            return
        for item in layer.collection.objects:
            if not item.hide_render:
                found[item.name] = item
        for child in layer.children:
            walk(child)

    walk(view_layer.layer_collection)
    return list(found.values())


def gaussians_of(items: list[bpy.types.Object]) -> list[Instance]:
    """What to draw of these objects, now."""
    found = []
    for item in items:
        matrix = np.array(item.matrix_world)
        if layout.is_splats(item) and item.type == "MESH":
            found.append(instance_of(item, matrix))
        elif item.instance_type == "COLLECTION" and item.instance_collection:
            found += [i for _, i in of_collection(item.name, item.instance_collection, matrix, render=True)]
    return found


def camera_view(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> View:
    """The scene's camera, at the size of the render. Raises InvalidInput, Unsupported."""
    camera = scene.camera
    if camera is None:
        raise InvalidInput("the scene has no camera", "an active camera", "Add one: Add > Camera.")
    if camera.data.type not in ("PERSP", "ORTHO"):
        raise Unsupported(
            f"the camera is of type {camera.data.type}",
            "perspective or orthographic",
            "Render with Cycles itself: its Gaussians take every camera.",
        )
    width, height = size(scene)
    render = scene.render
    projection = camera.calc_matrix_camera(
        depsgraph, x=width, y=height, scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y
    )
    return View.of(camera.matrix_world.normalized().inverted(), projection, width, height)


def size(scene: bpy.types.Scene) -> tuple[int, int]:
    """Pixels of the render."""
    render = scene.render
    share = render.resolution_percentage / 100
    return max(1, int(render.resolution_x * share)), max(1, int(render.resolution_y * share))


def needs_blender(scene: bpy.types.Scene, items: list[bpy.types.Object]) -> bool:
    """Whether there is anything but Gaussians to be seen."""
    if not scene.render.film_transparent:
        return True
    return any(
        (item.type in _SEEN_BY_BLENDER and not layout.is_splats(item))
        or (item.instance_type == "COLLECTION" and item.instance_collection)
        for item in items
    )
