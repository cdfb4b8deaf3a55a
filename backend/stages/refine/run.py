"""Refine: the orbit in, the same views at their final size out."""

from backend.pipeline.options import RefineOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views


def run(*, cutout: Picture, orbit: Views, options: RefineOptions, context: StageContext) -> Views:
    """Upsample the orbit to `options.size`; views that have this size already pass unchanged.

    cutout.rgba   (M, M, 4), the framed input picture, at least as fine as the orbit's view 0
    orbit.rgba    (N, S, S, 4)
    returns.rgba  (N, size, size, 4) with the cameras and depth of that size
    """
    if options.size == orbit.cameras.width:
        context.step(1, 1, "The views have their final size")
        return orbit
    return context.engine.refine(cutout, orbit, options, context)
