"""Where a result stands: at the origin, at the 3D cursor, or beside what stands at the origin already.

Two results on top of each other, or one inside the cube of a new file, look like no result at all.
"""

from collections.abc import Collection, Iterator

import bpy
import numpy as np

BESIDE, ORIGIN, CURSOR = "BESIDE", "ORIGIN", "CURSOR"

_SOLID = {"MESH", "CURVE", "SURFACE", "META", "FONT", "POINTCLOUD", "CURVES", "VOLUME"}
_GAP = 0.15
"""Between neighbours, in longest sides of the result."""
_SURROUNDS = 5.0
"""What is so many times as long as the result is a floor, a room or a sky: it may stand inside."""
_SLICE = 100


def occupied(scene: bpy.types.Scene, apart: Collection[bpy.types.Object] = ()) -> Iterator[None]:
    """Boxes of the visible objects but those `apart`, a hundred at a time.

    What the generator returns: (N, 2, 3) float64, lowest and highest corner, world, metres.
    """
    layer, found = scene.view_layers[0], []
    for number, item in enumerate(list(scene.objects)):
        if item.type in _SOLID and item not in apart and item.visible_get(view_layer=layer):
            corners = np.array(item.bound_box) @ np.array(item.matrix_world.to_3x3()).T
            corners += np.array(item.matrix_world.translation)
            found.append((corners.min(axis=0), corners.max(axis=0)))
        if number % _SLICE == _SLICE - 1:
            yield
    return np.array(found).reshape(-1, 2, 3)


def shift_beside(low: np.ndarray, high: np.ndarray, boxes: np.ndarray) -> float:
    """How far along +X the box `low`..`high` (3,) must go to meet none of `boxes` (N, 2, 3); metres."""
    side = float((high - low).max())
    boxes = boxes[(boxes[:, 1] - boxes[:, 0]).max(axis=1) <= _SURROUNDS * side]
    touch = 1e-3 * side  # what stands on a floor meets it, but is not in it
    beside = (boxes[:, 0, 1:] < high[1:] - touch) & (boxes[:, 1, 1:] > low[1:] + touch)
    boxes = boxes[beside.all(axis=1)]
    shift = 0.0
    while True:  # each turn leaves at least one of them behind
        met = (boxes[:, 0, 0] < high[0] + shift - touch) & (boxes[:, 1, 0] > low[0] + shift + touch)
        if not met.any():
            return shift
        shift = float(boxes[met, 1, 0].max()) - float(low[0]) + _GAP * side
