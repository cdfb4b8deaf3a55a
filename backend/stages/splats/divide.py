"""Gaussians divided where the pictures pull at them (Kerbl 2023, section 5): in a budget, or as published."""

import numpy as np

from backend.geometry.rotations import rotation_matrices
from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import SMALLEST_OPACITY, Raw
from backend.geometry.splat_targets import Target
from backend.stages.splats.strategy import Keep, Rounds
from shared_protocol.errors import StageFailed

RESET_EVERY = 3000
"""Steps between two resets of the opacities (3DGS)."""
_RESET = 0.01
"""The opacity that they leave at most."""
_LARGE = 0.01
"""Share of the extent from which a Gaussian is split, not cloned (3DGS, percent_dense)."""
_SHRINK = 1.6
"""A split Gaussian's halves are this much smaller (3DGS)."""
_HUGE = 0.1
"""Share of the extent above which a Gaussian is dropped (3DGS)."""


class Pulled(Keep):
    """Counts how the pictures pull at each Gaussian."""

    counts = True

    def begin(self, positions: np.ndarray) -> None:
        """Start counting for these Gaussians."""
        self._positions = positions
        self._pull, self._seen = np.zeros(len(positions)), np.zeros(len(positions), dtype=np.int32)

    def count(self, pull: np.ndarray, seen: np.ndarray) -> None:
        self._pull += pull
        self._seen += seen

    @property
    def _mean(self) -> np.ndarray:
        return self._pull / np.maximum(self._seen, 1)


class Classic(Pulled, Rounds):
    """Clone, split, drop, reset.

    3DGS densifies where the mean gradient of the position on the picture exceeds 2e-4. That number belongs
    to L1 and to its size of picture, and leaves the count open; here the most pulled come first, above the
    mean of all, as many as the round may add (a budget as in Taming 3DGS, Mallick 2024).
    """

    RESET_EVERY = RESET_EVERY

    def observe(self, gradient, target, centres=None, drawn=None) -> None:
        pull = picture_pull(gradient.positions, self._positions, target)
        self.count(pull, pull > 0)

    def changes(self, number: int) -> bool:
        return number in self._rounds or (number > 0 and number % self.RESET_EVERY == 0)

    def after_step(self, number: int, raw: Raw, adam: Adam, decay: float) -> tuple[Raw, Adam]:
        if number and number % self.RESET_EVERY == 0:
            _reset(raw, adam)
        if number not in self._rounds:
            return raw, adam
        raw, adam = self._round(number, raw, adam)
        self.begin(raw.positions)
        return raw, adam

    def _round(self, number: int, raw: Raw, adam: Adam) -> tuple[Raw, Adam]:
        drawn = raw.activate()
        largest = drawn.scales.max(axis=1)
        keep = (drawn.opacities >= SMALLEST_OPACITY) & (largest <= _HUGE * self._extent)
        mean = self._mean
        mean[~keep] = 0
        wanted = np.argsort(-mean, kind="stable")[: self._growth(number, int(keep.sum()))]
        wanted = np.sort(wanted[mean[wanted] > mean[keep].mean()]) if keep.any() else wanted[:0]
        large = largest[wanted] > _LARGE * self._extent
        return _divided(raw, adam, keep, wanted[~large], wanted[large], self._random)


