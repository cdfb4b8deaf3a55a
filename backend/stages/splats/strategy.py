"""What a strategy of densification is: it hears gradients, adds to the loss, changes the Gaussians."""

import numpy as np

from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import Raw
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import Target

_FIRST, _LAST, _ROUNDS = 0.1, 0.7, 12
"""Rounds lie between these shares of the steps: what is new needs time to settle."""


class Keep:
    """No densification. Also what the other strategies are made of.

    mean_opacity, mean_scale  weights of the mean opacity, and of the mean scale in metres, in the loss
    counts   whether it wants to know how the pictures pull (`observe`, or `count`)
    centres  whether it wants that as the gradient of the centres in the picture
    """

    mean_opacity = 0.0
    mean_scale = 0.0
    counts = False
    centres = False

    @property
    def everywhere(self) -> bool:
        """Whether its terms of the loss concern Gaussians that a view does not show."""
        return bool(self.mean_opacity or self.mean_scale)

    def observe(
        self,
        gradient: Gaussians,
        target: Target,
        centres: np.ndarray | None = None,
        drawn: np.ndarray | None = None,
    ) -> None:
        """Hear the gradient of one view; if asked for, of the centres (G, 2) per pixel, and who was drawn."""

    def count(self, pull: np.ndarray, seen: np.ndarray) -> None:
        """Hear of several views at once: sums of `picture_pull` (G,), and how many views drew each (G,)."""

    def regularise(self, gradient: Raw, drawn: Gaussians) -> None:
        """Add the gradient of the mean opacity and of the mean scale to the raw gradient."""
        count = len(drawn)
        if self.mean_opacity:
            slope = drawn.opacities * (1 - drawn.opacities)
            gradient.logits += np.float32(self.mean_opacity / count) * slope
        if self.mean_scale:
            gradient.log_scales += np.float32(self.mean_scale / (3 * count)) * drawn.scales

    def changes(self, number: int) -> bool:
        """Whether `after_step` does anything after step `number`."""
        return False

    def after_step(self, number: int, raw: Raw, adam: Adam, decay: float) -> tuple[Raw, Adam]:
        """What goes on after step `number` (from 0); decay: share of the first learning rates."""
        return raw, adam


class Rounds(Keep):
    """Acts in rounds, and grows from the first count to `most` over them."""

    def __init__(self, steps: int, most: int, extent: float, random: np.random.Generator) -> None:
        edges = np.linspace(_FIRST * steps, _LAST * steps, _ROUNDS).round().astype(int)
        self._rounds = sorted(set(edges[edges > 0].tolist()))
        self._most, self._extent, self._random = most, extent, random

    def _growth(self, number: int, count: int) -> int:
        """Gaussians to add in the round after step `number`."""
        left = len(self._rounds) - self._rounds.index(number)
        return max(self._most - count, 0) // left
