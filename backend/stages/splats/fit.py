"""Gaussians fitted to the views: V3D's equation 1, MSE + ls D-SSIM, by Adam.

The start on the carved hull replaces densification and opacity resets (V3D 3.3); V3D's own code takes
4000 steps with them, from 100,000 Gaussians: options "published". A few hundred steps from a good start want
larger learning rates: `Rates`, measured on sixteen-view orbits of scanned objects.
The alpha term is ours: it keeps white Gaussians from lying unseen on the white background; V3D pays for the
mean opacity instead.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backend.geometry.parallel import map_parallel
from backend.geometry.photometric import photometric_loss
from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import Rates, Raw, chain, rates_called, scene_extent
from backend.geometry.splat_raster import CameraGradient, Gaussians, Rendering, render_gaussians
from backend.geometry.splat_targets import WHITE, Target
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.stages.splats.camera_refine import Corrections
from backend.stages.splats.densify import densifier
from backend.stages.splats.init import Start
from backend.stages.splats.schedule import Schedule, Step
from backend.stages.splats.strategy import Keep

LOSSES = ("mse", "l1")
MCMC_WEIGHT = {"mse": 1e-5, "l1": 1e-2}
"""Of mean opacity and mean scale; 3DGS-MCMC has 0.01 next to L1, whose gradient is a thousand times that
of a small squared error."""


class PerceptualTerm(Protocol):
    """LPIPS of V3D's equation 1, for engines that have its weights."""

    def wanted(self, step: int, share: float) -> bool:
        """Whether this step has the term; share: of the fit's way that is done, 0 to 1."""

    def __call__(self, image: np.ndarray, target: np.ndarray, step: int) -> tuple[float, np.ndarray]:
        """image and target (3, H, W) over white -> loss and dL/dimage (3, H, W)."""


@dataclass(frozen=True)
class _Seen:
    """What one view says: squared error (mean over the whole view), gradients."""

    error: float
    gradient: Gaussians
    camera: CameraGradient | None = None
    exposure: np.ndarray | None = None
    centres: np.ndarray | None = None
    drawn: np.ndarray | None = None


def strategy_of(
    options: SplatsOptions, start: Start, targets: list[Target], context: StageContext
) -> tuple[Keep, float]:
    """How the number of Gaussians changes, and the scene's extent (`scene_extent`)."""
    scene = scene_extent(np.stack([target.world_from_camera[:3, 3] for target in targets]))
    strategy = densifier(
        options.densify, steps=options.steps, most=options.most, positions=start.gaussians.positions,
        extent=start.extent, scene=scene, weight=MCMC_WEIGHT[options.loss], opacity=options.opacity,
        random=context.generator().spawn(1)[0],
    )  # fmt: skip
    return strategy, scene


def whole_picture(options: SplatsOptions) -> bool:
    """Whether the loss of a crop is to be that of the whole picture: where other terms, or thresholds, know
    its size. Adam alone does not."""
    return bool(options.opacity) or options.densify == "published"


def fit(
    start: Start,
    targets: list[Target],
    options: SplatsOptions,
    context: StageContext,
    rates: Rates | None = None,
    perceptual: PerceptualTerm | None = None,
    *,
    half: list[Target] | None = None,
    corrections: Corrections | None = None,
) -> Gaussians:
    """Optimise the starting Gaussians for at most options.steps steps; the order of views is the seed's.

    half         the targets at half size, for the first options.coarse of the steps
    corrections  of the cameras; learned when given (changed in place), numbered as `Target.view`
    """
    rates = rates or rates_called(options.rates)
    if options.perceptual and perceptual is None:
        context.warn("Gaussians were fitted without the perceptual term: this engine has no weights for it.")
    judged = held_out_targets(len(targets), options.hold_out)
    learned = [i for i in range(len(targets)) if i not in judged]
    raw = Raw.of(start.gaussians)
    adam = Adam(vars(raw))
    strategy, scene = strategy_of(options, start, targets, context)
    extent = scene if rates.of_scene else start.extent
    view_of = _View(options, perceptual, corrections, strategy.centres)
    schedule = Schedule(
        len(learned), options.steps, rates.last, context,
        batch=options.batch, coarse=options.coarse if half else 0.0,
    )  # fmt: skip
    for step in schedule:
        drawn = raw.activate()
        sized = half if half and step.half else targets
        shown = [sized[learned[i]] for i in step.views]
        # One view uses all cores by itself; several take one each.
        if len(shown) > 1:
            seen = map_parallel(lambda target, drawn=drawn, step=step: view_of(drawn, target, step), shown)
        else:
            seen = [view_of(drawn, shown[0], step)]
        for target, one in zip(shown, seen, strict=True):
            strategy.observe(one.gradient, target, one.centres, one.drawn)
            if corrections is not None:
                corrections.step(target.view, one.camera, one.exposure, step.decay)
        total = seen[0].gradient
        for one in seen[1:]:
            for name, array in vars(one.gradient).items():
                getattr(total, name)[...] += array
        most = raw.harmonics.shape[1]
        total.harmonics[:, rates.coefficients(step.number, most) :] = 0
        gradient = chain(total, drawn)
        touched = (total.opacities != 0) | (total.harmonics[:, 0] != 0).any(axis=1)
        touched |= strategy.everywhere
        strategy.regularise(gradient, drawn)
        adam.step(vars(gradient), rates.columns(step.decay, extent, most), touched)
        raw, adam = strategy.after_step(step.number, raw, adam, step.decay)
        if step.judge and judged:
            schedule.judge(_mean_psnr(raw.activate(), [targets[i] for i in judged], view_of))
        schedule.report(step, float(np.mean([one.error for one in seen])), len(raw))
        context.preview("splats", lambda raw=raw: view_of.picture(raw.activate(), (half or targets)[0]))
    if judged:
        quality = _mean_psnr(raw.activate(), [targets[i] for i in judged], view_of)
        context.note(held_out_psnr=round(quality, 2))
    return raw.activate()


