"""The picture's own alpha channel."""

import numpy as np

from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from shared_protocol.errors import InvalidInput

LEAST_SHARE = 0.02
"""Share of the picture that must be transparent; less is a soft border or rounded corners, not a cut-out."""


def has_cutout_alpha(alpha: np.ndarray) -> bool:
    """Whether an alpha channel (H, W) is a cut-out rather than a constant or a decorated border."""
    return bool((alpha < 0.5).mean() >= LEAST_SHARE and (alpha > 0.5).any())


class AlphaMatting:
    """Takes the alpha channel as it is."""

    version = "1"

    def cut(self, picture: Picture, context: StageContext) -> tuple[np.ndarray, float]:
        """Returns alpha (H, W) float32 and confidence 1; InvalidInput for an opaque picture."""
        alpha = picture.rgba[..., 3]
        if alpha.min() > 0.98:
            raise InvalidInput(
                "the picture has no transparent pixel",
                "a picture with an alpha channel for the engine 'alpha'",
                "Use --matting grabcut or --matting rembg.",
            )
        return alpha.copy(), 1.0
