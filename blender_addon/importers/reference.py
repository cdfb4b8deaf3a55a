"""The input beside the result: the camera that saw it, with the cut-out behind, or a picture in the scene."""

import json
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from .cameras import SENSOR_WIDTH, lens_of

NONE, CAMERA, EMPTY = "NONE", "CAMERA", "EMPTY"
_BESIDE = 1.0
"""Distance of the picture's middle from the result's, in widths of the picture."""


def add_reference(
    what: str, cutout: Path, cameras: bytes, name: str, collection: bpy.types.Collection, pack: bool
) -> bpy.types.Object | None:
    """Add the cut-out as `what` says; None where the result lacks what that needs.

    CAMERA: a camera at the place of view 0; seen through it, the result lies on the picture.
    EMPTY: the picture, in the plane of view 0 at its scale, to the left of the result.
    """
    frames = json.loads(cameras)["frames"] if cameras else []
    if what == NONE or not frames:
        return None
    image = bpy.data.images.load(str(cutout))
    image.name = f"{name} cut-out"
    if pack:
        image.pack()
    values = {**json.loads(cameras), **frames[0]}
    pose = Matrix(values["transform_matrix"])
    lens, shift_x, shift_y = lens_of(values)
    if what == CAMERA:
        camera = bpy.data.cameras.new(f"{name} input")
        camera.sensor_fit, camera.sensor_width = "HORIZONTAL", SENSOR_WIDTH
        camera.lens, camera.shift_x, camera.shift_y = lens, shift_x, shift_y
        camera.show_background_images = True
        behind = camera.background_images.new()
        behind.image, behind.alpha, behind.display_depth = image, 0.5, "BACK"
        item = bpy.data.objects.new(f"{name} input", camera)
        item.matrix_world = pose
    else:
        item = bpy.data.objects.new(f"{name} input", None)
        item.empty_display_type = "IMAGE"
        item.data = image
        distance = float(np.linalg.norm(pose.translation))
        width = distance * SENSOR_WIDTH / lens  # of the frame, at the result's middle
        item.empty_display_size = width
        pose.translation = pose.to_3x3().col[0] * (-_BESIDE * width)
        item.matrix_world = pose
    collection.objects.link(item)
    item.hide_render = what == EMPTY
    return item
