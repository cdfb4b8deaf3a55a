"""Small Cycles renders of the scene, read back as arrays."""

import math
from pathlib import Path

import bpy
import numpy as np


def render_front(
    folder: Path,
    *,
    size: int = 96,
    samples: int = 8,
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
    azimuth: float = 0.0,
    name: str = "front",
) -> np.ndarray:
    """The scene from 3 m away with the input camera's 25 degrees lens, in white light, background clear.

    azimuth  degrees, counter-clockwise seen from above; 0 looks along +Y as the input picture does
    returns  (size, size, 4) float32, straight alpha, sRGB-encoded, rows from the top
    """
    scene = bpy.context.scene
    camera = bpy.data.cameras.new("test camera")
    camera.angle = math.radians(25)
    item = bpy.data.objects.new("test camera", camera)
    scene.collection.objects.link(item)
    angle = math.radians(azimuth)
    item.location = (center[0] + 3 * math.sin(angle), center[1] - 3 * math.cos(angle), center[2])
    item.rotation_euler = (math.pi / 2, 0, angle)
    scene.camera = item
    world = bpy.data.worlds.new("white")
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.world = world
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = False
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.view_settings.view_transform = "Standard"
    scene.render.filepath = str(folder / f"{name}.png")
    bpy.ops.render.render(write_still=True)
    bpy.data.objects.remove(item)
    return read_png(Path(scene.render.filepath))


def read_png(path: Path) -> np.ndarray:
    """(H, W, 4) float32, straight alpha, sRGB-encoded, rows from the top."""
    image = bpy.data.images.load(str(path))
    width, height = image.size
    pixels = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return pixels.reshape(height, width, 4)[::-1]
