"""Densification as 3DGS-MCMC (Kheradmand 2024): the dead move onto the living, the faint drift."""

from math import comb

import numpy as np

from backend.geometry.rotations import rotation_matrices
from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import SMALLEST_OPACITY, Raw
from backend.stages.splats.strategy import Rounds


class Mcmc(Rounds):
    """Relocation, growth, noise, and the terms that let Gaussians die."""

    _NOISE = 5e5 * 1.6e-4
    """Of the paper: its factor times its first learning rate of positions."""
    _GROWTH = 0.05
    """The most that one round adds, as a share (the paper's)."""

    def __init__(
        self, steps: int, most: int, extent: float, random: np.random.Generator, weight: float
    ) -> None:
        """weight: of the mean opacity and of the mean scale (in extents) in the loss."""
        super().__init__(steps, most, extent, random)
        self.mean_opacity, self.mean_scale = weight, weight / extent

    def changes(self, number: int) -> bool:
        return number <= self._rounds[-1]

    def after_step(self, number: int, raw: Raw, adam: Adam, decay: float) -> tuple[Raw, Adam]:
        if number in self._rounds:
            raw, adam = self._relocate(raw, adam)
            raw, adam = self._grow(number, raw, adam)
        if number < self._rounds[-1]:
            self._drift(raw, decay)
        return raw, adam

    def _relocate(self, raw: Raw, adam: Adam) -> tuple[Raw, Adam]:
        drawn = raw.activate()
        dead = drawn.opacities <= SMALLEST_OPACITY
        alive = np.flatnonzero(~dead)
        if not dead.any() or not len(alive):
            return raw, adam
        source = np.arange(len(raw))
        source[dead] = self._chosen(drawn.opacities, alive, int(dead.sum()))
        return _shared(raw, adam, source, dead)

    def _grow(self, number: int, raw: Raw, adam: Adam) -> tuple[Raw, Adam]:
        more = min(self._growth(number, len(raw)), int(self._GROWTH * len(raw)) + 1)
        if not more:
            return raw, adam
        opacities = raw.activate().opacities
        chosen = self._chosen(opacities, np.arange(len(raw)), more)
        source = np.concatenate([np.arange(len(raw)), chosen])
        return _shared(raw, adam, source, np.arange(len(source)) >= len(raw))

    def _chosen(self, opacities: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
        chances = opacities[among].astype(np.float64)
        return self._random.choice(among, count, p=chances / chances.sum())

    def _drift(self, raw: Raw, decay: float) -> None:
        """Noise along each Gaussian's own shape for the nearly transparent; equation 9 of the paper."""
        opacities = 1 / (1 + np.exp(-raw.logits.astype(np.float64)))
        gate = 1 / (1 + np.exp(100 * (opacities - 0.005)))
        rows = np.flatnonzero(gate > 1e-3)
        noise = self._random.normal(size=(len(rows), 3))
        if not len(rows):
            return
        axes = rotation_matrices(raw.rotations[rows])
        variances = np.exp(2 * raw.log_scales[rows].astype(np.float64))
        noise = np.einsum("gij,gj,gkj,gk->gi", axes, variances, axes, noise)
        # The paper's scenes have an extent of about one: here lengths are in extents.
        noise *= gate[rows, None] * (self._NOISE * decay / self._extent)
        raw.positions[rows] += noise.astype(np.float32)


def _shared(raw: Raw, adam: Adam, source: np.ndarray, copies: np.ndarray) -> tuple[Raw, Adam]:
    """Rows from `source`; where copies (bool) join an original, all of them together look as it did."""
    result = raw.take(source)
    together = np.bincount(source, minlength=len(raw))[source]
    touched = together > 1
    opacities, factor = relocated(
        1 / (1 + np.exp(-result.logits[touched].astype(np.float64))), together[touched]
    )
    result.logits[touched] = np.log(opacities / (1 - opacities))
    result.log_scales[touched] += np.log(factor)[:, None].astype(np.float32)
    # The original keeps its place and loses its moments too: they belong to another opacity and size.
    return result, adam.rearranged(vars(result), source, copies | touched)


def relocated(opacities: np.ndarray, together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of each of N coinciding Gaussians, and the factor of their scales, that look as one did.

    opacities (G,) of the one, together (G,) = N. Along a ray through the middle the transmittance is the
    same; across it, the integral of what is seen is (Kheradmand 2024, equation 9 and appendix).
    """
    opacities = np.clip(np.asarray(opacities, dtype=np.float64), SMALLEST_OPACITY, 1 - 1e-6)
    together = np.minimum(together, _MOST_TOGETHER)
    each = 1 - (1 - opacities) ** (1 / together)
    total = np.zeros_like(each)
    for n in range(1, int(together.max(initial=1)) + 1):
        for k in range(n):
            term = comb(n - 1, k) * (-1) ** k * each ** (k + 1) / np.sqrt(k + 1)
            total += np.where(n <= together, term, 0)
    return each, opacities / total


_MOST_TOGETHER = 51
"""As the paper's code: beyond, the binomial sums lose all their digits."""
