"""Gaussian splatting on CUDA with GSplat (1.4, 1.5); all but the drawing as the CPU engine has it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry.photometric_torch import ssim
from backend.geometry.splat_gsplat import draw, require_cuda
from backend.geometry.splat_parameters import Rates, Raw, prune, rates_called
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import WHITE, Target, make_targets
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats.fit import straight_alpha, strategy_of, whole_picture
from backend.stages.splats.init import Start, start_on_hull
from backend.stages.splats.learned import Drawn, Learned, Pull
from backend.stages.splats.perceptual import NETS, load_torch_term
from backend.stages.splats.schedule import Schedule
from backend.stages.splats.targets import half_targets
from shared_protocol.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from backend.geometry.perceptual_torch import TorchPerceptualTerm
    from backend.models.lpips import Lpips


Rasterizer = Callable[..., Drawn]


def draw_view(
    positions: "torch.Tensor",
    scales: "torch.Tensor",
    rotations: "torch.Tensor",
    opacities: "torch.Tensor",
    harmonics: "torch.Tensor",
    world_from_camera: "torch.Tensor",
    intrinsics: "torch.Tensor",
    width: int,
    height: int,
    background: "torch.Tensor",
    *,
    antialiased: bool = False,
) -> Drawn:
    """Tensors of `Gaussians` on the device and one camera -> the picture."""
    import torch

    planes, info = draw(
        positions, scales, rotations, opacities, harmonics, torch.linalg.inv(world_from_camera)[None],
        intrinsics[None], width, height, background, antialiased=antialiased,
    )  # fmt: skip
    radii = info["radii"][0]
    seen = (radii > 0).all(dim=-1) if radii.ndim == 2 else radii > 0  # GSplat 1.5 has two radii, 1.4 one
    return Drawn(planes[0], info["means2d"], seen)


def loss(
    image: "torch.Tensor",
    target: "torch.Tensor",
    ssim_weight: float,
    weights: "torch.Tensor | None" = None,
    absolute: bool = False,
    alpha_weight: float = SplatsOptions.alpha,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """What `photometric_loss` computes: the loss, and the sum of squared colour errors (detached).

    image, target (4, H, W); weights (H, W).
    """
    import torch

    weights = torch.ones_like(image[3]) if weights is None else weights
    squares = (image[:3] - target[:3]) ** 2
    errors = (image[:3] - target[:3]).abs() if absolute else squares
    total = (weights * errors).mean() + alpha_weight * (weights * (image[3] - target[3]) ** 2).mean()
    if ssim_weight:
        total = total + ssim_weight * (weights * (1 - ssim(image[:3], target[:3]))).mean()
    return total, squares.detach().sum()


def fit_torch(
    start: Start,
    targets: list[Target],
    options: SplatsOptions,
    context: StageContext,
    view_of: Rasterizer,
    device: str,
    rates: Rates | None = None,
    *,
    perceptual: "TorchPerceptualTerm | Lpips | None" = None,
    half: list[Target] | None = None,
) -> Gaussians:
    """The loop of `fit.fit` on a torch device; `view_of` is `draw_view` or one like it.

    Views held out and corrections of cameras are the CPU engine's.
    """
    import torch

    rates = rates or rates_called(options.rates)
    if options.hold_out or options.refine_cameras:
        context.warn(
            "The engine 'gsplat' fits without views held out and corrections of cameras; the engine 'cpu' "
            "has them."
        )
    strategy, scene = strategy_of(options, start, targets, context)
    raw = Raw.of(start.gaussians)
    most = raw.harmonics.shape[1]
    learned = Learned(raw, rates, scene if rates.of_scene else start.extent, device)
    pull = Pull(len(raw), device)
    white = torch.as_tensor(WHITE, device=device)
    on_device = [
        [
            tuple(
                None if a is None else torch.as_tensor(np.asarray(a, dtype=np.float32), device=device)
                for a in (t.planes, t.world_from_camera, t.intrinsics, t.weights)
            )
            for t in size
        ]
        for size in (targets, half or [])
    ]
    schedule = Schedule(
        len(targets), options.steps, rates.last, context,
        batch=options.batch, coarse=options.coarse if half else 0.0,
    )  # fmt: skip
    for step in schedule:
        learned.optimiser.zero_grad(set_to_none=True)
        errors = []
        for index in step.views:
            target = (half if step.half else targets)[index]
            planes, pose, intrinsics, weights = on_device[step.half][index]
            drawn = view_of(
                *learned.activated(rates.coefficients(step.number, most)), pose, intrinsics,
                target.width, target.height, white, antialiased=options.antialiased,
            )  # fmt: skip
            if strategy.counts:
                drawn.centres.retain_grad()
            image = drawn.planes
            total, squares = loss(image, planes, options.ssim, weights, options.loss == "l1", options.alpha)
            if perceptual is not None and perceptual.wanted(step.number, step.number / options.steps):
                weight = 1.0 if weights is None else float(target.weights.mean())
                distance = perceptual(image[:3], planes[:3], step.number)
                total = total + weight * options.perceptual * distance
            if whole_picture(options):
                total = total * target.share
            total.backward()
            if strategy.counts:
                pull.add(drawn, target)
            errors.append(float(squares) / (3 * target.pixels))
        if strategy.everywhere:
            own = strategy.mean_opacity * torch.sigmoid(learned.logits).mean()
            (own + strategy.mean_scale * torch.exp(learned.log_scales).mean()).backward()
        learned.step(step.decay)
        if strategy.changes(step.number):
            if strategy.counts:
                strategy.count(*pull.sums())
            raw = learned.raw()
            raw, adam = strategy.after_step(step.number, raw, learned.adam(raw), step.decay)
            learned = learned.changed(raw, adam)
            pull = Pull(len(raw), device)
        schedule.report(step, float(np.mean(errors)), len(learned))
        context.preview("splats", lambda image=image: straight_alpha(image.detach().cpu().numpy()))
    return learned.raw().activate()


class GsplatSplats:
    """As `CpuSplats`, the fit on a CUDA device."""

    version = "3"
    perceptual = True
    """Has the perceptual term."""
    perceptual_nets = NETS
    device = "cuda"

    def fit(self, views: Views, options: SplatsOptions, context: StageContext) -> Splats:
        """views -> Gaussians; see `run.py`. EngineUnavailable without a working CUDA device."""
        require_cuda()
        import torch

        term = load_torch_term(options, context, self.device)
        context.note(perceptual_weight=options.perceptual or 0.0)
        context.step(0, options.steps, "Carving the hull for the Gaussians")
        start = start_on_hull(views, options, context)
        targets = make_targets(views, options.size, context.check)
        half = half_targets(views, options, context.check)
        try:
            fitted = fit_torch(
                start, targets, options, context, draw_view, self.device, perceptual=term, half=half
            )
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the GPU ran out of memory while fitting {options.gaussians} Gaussians",
                remedy="Lower splats.gaussians or splats.size, or close other programs on the GPU.",
            ) from error
        return Splats(**vars(prune(fitted)), antialiased=options.antialiased)