class Published(Pulled):
    """3DGS' own schedule and thresholds, on a white background (V3D's recon/arguments and train_from_vid).

    Steps are counted from 1, as there. Its limit of 20 pixels on the screen is left out: the code clears the
    sizes it has seen just before it looks at them, so none is ever dropped for that.
    """

    FIRST, LAST, EVERY = 500, 15_000, 100
    """Rounds: after each hundredth step between the first and the last."""
    PULL = 2e-4
    """Mean length of the gradient of the centre, per half picture, from which a Gaussian is divided."""
    centres = True

    def __init__(self, steps: int, most: int, extent: float, random: np.random.Generator) -> None:
        """most: Gaussians that there may be at the end, 0 for any number; extent: `scene_extent`."""
        self._end = min(self.LAST, steps)
        self._most, self._extent, self._random = most, extent, random

    def observe(self, gradient, target, centres=None, drawn=None) -> None:
        self.count(centre_pull(centres, target), drawn)

    def _divides(self, step: int) -> bool:
        return self.FIRST < step < self._end and step % self.EVERY == 0

    def _resets(self, step: int) -> bool:
        return step < self._end and (step % RESET_EVERY == 0 or step == self.FIRST)

    def changes(self, number: int) -> bool:
        return self._divides(number + 1) or self._resets(number + 1)

    def after_step(self, number: int, raw: Raw, adam: Adam, decay: float) -> tuple[Raw, Adam]:
        step = number + 1
        if self._divides(step):
            raw, adam = self._divide(raw, adam)
            raw, adam = self._drop(raw, adam, huge=step > RESET_EVERY)
            self.begin(raw.positions)
        if self._resets(step):
            _reset(raw, adam)
        return raw, adam

    def _divide(self, raw: Raw, adam: Adam) -> tuple[Raw, Adam]:
        mean = self._mean
        wanted = np.flatnonzero(mean >= self.PULL)
        if self._most:
            most = max(self._most - len(raw), 0)
            wanted = np.sort(wanted[np.argsort(-mean[wanted], kind="stable")[:most]])
        large = np.exp(raw.log_scales[wanted]).max(axis=1) > _LARGE * self._extent
        everyone = np.ones(len(raw), dtype=bool)
        return _divided(raw, adam, everyone, wanted[~large], wanted[large], self._random)

    def _drop(self, raw: Raw, adam: Adam, huge: bool) -> tuple[Raw, Adam]:
        drawn = raw.activate()
        keep = drawn.opacities >= SMALLEST_OPACITY
        if huge:
            keep &= drawn.scales.max(axis=1) <= _HUGE * self._extent
        rows = np.flatnonzero(keep)
        if not len(rows):
            raise StageFailed(
                "every Gaussian has become transparent during the fit",
                "views of one object that agree",
                "Lower splats.opacity, or leave densification to splats.densify=none.",
            )
        result = raw.take(rows)
        return result, adam.rearranged(vars(result), rows, np.zeros(len(rows), dtype=bool))


def _divided(
    raw: Raw,
    adam: Adam,
    keep: np.ndarray,
    clone: np.ndarray,
    split: np.ndarray,
    random: np.random.Generator,
) -> tuple[Raw, Adam]:
    """Rows `keep` (G,) bool but for `split`, then a copy of each of `clone`, two halves of each of `split`.

    Halves lie at random where the Gaussian is, in its shape. What is new has no moments.
    """
    stay = keep.copy()
    stay[split] = False
    source = np.concatenate([np.flatnonzero(stay), clone, split, split])
    fresh = np.arange(len(source)) >= stay.sum()
    result = raw.take(source)
    halves = np.arange(len(source)) >= stay.sum() + len(clone)
    axes = rotation_matrices(raw.rotations[source[halves]]) if halves.any() else np.empty((0, 3, 3))
    offset = np.exp(raw.log_scales[source[halves]]) * random.normal(size=(int(halves.sum()), 3))
    result.positions[halves] += np.einsum("gij,gj->gi", axes, offset).astype(np.float32)
    result.log_scales[halves] -= np.float32(np.log(_SHRINK))
    return result, adam.rearranged(vars(result), source, fresh)


def _reset(raw: Raw, adam: Adam) -> None:
    """No opacity above 0.01, and none of their moments."""
    np.minimum(raw.logits, np.float32(np.log(_RESET / (1 - _RESET))), out=raw.logits)
    adam.forget("logits")


def picture_pull(gradient: np.ndarray, positions: np.ndarray, target: Target) -> np.ndarray:
    """(G,) length of the gradient across the line of sight, per half picture, as 3DGS counts it.

    gradient, positions (G, 3). A point at depth z moves by f / z pixels a metre.
    """
    camera_from_world = np.linalg.inv(target.world_from_camera)
    across = gradient @ camera_from_world[:2, :3].T.astype(np.float32)
    depth = positions @ camera_from_world[2, :3].astype(np.float32) + np.float32(camera_from_world[2, 3])
    across *= depth[:, None] / np.diag(target.intrinsics)[:2].astype(np.float32)
    return centre_pull(across, target)


def centre_pull(gradient: np.ndarray, target: Target) -> np.ndarray:
    """(G,) length of the gradient of the centres (G, 2) per pixel, in halves of the whole picture (3DGS)."""
    return np.linalg.norm(gradient, axis=1) * (0.5 * np.sqrt(target.pixels))
