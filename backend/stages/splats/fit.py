"""Gaussians fitted to the views: V3D's equation 1, MSE + ls D-SSIM, by Adam on one view a step.

The start on the carved hull replaces densification and opacity resets (V3D 3.3); V3D's own code takes
4000 steps with them, at 100,000 Gaussians, SH degree 0, learning rates 1.6e-4 -> 1.6e-6 (position, times
the scene's extent), 0.0025 (colour), 0.05 (opacity), 0.005 (scale), 0.001 (rotation). A few hundred steps
from a good start want larger ones: `Rates`, measured on sixteen-view orbits of scanned objects.
The alpha term is ours: it keeps white Gaussians from lying unseen on the white background.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from backend.geometry.photometric import photometric_loss
from backend.geometry.splat_raster import Gaussians, render_gaussians
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.stages.splats.adam import Adam
from backend.stages.splats.init import Start
from backend.stages.splats.targets import WHITE, Target

ALPHA_WEIGHT = 0.2
HIGHER_DEGREES = 0.05
"""Learning rate of harmonics of degree 1 and above next to degree 0, as 3DGS."""
SMALLEST_OPACITY = 0.005
"""Gaussians fainter than this are dropped at the end, as in 3DGS."""


PerceptualTerm = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""LPIPS of V3D's equation 1, for engines that have its weights: image and target (3, H, W) over white ->
loss and dL/dimage (3, H, W)."""


@dataclass(frozen=True)
class Rates:
    """Learning rates at the first step, and the share left at the last one (exponential decay).

    position is in units of the object's extent; harmonics of degree 1 and above take a twentieth.
    Measured on three scans, 16 true views, 500 steps: position 4e-4 -> 1e-3 gains 0.7 dB on held-out
    views and 2e-3 loses 0.8 dB on the fitted ones; scale 0.01 -> 0.02 gains 0.1 and 0.3 dB.
    """

    position: float = 1.2e-3
    harmonics: float = 0.02
    opacity: float = 0.05
    scale: float = 0.02
    rotation: float = 0.005
    last: float = 0.07


@dataclass
class Raw:
    """The numbers that are optimised: positions, log scales, quaternions, opacity logits, harmonics."""

    positions: np.ndarray
    log_scales: np.ndarray
    rotations: np.ndarray
    logits: np.ndarray
    harmonics: np.ndarray

    @classmethod
    def of(cls, gaussians: Gaussians) -> "Raw":
        """Inverse of `activate`; copies."""
        opacities = np.clip(gaussians.opacities, 1e-6, 1 - 1e-6)
        return cls(
            gaussians.positions.copy(),
            np.log(gaussians.scales),
            gaussians.rotations.copy(),
            np.log(opacities / (1 - opacities)),
            gaussians.harmonics.copy(),
        )

    def activate(self) -> Gaussians:
        """Gaussians to draw; positions, rotations and harmonics are not copied."""
        with np.errstate(over="ignore"):  # exp(88) is infinite in float32: opacity 0, or a scale not drawn
            opacities, scales = 1 / (1 + np.exp(-self.logits)), np.exp(self.log_scales)
        return Gaussians(self.positions, scales, self.rotations, opacities, self.harmonics)


def fit(
    start: Start,
    targets: list[Target],
    options: SplatsOptions,
    context: StageContext,
    rates: Rates = Rates(),
    perceptual: PerceptualTerm | None = None,
) -> Gaussians:
    """Optimise the starting Gaussians for options.steps steps; the order of views is the seed's."""
    if options.perceptual and perceptual is None:
        context.warn("Gaussians were fitted without the perceptual term: this engine has no weights for it.")
    raw = Raw.of(start.gaussians)
    optimisers = {name: Adam(array) for name, array in vars(raw).items()}
    schedule = Schedule(len(targets), options.steps, rates.last, context)
    for step, index, decay in schedule:
        target = targets[index]
        drawn = raw.activate()
        rendering = render_gaussians(
            drawn, target.world_from_camera, target.intrinsics, target.width, target.height, WHITE
        )
        squares, _, upstream = photometric_loss(rendering.image, target.planes, options.ssim, ALPHA_WEIGHT)
        if perceptual is not None and options.perceptual:
            _, slope = perceptual(rendering.image[:3], target.planes[:3])
            upstream[:3] += np.float32(options.perceptual) * slope
        gradients = rendering.backward(upstream)
        _update(raw, drawn, gradients, optimisers, rates, decay, start.extent)
        schedule.report(step, squares / (3 * target.pixels), len(start.gaussians))
    return raw.activate()


class Schedule:
    """Which view when, at which share of the learning rates; and the words of the progress.

    Every view comes once before any comes again, in random order. Iterating gives (step from 0, view,
    decay); used by every engine, so that they do the same work.
    """

    def __init__(self, views: int, steps: int, last: float, context: StageContext) -> None:
        self._views, self._steps, self._last, self._context = views, steps, last, context
        self._quality: list[float] = []

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        random = self._context.generator()
        queue: list[int] = []
        for step in range(self._steps):
            if not queue:
                queue = random.permutation(self._views).tolist()
            yield step, queue.pop(), self._last ** (step / max(self._steps - 1, 1))

    def report(self, step: int, error: float, gaussians: int) -> None:
        """Progress after a step; error: mean squared error over the whole view. Raises Cancelled."""
        self._quality.append(-10 * np.log10(max(error, 1e-10)))
        recent = float(np.mean(self._quality[-self._views :]))
        self._context.step(
            step + 1,
            self._steps,
            f"Fitting {gaussians:,} Gaussians, step {step + 1} of {self._steps}, {recent:.1f} dB",
        )


def _update(
    raw: Raw,
    drawn: Gaussians,
    gradients: Gaussians,
    optimisers: dict[str, Adam],
    rates: Rates,
    decay: float,
    extent: float,
) -> None:
    """One Adam step on every array; gradients of the activated values become those of the raw ones."""
    optimisers["positions"].step(gradients.positions, rates.position * decay * extent)
    optimisers["log_scales"].step(gradients.scales * drawn.scales, rates.scale * decay)
    optimisers["rotations"].step(gradients.rotations, rates.rotation * decay)
    slope = drawn.opacities * (1 - drawn.opacities)
    optimisers["logits"].step(gradients.opacities * slope, rates.opacity * decay)
    # One Adam for all degrees. Adam cancels any scale of a gradient, so the higher degrees are slowed down
    # after the step.
    before = raw.harmonics[:, 1:].copy()
    optimisers["harmonics"].step(gradients.harmonics, rates.harmonics * decay)
    if before.size:
        raw.harmonics[:, 1:] = before + np.float32(HIGHER_DEGREES) * (raw.harmonics[:, 1:] - before)


def prune(gaussians: Gaussians) -> Gaussians:
    """Without the Gaussians that are invisible or not finite; rotations of unit length."""
    arrays = vars(gaussians).values()
    finite = np.all([np.isfinite(a.reshape(len(gaussians), -1)).all(axis=1) for a in arrays], axis=0)
    norm = np.linalg.norm(gaussians.rotations, axis=1)
    keep = finite & (gaussians.opacities >= SMALLEST_OPACITY) & (norm > 1e-6)
    kept = [array[keep] for array in arrays]
    kept[2] = kept[2] / norm[keep, None]
    return Gaussians(*kept)
