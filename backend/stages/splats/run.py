"""Splats stage: posed views -> 3D Gaussians that show them."""

import numpy as np

from backend.geometry.photometric import psnr
from backend.geometry.rasterize import rasterize
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats.targets import over_white
from shared_protocol.errors import InvalidInput, StageFailed

_DEGREES = (0, 1, 2, 3)


def run(*, views: Views, options: SplatsOptions, context: StageContext) -> Splats:
    """Engine verb: `fit(views, options, context) -> Splats`.

    Notes gaussians, steps and fit_psnr: the mean over all views, at their full size, over white, drawn by
    our CPU rasteriser whatever engine fitted them.
    """
    if options.gaussians < 1 or options.steps < 0 or options.size < 16 or options.sh_degree not in _DEGREES:
        raise InvalidInput(
            f"splats options gaussians={options.gaussians}, steps={options.steps}, size={options.size}, "
            f"sh_degree={options.sh_degree}",
            "at least 1 Gaussian, 0 steps, 16 pixels, and a degree of 0 to 3",
        )
    splats = context.engine.fit(views, options, context)
    if not len(splats):
        raise StageFailed(
            "no visible Gaussian is left after the fit",
            "views of one object, cut out",
            "Check the cut-outs: they may be almost transparent.",
        )
    quality = []
    for i in range(len(views)):
        context.check()
        picture = np.clip(rasterize(splats, views.cameras.take([i]), differentiable=False).color[0], 0, 1)
        quality.append(psnr(picture, over_white(views.rgba[i])))
    context.note(fit_psnr=round(float(np.mean(quality)), 2), gaussians=len(splats), steps=options.steps)
    return splats
