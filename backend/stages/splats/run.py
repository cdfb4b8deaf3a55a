"""Splats stage: posed views -> 3D Gaussians that show them."""

from typing import Any

import numpy as np

from backend.geometry.photometric import psnr
from backend.geometry.rasterize import rasterize
from backend.geometry.splat_targets import over_white
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats.densify import STRATEGIES
from backend.stages.splats.fit import LOSSES
from backend.stages.splats.init import STARTS
from backend.stages.splats.perceptual import NETS, settle_perceptual
from shared_protocol.errors import InvalidInput, StageFailed

_DEGREES = (0, 1, 2, 3)


def settle(options: SplatsOptions, engine: Any) -> tuple[SplatsOptions, list[str]]:
    """Options with nothing left to the machine, and sentences for the user."""
    nets = getattr(engine, "perceptual_nets", NETS[:1])
    return settle_perceptual(options, getattr(engine, "perceptual", False), nets)


def run(*, views: Views, options: SplatsOptions, context: StageContext) -> Splats:
    """Engine verb: `fit(views, options, context) -> Splats`.

    Notes gaussians and fit_psnr: the mean over all views, at their full size, over white, drawn by our CPU
    rasteriser whatever engine fitted them; with cameras refined, of the views as they agree. The schedule
    notes the steps.
    """
    _check(options)
    splats = context.engine.fit(views, options, context)
    if not len(splats):
        raise StageFailed(
            "no visible Gaussian is left after the fit",
            "views of one object, cut out",
            "Check the cut-outs: they may be almost transparent.",
        )
    agreed = splats.agreed(views)
    quality = []
    for i in range(len(views)):
        context.check()
        drawn = rasterize(
            splats, agreed.cameras.take([i]), antialiased=splats.antialiased, differentiable=False
        )
        quality.append(psnr(np.clip(drawn.color[0], 0, 1), over_white(agreed.rgba[i])))
    context.note(fit_psnr=round(float(np.mean(quality)), 2), gaussians=len(splats))
    return splats


def _check(options: SplatsOptions) -> None:
    """Raise InvalidInput for what no engine can fit with."""
    if options.gaussians < 1 or options.steps < 0 or options.size < 16 or options.sh_degree not in _DEGREES:
        raise InvalidInput(
            f"splats options gaussians={options.gaussians}, steps={options.steps}, size={options.size}, "
            f"sh_degree={options.sh_degree}",
            "at least 1 Gaussian, 0 steps, 16 pixels, and a degree of 0 to 3",
        )
    if options.perceptual is not None and not 0 <= options.perceptual < np.inf:
        raise InvalidInput(f"splats option perceptual={options.perceptual}", "a weight of 0 or more, or auto")
    if options.densify not in STRATEGIES or options.loss not in LOSSES:
        raise InvalidInput(
            f"splats options densify={options.densify}, loss={options.loss}",
            f"one of {', '.join(STRATEGIES)}, and one of {', '.join(LOSSES)}",
        )
    for name, value, known in (
        ("start", options.start, STARTS),
        ("perceptual_net", options.perceptual_net, NETS),
    ):
        if value not in known:
            raise InvalidInput(f"splats option {name}={value}", f"one of {', '.join(known)}")
    if not (0 <= options.alpha < np.inf and 0 <= options.opacity < np.inf and 0 <= options.ssim < np.inf):
        raise InvalidInput(
            f"splats options ssim={options.ssim}, alpha={options.alpha}, opacity={options.opacity}",
            "weights of 0 or more",
        )
    if options.batch < 1 or not 0 <= options.coarse <= 1 or options.hold_out < 0 or options.most < 0:
        raise InvalidInput(
            f"splats options batch={options.batch}, coarse={options.coarse}, hold_out={options.hold_out}, "
            f"most={options.most}",
            "at least 1 view a step, a share of 0 to 1, and numbers of 0 or more",
        )
