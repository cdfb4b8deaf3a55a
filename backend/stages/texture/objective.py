"""What a texture's refinement makes small at fixed geometry: V3D 3.3, after 3DGS' loss in its equation 1."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """MSE + ssim * D-SSIM + perceptual * distance of renderings and views, both 0..1 over white.

    The weights are those of the Gaussian fits, measured there: V3D's released refinement has MSE and 1.0 of
    LPIPS, whose VGG distances are larger, and divides its targets by 255 twice.

    ssim, perceptual  weights
    nearness          weight of the squared change of the texture: what the views do not agree on stays
    """

    ssim: float = 0.02
    perceptual: float = 0.005
    nearness: float = 0.01


OBJECTIVE = Objective()
