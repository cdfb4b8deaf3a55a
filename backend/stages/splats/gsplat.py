"""Gaussian splatting on CUDA with GSplat (1.4, 1.5): start, loss, rates and schedule of the CPU engine."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry.photometric_torch import ssim
from backend.geometry.splat_gsplat import draw, require_cuda
from backend.geometry.splat_parameters import HIGHER_DEGREES, Rates, Raw, prune, rates_called
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import WHITE, Target
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats.fit import ALPHA_WEIGHT
from backend.stages.splats.init import Start, start_on_hull
from backend.stages.splats.perceptual import load_torch_term
from backend.stages.splats.schedule import Schedule
from backend.stages.splats.targets import half_targets, make_targets
from shared_protocol.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from backend.geometry.perceptual_torch import TorchPerceptualTerm

Rasterizer = Callable[..., "torch.Tensor"]


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
) -> "torch.Tensor":
    """CUDA tensors of `Gaussians` and one camera -> planes (4, H, W): R, G, B, alpha; differentiable."""
    import torch

    planes, _ = draw(
        positions, scales, rotations, opacities, harmonics, torch.linalg.inv(world_from_camera)[None],
        intrinsics[None], width, height, background, antialiased=antialiased,
    )  # fmt: skip
    return planes[0]


def loss(
    image: "torch.Tensor",
    target: "torch.Tensor",
    ssim_weight: float,
    weights: "torch.Tensor | None" = None,
    absolute: bool = False,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """What `photometric_loss` computes: the loss, and the sum of squared colour errors (detached).

    image, target (4, H, W); weights (H, W).
    """
    import torch

    weights = torch.ones_like(image[3]) if weights is None else weights
    squares = (image[:3] - target[:3]) ** 2
    errors = (image[:3] - target[:3]).abs() if absolute else squares
    total = (weights * errors).mean() + ALPHA_WEIGHT * (weights * (image[3] - target[3]) ** 2).mean()
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
    perceptual: "TorchPerceptualTerm | None" = None,
    half: list[Target] | None = None,
) -> Gaussians:
    """The loop of `fit.fit` on a torch device; `view_of` is `draw_view` or one like it.

    Densification, views held out and corrections of cameras are the CPU engine's.
    """
    import torch

    rates = rates or rates_called(options.rates)
    if options.densify != "none" or options.hold_out or options.refine_cameras:
        context.warn(
            "The engine 'gsplat' fits without densification, views held out and corrections of cameras; "
            "the engine 'cpu' has them."
        )

    def leaf(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, device=device, requires_grad=True)

    raw = Raw.of(start.gaussians)
    base, higher = leaf(raw.harmonics[:, :1]), leaf(raw.harmonics[:, 1:])
    positions, log_scales, rotations, logits = (
        leaf(a) for a in (raw.positions, raw.log_scales, raw.rotations, raw.logits)
    )
    learned = {
        positions: rates.position * start.extent,
        log_scales: rates.scale,
        rotations: rates.rotation,
        logits: rates.opacity,
        base: rates.harmonics,
    }
    if higher.numel():
        learned[higher] = rates.harmonics * HIGHER_DEGREES
    optimiser = torch.optim.Adam(
        [{"params": [tensor], "lr": rate} for tensor, rate in learned.items()], eps=1e-15
    )
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
        optimiser.zero_grad(set_to_none=True)
        errors = []
        for index in step.views:
            target = (half if step.half else targets)[index]
            planes, pose, intrinsics, weights = on_device[step.half][index]
            image = view_of(
                positions, torch.exp(log_scales), rotations, torch.sigmoid(logits),
                torch.cat([base, higher], 1), pose, intrinsics, target.width, target.height, white,
                antialiased=options.antialiased,
            )  # fmt: skip
            total, squares = loss(image, planes, options.ssim, weights, options.loss == "l1")
            if perceptual is not None and perceptual.wanted(step.number, step.number / options.steps):
                weight = 1.0 if weights is None else float(target.weights.mean())
                distance = perceptual(image[:3], planes[:3], step.number)
                total = total + weight * options.perceptual * distance
            total.backward()
            errors.append(float(squares) / (3 * target.pixels))
        for group, rate in zip(optimiser.param_groups, learned.values(), strict=True):
            falls = rates.all_fall or group["params"][0] is positions
            group["lr"] = rate * (step.decay if falls else 1.0)
        optimiser.step()
        schedule.report(step, float(np.mean(errors)), len(start.gaussians))

    def back(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy()

    harmonics = back(torch.cat([base, higher], 1))
    return Raw(back(positions), back(log_scales), back(rotations), back(logits), harmonics).activate()


class GsplatSplats:
    """As `CpuSplats`, the fit on a CUDA device."""

    version = "2"
    perceptual = True
    """Has the perceptual term."""

    def fit(self, views: Views, options: SplatsOptions, context: StageContext) -> Splats:
        """views -> Gaussians; see `run.py`. EngineUnavailable without a working CUDA device."""
        require_cuda()
        import torch

        term = load_torch_term(options, context, "cuda")
        context.note(perceptual_weight=options.perceptual or 0.0)
        context.step(0, options.steps, "Carving the hull for the Gaussians")
        start = start_on_hull(views, options, context)
        targets = make_targets(views, options.size, context.check)
        half = half_targets(views, options, context.check)
        try:
            fitted = fit_torch(
                start, targets, options, context, draw_view, "cuda", perceptual=term, half=half
            )
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the GPU ran out of memory while fitting {options.gaussians} Gaussians",
                remedy="Lower splats.gaussians or splats.size, or close other programs on the GPU.",
            ) from error
        return Splats(**vars(prune(fitted)), antialiased=options.antialiased)
