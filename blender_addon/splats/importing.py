"""Files of Gaussians -> objects in the scene."""

import contextlib
import mmap
from collections.abc import Iterator

import bpy

from shared_protocol.splats.arrays import StoredSplats

from . import layout, nodes
from .columns import Columns, columns_of, read_columns

TRANSPARENT_BOUNCES = 128
"""A ray through haze meets more than Cycles' default of 8 Gaussians; 128 is where the picture stops
changing visibly (20 bounces lose 8 dB on a scene of 20,000 splats). As many are followed without chance:
Cycles' default, to end rays at random, costs 10 to 25 dB at few samples."""


def import_splats(data: bytes | mmap.mmap, name: str, collection: bpy.types.Collection) -> bpy.types.Object:
    """Import the content of a file of Gaussians (.ply, .compressed.ply, .spz, .splat) into `collection`.

    Raises InvalidInput when it is no such file, and the other errors of `decode_stored`.
    """
    return _last(import_steps(read_columns(data), name, collection))


def splats_object(name: str, stored: StoredSplats, collection: bpy.types.Collection) -> bpy.types.Object:
    """An object of these Gaussians."""
    return _last(import_steps(columns_of(stored), name, collection))


def import_steps(
    reading: Iterator[Columns | None], name: str, collection: bpy.types.Collection
) -> Iterator[bpy.types.Object | None]:
    """Steps of a few milliseconds (one attribute of a million Gaussians: 10) that make an object of what
    is read; the last one yields it. Ended early, nothing stays in the file."""
    columns = None
    for read in reading:
        columns = read
        yield None
    yield (yield from object_steps(columns, name, collection))


def object_steps(columns: Columns, name: str, collection: bpy.types.Collection) -> Iterator[None]:
    """The same from columns; what the generator returns is the object."""
    columns.memory.give_back(columns.positions.nbytes)
    data = layout.new_data(name, columns.count)
    try:
        yield
        yield from layout.fill(data, columns)
        if not layout.native(data):
            yield from nodes.group_steps(columns.degree)
    except BaseException:
        with contextlib.suppress(ReferenceError):  # gone already, by an undo in between
            layout.remove_data(data)
        raise
    return layout.new_object(name, data, columns.degree, collection)


def _last(steps: Iterator[bpy.types.Object | None]) -> bpy.types.Object:
    *_, item = steps
    return item


def prepare_scene(scene: bpy.types.Scene) -> None:
    """Let Cycles' rays pass through enough Gaussians; a higher setting of the user's stays."""
    cycles = getattr(scene, "cycles", None)
    if cycles is not None:
        cycles.transparent_max_bounces = max(cycles.transparent_max_bounces, TRANSPARENT_BOUNCES)
        cycles.min_transparent_bounces = max(cycles.min_transparent_bounces, TRANSPARENT_BOUNCES)
