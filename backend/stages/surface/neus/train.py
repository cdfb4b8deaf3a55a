"""Training: from a sphere or the hull to a field whose rendering repeats the views."""

import time
from dataclasses import dataclass

import torch

from backend.pipeline.stage import StageContext
from backend.stages.surface.neus import losses
from backend.stages.surface.neus.fields import ColorField, SdfField, Sharpness
from backend.stages.surface.neus.hash_grid import make_grid
from backend.stages.surface.neus.rendering import accumulate, opacity, ray_weights
from backend.stages.surface.neus.sampling import Occupancy
from backend.stages.surface.neus.scene import Scene
from backend.stages.surface.neus.settings import HULL, Settings

_OCCUPANCY_EVERY = 16
_HULL_POINTS = 8192
_HULL_RATE = 1e-2
_HULL_REACH = 0.02
"""Standard deviation, in radii of the ball, of the points that are held inside the hull."""
_FEWEST_RAYS = 64


@dataclass(frozen=True)
class Model:
    """The networks, and the cameras' corrections where they are learned: (N, 6), view 0 stays."""

    geometry: SdfField
    color: ColorField
    sharpness: Sharpness
    motions: torch.Tensor | None

    @classmethod
    def of(cls, settings: Settings, views: int, device: str, seed: int, refine_cameras: bool) -> "Model":
        generator = torch.Generator().manual_seed(seed)
        grid = make_grid(settings, device, generator)
        geometry = SdfField(settings, grid, generator).to(device)
        color = ColorField(settings, generator).to(device)
        motions = torch.zeros((views, 6), device=device, requires_grad=True) if refine_cameras else None
        return cls(geometry, color, Sharpness(settings).to(device), motions)


@dataclass(frozen=True)
class Rendered:
    """Of rays: colors (R, 3) over black, opacity (R,); of their samples: gradients (P, 3)."""

    colors: torch.Tensor
    opacity: torch.Tensor
    gradients: torch.Tensor


def train(model: Model, scene: Scene, settings: Settings, seed: int, context: StageContext) -> None:
    """Fit the model to the scene's rays. The same seed gives the same model on a CPU."""
    generator = torch.Generator().manual_seed(seed + 1)
    warm = settings.hull_steps if settings.start == HULL else 0
    total = warm + settings.steps
    if warm:
        _start_at_hull(model.geometry, scene, settings, warm, total, generator, context)
    surface = scene.hull_cells()
    occupancy = Occupancy(scene.allowed, settings.occupancy_threshold)
    optimiser = _optimiser(model, settings)
    first_rates = [group["lr"] for group in optimiser.param_groups]
    rays, error, began = float(settings.rays_start), 0.0, time.monotonic()
    for step in range(settings.steps):
        _report(context, warm + step, total, step, settings.steps, began)
        model.geometry.grid.active = settings.active_levels(step)
        if step % _OCCUPANCY_EVERY == 0:
            occupancy.update(model.geometry, model.sharpness().item())
        for group, rate in zip(optimiser.param_groups, first_rates, strict=True):
            group["lr"] = rate * settings.rate_factor(step)
        pixels = scene.rays.batch(int(rays), generator)
        origins, directions = scene.rays.through(pixels, model.motions)
        samples = occupancy.march(origins.detach(), directions.detach(), settings.ray_steps, generator)
        wanted = rays * settings.samples / max(len(samples.ray), 1)
        rays = min(max(0.9 * rays + 0.1 * wanted, _FEWEST_RAYS), settings.rays_most)
        if not len(samples.ray):
            continue
        rendered = render(model, samples, origins, directions, settings, step)
        optimiser.zero_grad(set_to_none=True)
        loss, color_error = _loss(model, scene, surface, settings, rendered, pixels, generator)
        loss.backward()
        if model.motions is not None:
            model.motions.grad[0] = 0
        optimiser.step()
        error = color_error if step == 0 else 0.95 * error + 0.05 * color_error
    context.note(neus_color_error=round(float(error), 6), neus_sharpness=round(model.sharpness().item(), 1))


