"""A few pictures of one object, each of a named side -> posed views, as they would be on the orbit.

The sides are Blender's: `right` is seen from +X, a quarter turn counter-clockwise from the front. Nothing
else is known of the cameras, so each view is framed as the cut-out of a single picture is, with one rule
more: the object is as high in every view.
"""

from collections.abc import Callable, Mapping

import numpy as np

from backend.geometry.cameras import Cameras, pinhole_intrinsics
from backend.pipeline.engines import find_engine, load_engine
from backend.pipeline.options import MattingOptions, OrbitOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views
from backend.stages.matting.framing import frame
from backend.stages.matting.run import choose
from shared_protocol.conventions import look_at, ring_position
from shared_protocol.errors import InvalidInput

AZIMUTHS = {"front": 0.0, "right": 90.0, "back": 180.0, "left": 270.0}
"""Degrees on the orbit."""
_SMALL = 96
"""Pixels of the first framing, which only measures."""


def arrange_sides(
    pictures: Mapping[str, Picture],
    matting: MattingOptions,
    orbit: OrbitOptions,
    step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> tuple[Views, list[str]]:
    """Cut out, frame and pose the pictures of the sides; step: progress, may raise Cancelled.

    Returns the views, front first, (N, S, S, 4) with S = matting.size, and sentences for the user.
    Raises InvalidInput for a side that there is not, or without the front.
    """
    unknown = [side for side in pictures if side not in AZIMUTHS]
    if unknown or "front" not in pictures or len(pictures) < 2:
        raise InvalidInput(
            f"the sides are {', '.join(pictures) or 'none'}",
            "front and at least one more of " + ", ".join(list(AZIMUTHS)[1:]),
        )
    sides = [side for side in AZIMUTHS if side in pictures]
    cut = []
    for number, side in enumerate(sides):
        step(number, len(sides), f"Cutting out the {side} view")
        cut.append(_cut(pictures[side], step))
    boxes = np.array([_box(rgba, alpha) for rgba, alpha in cut])  # (N, 2) width, height in pixels
    height = matting.fill * min(1.0, (boxes[:, 1] / boxes[:, 0]).min())  # of the object, over the frame
    framed = [
        frame(rgba, alpha, matting.size, height * max(box) / box[1])[0].rgba
        for (rgba, alpha), box in zip(cut, boxes, strict=True)
    ]
    poses = [look_at(ring_position(AZIMUTHS[side], orbit.elevation, orbit.radius)) for side in sides]
    intrinsics = pinhole_intrinsics(orbit.fov, matting.size, matting.size)
    cameras = Cameras(
        np.stack(poses), np.repeat(intrinsics[None], len(sides), axis=0), matting.size, matting.size
    )
    return Views(np.stack(framed), cameras), _warnings(sides, boxes)


def _cut(picture: Picture, step: Callable[[int, int, str], None]) -> tuple[np.ndarray, np.ndarray]:
    name = choose(picture)
    engine = load_engine(find_engine("matting", name))
    context = StageContext("matting", engine, name, on_step=step)
    alpha = np.asarray(engine.cut(picture, context)[0], dtype=np.float32)
    return np.dstack([picture.rgba[..., :3], alpha]), alpha


def _box(rgba: np.ndarray, alpha: np.ndarray) -> tuple[int, int]:
    left, top, right, bottom = frame(rgba, alpha, _SMALL, 0.75)[1]["crop_box"]
    return right - left, bottom - top


def _warnings(sides: list[str], boxes: np.ndarray) -> list[str]:
    """Opposite views show mirrored outlines: very different proportions mean that a slot is wrong."""
    ratio = dict(zip(sides, boxes[:, 0] / boxes[:, 1], strict=True))
    found = []
    for one, other in (("front", "back"), ("right", "left")):
        if one in ratio and other in ratio and not 0.8 < ratio[one] / ratio[other] < 1.25:
            found.append(
                f"The {one} and the {other} view have different proportions; are they in the right slots?"
            )
    return found
