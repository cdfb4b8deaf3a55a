"""Files of Gaussians -> objects in the scene."""

import bpy

from shared_protocol.splats.arrays import StoredSplats
from shared_protocol.splats.files import decode_stored

from . import layout

TRANSPARENT_BOUNCES = 128
"""A ray through haze meets more than Cycles' default of 8 Gaussians; 128 is where the picture stops
changing visibly (20 bounces lose 8 dB on a scene of 20,000 splats)."""


def import_splats(data: bytes, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """Import the bytes of a file of Gaussians (.ply, .compressed.ply, .spz, .splat) into `collection`.

    Raises InvalidInput when it is no such file, and the other errors of `decode_stored`.
    """
    return splats_object(name, decode_stored(data), collection)


def splats_object(name: str, stored: StoredSplats, collection: bpy.types.Collection) -> bpy.types.Object:
    """An object of these Gaussians, at once."""
    data = layout.new_data(name, stored.count)
    for _ in layout.fill(data, stored):
        pass
    return layout.new_object(name, data, stored.degree, collection)


def prepare_scene(scene: bpy.types.Scene) -> None:
    """Let Cycles' rays pass through enough Gaussians; a higher setting of the user's stays."""
    cycles = getattr(scene, "cycles", None)
    if cycles is not None and cycles.transparent_max_bounces < TRANSPARENT_BOUNCES:
        cycles.transparent_max_bounces = TRANSPARENT_BOUNCES