def held_out_targets(views: int, count: int) -> list[int]:
    """`count` of the views, evenly around the orbit; never view 0, the input, and always some are left."""
    count = min(count, views - 2)
    return [round((i + 0.5) * views / count) for i in range(count)] if count > 0 else []


class _View:
    """Draws one view of the Gaussians, compares, and goes back."""

    def __init__(
        self,
        options: SplatsOptions,
        perceptual: PerceptualTerm | None,
        corrections: Corrections | None,
        centres: bool,
    ) -> None:
        """centres: whether to tell the gradient of the centres in the picture."""
        self._options, self._perceptual, self._corrections = options, perceptual, corrections
        self._centres = centres

    def __call__(self, drawn: Gaussians, target: Target, step: Step) -> _Seen:
        options, corrections = self._options, self._corrections
        rendering = self._draw(drawn, target)
        image = rendering.image if corrections is None else corrections.expose(target.view, rendering.image)
        squares, _, upstream = photometric_loss(
            image, target.planes, options.ssim, options.alpha, target.weights, absolute=options.loss == "l1"
        )
        if self._perceptual is not None and self._perceptual.wanted(step.number, step.number / options.steps):
            _, slope = self._perceptual(image[:3], target.planes[:3], step.number)
            weight = 1.0 if target.weights is None else float(target.weights.mean())
            upstream[:3] += np.float32(weight * options.perceptual) * slope
        if whole_picture(options):
            upstream *= np.float32(target.share)
        error = squares / (3 * target.pixels)
        exposure = None
        if corrections is not None:
            upstream, exposure = corrections.expose_back(target.view, rendering.image, upstream)
        if self._centres:
            gradient, camera, centres = rendering.backward_with_centres(upstream)
            return _Seen(error, gradient, camera, exposure, centres, rendering.drawn)
        if corrections is None:
            return _Seen(error, rendering.backward(upstream))
        gradient, camera = rendering.backward_with_camera(upstream)
        return _Seen(error, gradient, camera, exposure)

    def error(self, drawn: Gaussians, target: Target) -> float:
        """Mean squared error over the whole view."""
        image = self._draw(drawn, target).image
        if self._corrections is not None:
            image = self._corrections.expose(target.view, image)
        return float(np.sum((image[:3] - target.planes[:3]) ** 2)) / (3 * target.pixels)

    def picture(self, drawn: Gaussians, target: Target) -> np.ndarray:
        """(H, W, 4) float32, straight alpha: how far the fit is, for the user to look at."""
        return straight_alpha(self._draw(drawn, target).image)

    def _draw(self, drawn: Gaussians, target: Target) -> Rendering:
        pose = target.world_from_camera
        if self._corrections is not None:
            pose = self._corrections.pose(target.view)
        return render_gaussians(
            drawn, pose, target.intrinsics, target.width, target.height, WHITE,
            antialiased=self._options.antialiased,
        )  # fmt: skip


def straight_alpha(planes: np.ndarray) -> np.ndarray:
    """(4, H, W) over white -> (H, W, 4) straight alpha."""
    rgba = np.moveaxis(planes, 0, -1)
    alpha = rgba[..., 3:]
    colour = (rgba[..., :3] - WHITE * (1 - alpha)) / np.maximum(alpha, 1e-3)
    return np.concatenate([colour, alpha], axis=-1)


def _mean_psnr(drawn: Gaussians, targets: list[Target], view_of: _View) -> float:
    errors = [max(view_of.error(drawn, target), 1e-10) for target in targets]
    return float(np.mean(-10 * np.log10(errors)))
