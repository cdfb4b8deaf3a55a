"""Whether a fit has the perceptual term, at which weight, and the term itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry.perceptual import PerceptualNet
from backend.geometry.perceptual_term import PerceptualTerm
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.weights import lpips_vgg, stlpips

if TYPE_CHECKING:
    from backend.geometry.perceptual_torch import TorchPerceptualTerm
    from backend.models.lpips import Lpips

WEIGHT = 0.005
"""Next to MSE. V3D's code has 2.0 next to D-SSIM 1.0, with VGG's larger distances and 4000 steps; our errors
are so small that this would drown them. Measured at `standard`, 16 true views of a printed box, on views
between them (distance of AlexNet as fitted, and of ST-LPIPS VGG, which the fit does not know):

    weight   PSNR      AlexNet  VGG
    0        31.94 dB  0.071    0.141
    0.0025   31.88     0.054    0.133
    0.005    31.77     0.048    0.130
    0.02     31.23     0.040    0.130
"""


NETS = ("stlpips", "vgg")


def settle_perceptual(
    options: SplatsOptions, supported: bool, nets: Sequence[str] = NETS[:1]
) -> tuple[SplatsOptions, list[str]]:
    """Options with a number in place of None, and sentences for the user.

    supported  whether the engine has the term; one that has not says so itself when it is asked for it
    nets       that the engine can measure it with
    """
    if options.perceptual and options.perceptual_net == "vgg":
        if "vgg" not in nets:
            sentence = "This engine measures the perceptual term by ST-LPIPS: only 'gsplat' has LPIPS of VGG."
            settled, more = settle_perceptual(replace(options, perceptual_net=NETS[0]), supported, nets)
            return settled, [sentence, *more]
        if lpips_vgg.present():
            return options, []
        sentence = (
            "The Gaussians were fitted without the perceptual term: the weights of LPIPS are not here. "
            f"{lpips_vgg.REMEDY}"
        )
        return replace(options, perceptual=0.0), [sentence]
    if options.perceptual is None:
        return replace(options, perceptual=WEIGHT if supported and stlpips.present() else 0.0), []
    if options.perceptual and supported and not stlpips.present():
        sentence = (
            "The Gaussians were fitted without the perceptual term: its weights are not here. "
            f"{stlpips.REMEDY}"
        )
        return replace(options, perceptual=0.0), [sentence]
    return options, []


def load_term(options: SplatsOptions, context: StageContext) -> PerceptualTerm | None:
    """The term; None where its weight is 0 or left open, or its file is missing (the fit says so)."""
    tensors = _tensors(options, context)
    return None if tensors is None else PerceptualTerm(PerceptualNet.of(tensors), context.seed)


def load_torch_term(
    options: SplatsOptions, context: StageContext, device: str
) -> "TorchPerceptualTerm | Lpips | None":
    """As `load_term`, for a fit in torch; WeightsError where LPIPS of VGG was asked for and is not here."""
    if options.perceptual and options.perceptual_net == "vgg":
        from backend.models import lpips

        context.step(0, options.steps, "Loading the perceptual network")
        return lpips.load(context, centred=False)
    tensors = _tensors(options, context)
    if tensors is None:
        return None
    from backend.geometry.perceptual_torch import TorchPerceptualNet, TorchPerceptualTerm

    PerceptualNet.of(tensors)  # names and shapes
    return TorchPerceptualTerm(TorchPerceptualNet(tensors, device), context.seed)


def _tensors(options: SplatsOptions, context: StageContext) -> dict[str, np.ndarray] | None:
    if not options.perceptual or not stlpips.present():
        return None
    context.step(0, options.steps, "Loading the perceptual network")
    return stlpips.load()
