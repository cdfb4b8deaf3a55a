"""cameras.json (nerfstudio `transforms.json` layout) -> one Blender camera that jumps along the views."""

import json
import math

import bpy
from mathutils import Matrix

from shared_protocol.errors import InvalidInput

SENSOR_WIDTH = 36.0


def import_cameras(data: bytes, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """Import `cameras.json`: frame k of the timeline is view k - 1, without in-between poses.

    `transform_matrix` is world-from-camera with OpenGL axes, which are Blender's own. Lens and shift come
    from the intrinsics; pixels are square.

    Raises InvalidInput when the file is not of that layout.
    """
    try:
        content = json.loads(data)
        frames = [(Matrix(frame["transform_matrix"]), {**content, **frame}) for frame in content["frames"]]
        lenses = [lens_of(values) for _, values in frames]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"the cameras file cannot be read ({error})", "nerfstudio's transforms.json layout"
        ) from error
    if not frames:
        raise InvalidInput("the cameras file has no frames", "one frame a view")
    camera = bpy.data.cameras.new(name)
    camera.sensor_fit = "HORIZONTAL"
    camera.sensor_width = SENSOR_WIDTH
    item = bpy.data.objects.new(name, camera)
    collection.objects.link(item)
    item.rotation_mode = "QUATERNION"
    for number, ((pose, _), (lens, shift_x, shift_y)) in enumerate(zip(frames, lenses, strict=True), start=1):
        item.matrix_world = pose
        camera.lens, camera.shift_x, camera.shift_y = lens, shift_x, shift_y
        for path in ("location", "rotation_quaternion"):
            item.keyframe_insert(path, frame=number)
        for path in ("lens", "shift_x", "shift_y"):
            camera.keyframe_insert(path, frame=number)
    for owner in (item, camera):
        for curve in _curves(owner):
            for key in curve.keyframe_points:
                key.interpolation = "CONSTANT"
    item.matrix_world = frames[0][0]
    camera.lens, camera.shift_x, camera.shift_y = lenses[0]
    return item


def lens_of(values: dict) -> tuple[float, float, float]:
    """Focal length in millimetres, and the shifts, for the sensor width above."""
    width, height = float(values["w"]), float(values["h"])
    focal = values.get("fl_x") or width / 2 / math.tan(float(values["camera_angle_x"]) / 2)
    center_x, center_y = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    return (
        float(focal) / width * SENSOR_WIDTH,
        (width / 2 - center_x) / width,
        (center_y - height / 2) / width,
    )


def _curves(owner: bpy.types.ID) -> list[bpy.types.FCurve]:
    """All curves of the owner's action; Blender 5 keeps them in layers, strips and channel bags."""
    animation = owner.animation_data
    if hasattr(animation.action, "fcurves"):
        return list(animation.action.fcurves)
    return [
        curve
        for layer in animation.action.layers
        for strip in layer.strips
        for bag in strip.channelbags
        for curve in bag.fcurves
    ]