def render(model: Model, samples, origins, directions, settings: Settings, step: int) -> Rendered:
    """Colours and opacities of rays from their samples (equations 3 and 10 of NeuS)."""
    points = origins[samples.ray] + samples.along[:, None] * directions[samples.ray]
    distance, features, gradients = model.geometry(points)
    normals = torch.nn.functional.normalize(gradients, dim=1)
    cosine = (normals * directions[samples.ray]).sum(1)
    anneal = min(1.0, step / settings.anneal_end)
    alpha = opacity(distance, cosine, 2.0 / settings.ray_steps, model.sharpness(), anneal)
    weights = ray_weights(alpha, samples.ray)
    colors = model.color(features, normals)
    count = len(origins)
    return Rendered(
        accumulate(weights[:, None] * colors, samples.ray, count),
        accumulate(weights, samples.ray, count),
        gradients,
    )


def _loss(
    model: Model,
    scene: Scene,
    surface: torch.Tensor,
    settings: Settings,
    rendered: Rendered,
    pixels: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of all terms, and the squared error of the colours (detached)."""
    rays, weights = scene.rays, settings.weights
    trust = rays.weights[pixels]
    color = losses.color_loss(rendered.colors, rays.colors[pixels], trust)
    total = weights.color * color
    total = total + weights.mask * losses.mask_loss(rendered.opacity, rays.alpha[pixels], trust)
    total = total + weights.eikonal * losses.eikonal_loss(rendered.gradients)
    count = settings.random_points
    points = (2 * torch.rand((count, 3), generator=generator) - 1).to(pixels.device)
    if weights.hull:
        near = scene.near_hull(surface, count // 2, _HULL_REACH, generator)
        points = torch.cat([points[: count - len(near)], near])
    nudge = (settings.nudge * torch.randn((count, 3), generator=generator)).to(pixels.device)
    distance, _, gradients = model.geometry(points)
    if weights.hull:
        total = total + weights.hull * losses.hull_loss(distance[-len(near) :], scene.hull_distance(near))
        distance = distance[: -len(near)]
    total = total + weights.sparsity * losses.sparsity_loss(distance)
    nearby = model.geometry.gradient(points + nudge)
    total = total + weights.smoothness * losses.smoothness_loss(gradients, nearby)
    return total, color.detach()


def _optimiser(model: Model, settings: Settings) -> torch.optim.Optimizer:
    geometry, color, sharpness = settings.rates
    groups = [
        {"params": model.geometry.parameters(), "lr": geometry},
        {"params": model.color.parameters(), "lr": color},
        {"params": model.sharpness.parameters(), "lr": sharpness},
    ]
    if model.motions is not None:
        groups.append({"params": [model.motions], "lr": settings.pose_rate, "eps": 1e-8})
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)


def _start_at_hull(
    field: SdfField,
    scene: Scene,
    settings: Settings,
    steps: int,
    total: int,
    generator: torch.Generator,
    context: StageContext,
) -> None:
    """Fit the distance to the hull's: half of the points near its surface, half anywhere in the cube."""
    optimiser = torch.optim.AdamW(
        field.parameters(), lr=_HULL_RATE, betas=settings.betas, eps=settings.epsilon, fused=True
    )
    device = scene.hull.device
    surface = scene.hull_cells()
    for step in range(steps):
        context.step(step, total, "Starting at the visual hull")
        half = _HULL_POINTS // 2
        near = scene.near_hull(surface, half, 0.05, generator)
        anywhere = (2 * torch.rand((half, 3), generator=generator) - 1).to(device)
        points = torch.cat([near, anywhere])
        target = scene.hull_distance(points)
        for group in optimiser.param_groups:
            group["lr"] = _HULL_RATE * 0.05 ** (step / steps)
        optimiser.zero_grad(set_to_none=True)
        distance, _, gradients = field(points)
        loss = (distance - target).abs().mean() + 0.05 * losses.eikonal_loss(gradients)
        loss.backward()
        optimiser.step()


def _report(context: StageContext, done: int, total: int, step: int, steps: int, began: float) -> None:
    left = ""
    if step >= 20:
        seconds = (time.monotonic() - began) / step * (steps - step)
        left = f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
    context.step(done, total, f"Training the neural surface: step {step} of {steps}{left}")
