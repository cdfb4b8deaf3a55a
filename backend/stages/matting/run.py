"""Matting: the user's picture in, the object alone on camera 0's frame out."""

import numpy as np

from backend.pipeline.engines import availability, find_engine
from backend.pipeline.options import MattingOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from backend.stages.matting.alpha import has_cutout_alpha
from backend.stages.matting.edges import flatten, object_colours
from backend.stages.matting.framing import frame

LOW_CONFIDENCE = 0.6


def choose(picture: Picture) -> str:
    """The picture's own alpha if it has one; else rembg where it is ready; else the embedded engine."""
    if has_cutout_alpha(picture.rgba[..., 3]):
        return "alpha"
    return "rembg" if availability(find_engine("matting", "rembg")).ready else "grabcut"


def run(*, picture: Picture, options: MattingOptions, context: StageContext) -> Picture:
    """Cut the object out and frame it.

    picture.rgba  (H, W, 4) as the user gave it
    returns.rgba  (size, size, 4): the object's box is centred, its longest side `fill` of the frame;
                  colours go on beyond the silhouette, so that sampling there meets no background

    Raises InvalidInput or StageFailed when no object is found, Cancelled.
    """
    context.step(0, 2, "Cutting the object out")
    alpha, confidence = context.engine.cut(picture, context)
    context.note(confidence=round(float(confidence), 3))
    if confidence < LOW_CONFIDENCE:
        context.warn(
            f"The cut-out is uncertain (confidence {confidence:.2f}). Look at cutout.png; for a better one "
            "run: python -m backend models pull u2netp, or give a picture with a transparent background."
        )
    context.step(1, 2, "Framing the object")
    rgba = picture.rgba
    if not has_cutout_alpha(rgba[..., 3]):  # a cut-out's own colours are clean already
        rgba = np.dstack([object_colours(flatten(rgba), alpha), alpha])
        context.check()
    framed, facts = frame(rgba, np.asarray(alpha, dtype=np.float32), options.size, options.fill)
    context.note(**facts)
    context.step(2, 2, "Cut out")
    context.preview("cutout", lambda: framed.rgba)
    return framed
