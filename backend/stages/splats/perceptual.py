"""Whether a fit has the perceptual term, at which weight, and the term itself."""

from dataclasses import replace

from backend.geometry.perceptual import PerceptualNet
from backend.geometry.perceptual_term import PerceptualTerm
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.weights import stlpips

WEIGHT = 0.02
"""Next to MSE. V3D's code has 2.0 next to D-SSIM 1.0, with VGG's larger distances and 4000 steps; here more
than this costs PSNR: on held-out views of a scan 0.02 takes 0.07 dB and 14 % of the distance, 0.04 takes
0.16 dB and 19 %, 0.1 at all steps 1.5 dB."""


def settle_perceptual(options: SplatsOptions, supported: bool) -> tuple[SplatsOptions, list[str]]:
    """Options with a number in place of None, and sentences for the user.

    supported  whether the engine has the term; one that has not says so itself when it is asked for it
    """
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
    if not options.perceptual or not stlpips.present():
        return None
    context.step(0, options.steps, "Loading the perceptual network")
    return PerceptualTerm(PerceptualNet.of(stlpips.load()), context.seed)
