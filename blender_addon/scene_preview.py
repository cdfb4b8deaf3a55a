"""What a running job looks like so far, in the scene: a picture that stands where the result will be.

The backend sends small pictures, not geometry. The newest of them hangs as an image empty at the place of
the result, and goes when the result comes. It is not saved with the file's undo history: everything is
found by name each time.
"""

from collections.abc import Sequence

import bpy
import numpy as np
from bpy.app.handlers import persistent

from .importers import place
from .importers.steps import finished
from .jobs import Job
from .properties import settings

NAME = "Orrery preview"
WIDTH = 1.33
"""Metres that the frame of a view is wide at the object (`OrbitOptions`: 3 m, 25 degrees)."""
MOST_OBJECTS = 500
"""In a scene of more, looking for a free spot would hold up the window."""


def update(queue: Sequence[Job]) -> None:
    """Show the running job's newest picture, or nothing; cheap when nothing changed."""
    scene = bpy.context.scene
    if scene is None or not hasattr(scene, "orrery") or bpy.context.mode != "OBJECT":
        return
    job = next((job for job in queue if job.stage), None)
    path = job.picture if job is not None and settings(bpy.context).preview_in_scene else None
    if path is None:
        remove()
        return
    item = bpy.data.objects.get(NAME)
    if item is not None and item.get("orrery_preview") == str(path):
        return
    image = bpy.data.images.get(NAME)
    if image is None:
        image = bpy.data.images.load(str(path))
        image.name = NAME
    else:
        image.filepath = str(path)
        image.reload()
    if item is None:
        item = bpy.data.objects.new(NAME, None)
        item.empty_display_type, item.hide_render, item.hide_select = "IMAGE", True, True
        item.empty_display_size = WIDTH
        item.rotation_euler.x = 1.5707963  # upright, seen from the front
        item.location = _spot(scene, settings(bpy.context).at)
        item.location.z += WIDTH / 2
        scene.collection.objects.link(item)
    item.data = image
    item["orrery_preview"] = str(path)


def _spot(scene: bpy.types.Scene, at: str) -> tuple[float, float, float]:
    """Where the result will stand; it is about a metre wide."""
    if at == place.CURSOR:
        return tuple(scene.cursor.location)
    if at == place.ORIGIN or len(scene.objects) > MOST_OBJECTS:
        return (0.0, 0.0, 0.0)
    expected = np.array([(-0.5, -0.5, 0.0), (0.5, 0.5, 1.0)])
    return (place.shift_beside(*expected, finished(place.occupied(scene))), 0.0, 0.0)


def left_over(queue: Sequence[Job]) -> bool:
    """Whether the picture hangs there without a job: an undo may bring it back."""
    return not queue and NAME in bpy.data.objects


@persistent
def before_saving(*_: object) -> None:
    """It is not for the file; the next news of the job hangs it up again."""
    remove()


def remove() -> None:
    """Take the picture away."""
    item, image = bpy.data.objects.get(NAME), bpy.data.images.get(NAME)
    if item is not None and "orrery_preview" in item:
        bpy.data.objects.remove(item)
    if image is not None:
        bpy.data.images.remove(image)
