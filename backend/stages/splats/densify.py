"""How the number of Gaussians changes during a fit: not at all, as in 3DGS, or as in 3DGS-MCMC.

none     as many as were placed on the hull (ReconX 4.4)
classic  clone what is small and split what is large where the picture pulls, drop the faint, reset
         opacities (Kerbl 2023, section 5)
mcmc     move the dead onto the living so that the picture stays as it is, and let the faint drift
         (Kheradmand 2024)

Strategies act on the raw numbers and the moments of Adam between two steps. They know how many Gaussians
there may be at the end and reach that number in equal rounds, so a fit's time is known before it.
"""

from math import comb

import numpy as np

from backend.geometry.rotations import rotation_matrices
from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import SMALLEST_OPACITY, Raw
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import Target

STRATEGIES = ("none", "classic", "mcmc")
_FIRST, _LAST, _ROUNDS = 0.1, 0.7, 12
"""Rounds lie between these shares of the steps: what is new needs time to settle."""


class Keep:
    """No densification. Also what the other strategies are made of."""

    everywhere = False
    """Whether its terms of the loss concern Gaussians that a view does not show."""

    def observe(self, gradient: Gaussians, target: Target) -> None:
        """Hear the gradient of one view."""

    def regularise(self, gradient: Raw, drawn: Gaussians) -> None:
        """Add the gradient of the strategy's own terms of the loss to the raw gradient."""

    def after_step(self, number: int, raw: Raw, adam: Adam, decay: float) -> tuple[Raw, Adam]:
        """What goes on after step `number` (from 0); decay: share of the first learning rates."""
        return raw, adam


class _Rounds(Keep):
    """Acts in rounds, and grows from the first count to `most` over them."""

    def __init__(self, steps: int, most: int, extent: float, random: np.random.Generator) -> None:
        edges = np.linspace(_FIRST * steps, _LAST * steps, _ROUNDS).round().astype(int)
        self._rounds = sorted(set(edges[edges > 0].tolist()))
        self._most, self._extent, self._random = most, extent, random

    def _growth(self, number: int, count: int) -> int:
        """Gaussians to add in the round after step `number`."""
        left = len(self._rounds) - self._rounds.index(number)
        return max(self._most - count, 0) // left


class Classic(_Rounds):
    """Clone, split, drop, reset.

    3DGS densifies where the mean gradient of the position on the picture exceeds 2e-4. That number belongs
    to L1 and to its size of picture, and leaves the count open; here the most pulled come first, above the
    mean of all, as many as the round may add (a budget as in Taming 3DGS, Mallick 2024).
    """

    RESET_EVERY = 3000
    """Steps between two resets of the opacities (3DGS)."""
    _LARGE = 0.01
    """Share of the extent from which a Gaussian is split, not cloned (3DGS, percent_dense)."""
    _SHRINK = 1.6
    """A split Gaussian's halves are this much smaller (3DGS)."""
    _HUGE = 0.1
    """Share of the extent above which a Gaussian is dropped (3DGS)."""
    _RESET = 0.01

    def __init__(self, steps: int, most: int, extent: float, random: np.random.Generator) -> None:
        super().__init__(steps, most, extent, random)
        self._pull = self._seen = None

    def observe(self, gradient: Gaussians, target: Target) -> None:
        pull = picture_pull(gradient.positions, self._positions, target)
        self._pull += pull
        self._seen += pull > 0

    def begin(self, positions: np.ndarray) -> None:
        """Start counting for these Gaussians."""
        self._positions = positions
        self._pull, self._seen = np.zeros(len(positions)), np.zeros(len(positions), dtype=np.int32)

    def after_step(self, number: int, raw: Raw, adam: Adam, decay: float) -> tuple[Raw, Adam]:
        if number and number % self.RESET_EVERY == 0:
            limit = np.float32(np.log(self._RESET / (1 - self._RESET)))
            np.minimum(raw.logits, limit, out=raw.logits)
            adam.forget("logits")
        if number not in self._rounds:
            return raw, adam
        raw, adam = self._round(number, raw, adam)
        self.begin(raw.positions)
        return raw, adam

    def _round(self, number: int, raw: Raw, adam: Adam) -> tuple[Raw, Adam]:
        drawn = raw.activate()
        largest = drawn.scales.max(axis=1)
        keep = (drawn.opacities >= SMALLEST_OPACITY) & (largest <= self._HUGE * self._extent)
        mean = self._pull / np.maximum(self._seen, 1)
        mean[~keep] = 0
        wanted = np.argsort(-mean, kind="stable")[: self._growth(number, int(keep.sum()))]
        wanted = np.sort(wanted[mean[wanted] > mean[keep].mean()]) if keep.any() else wanted[:0]
        large = largest[wanted] > self._LARGE * self._extent
        split, clone = wanted[large], wanted[~large]
        stay = keep.copy()
        stay[split] = False
        source = np.concatenate([np.flatnonzero(stay), clone, split, split])
        fresh = np.arange(len(source)) >= stay.sum()
        result = raw.take(source)
        halves = np.arange(len(source)) >= stay.sum() + len(clone)
        axes = rotation_matrices(raw.rotations[source[halves]]) if halves.any() else np.empty((0, 3, 3))
        offset = drawn.scales[source[halves]] * self._random.normal(size=(int(halves.sum()), 3))
        result.positions[halves] += np.einsum("gij,gj->gi", axes, offset).astype(np.float32)
        result.log_scales[halves] -= np.float32(np.log(self._SHRINK))
        return result, adam.rearranged(vars(result), source, fresh)


def picture_pull(gradient: np.ndarray, positions: np.ndarray, target: Target) -> np.ndarray:
    """(G,) length of the gradient across the line of sight, per half picture, as 3DGS counts it.

    gradient, positions (G, 3). A point at depth z moves by f / z pixels a metre.
    """
    camera_from_world = np.linalg.inv(target.world_from_camera)
    across = gradient @ camera_from_world[:2, :3].T.astype(np.float32)
    depth = positions @ camera_from_world[2, :3].astype(np.float32) + np.float32(camera_from_world[2, 3])
    across *= depth[:, None] / np.diag(target.intrinsics)[:2].astype(np.float32)
    return np.linalg.norm(across, axis=1) * (0.5 * np.sqrt(target.pixels))


class Mcmc(_Rounds):
    """Relocation, growth, noise, and the terms that let Gaussians die."""

    _NOISE = 5e5 * 1.6e-4
    """Of the paper: its factor times its first learning rate of positions."""
    everywhere = True
    _GROWTH = 0.05
    """The most that one round adds, as a share (the paper's)."""

    def __init__(
        self, steps: int, most: int, extent: float, random: np.random.Generator, weight: float
    ) -> None:
        """weight: of the mean opacity and of the mean scale (in extents) in the loss."""
        super().__init__(steps, most, extent, random)
        self._weight = weight

    def regularise(self, gradient: Raw, drawn: Gaussians) -> None:
        count = len(drawn)
        slope = drawn.opacities * (1 - drawn.opacities)
        gradient.logits += np.float32(self._weight / count) * slope
        gradient.log_scales += np.float32(self._weight / (3 * count * self._extent)) * drawn.scales

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


def densifier(
    name: str,
    *,
    steps: int,
    most: int,
    positions: np.ndarray,
    extent: float,
    weight: float,
    random: np.random.Generator,
) -> Keep:
    """The strategy of this name; see the classes for the arguments."""
    if name == "classic":
        strategy = Classic(steps, most, extent, random)
        strategy.begin(positions)
        return strategy
    return Mcmc(steps, most, extent, random, weight) if name == "mcmc" else Keep()
