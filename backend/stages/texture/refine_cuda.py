"""Texture refinement on CUDA: what `optimise.py` does on the CPU, by differentiable drawing (nvdiffrast)."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_nvdiffrast import Scene, require_cuda, resolved
from backend.geometry.perceptual import PerceptualNet
from backend.geometry.photometric_torch import ssim
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, TexturedMesh, Views, quantize
from backend.stages.texture.objective import OBJECTIVE, Objective
from backend.stages.texture.project import ProjectTexture, front_facts, view_scales
from backend.weights import stlpips
from shared_protocol.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from backend.geometry.perceptual_torch import TorchPerceptualTerm
    from backend.models.lpips import Lpips

STEPS = 500
"""As V3D's README."""
RATE = 2e-3
"""At first; it falls to 0, so that a texel can go as far as with V3D's constant 1e-3."""


@dataclass(frozen=True)
class Way:
    """How the texture is refined.

    rate, falls  of Adam at first, and whether it falls to 0
    views        so many of the views, evenly; 0: all
    lpips        whether LPIPS of VGG measures the perceptual distance; its weights must be here
    """

    objective: Objective = OBJECTIVE
    rate: float = RATE
    falls: bool = True
    views: int = 0
    lpips: bool = False


WAYS = {
    "measured": Way(),
    "published": Way(Objective(ssim=0.0, perceptual=1.0, nearness=0.0), 1e-3, False, 16, True),
}
"""Published: V3D's command for its refinement, MSE + LPIPS at a constant rate; its code colours vertices, and
divides its targets by 255 twice."""
_MARGIN = 8
_SUPERSAMPLE = 2
_COARSE = 8
"""Texels a side of the coarse part of the change, which also reaches texels that no sample touches."""


@dataclass(frozen=True)
class Target:
    """One view on the device.

    colors (3, H, W) over white, 0..1; inside (H, W) bool: pixels wholly on the object; window (2,) slices
    of the picture that hold them
    """

    colors: "torch.Tensor"
    inside: "torch.Tensor"
    window: tuple[slice, slice]


class RefineCudaTexture:
    """The embedded bake, then MSE + D-SSIM + perceptual distance at fixed geometry."""

    version = "1"

    def bake(
        self, mesh: Mesh, views: Views, splats: Splats, options: TextureOptions, context: StageContext
    ) -> TexturedMesh:
        """See run.py. EngineUnavailable without nvdiffrast and a CUDA device."""
        dr = require_cuda()
        import torch

        # The CPU's fit of the same objective would be for nothing.
        textured = ProjectTexture().bake(mesh, views, splats, replace(options, optimise=False), context)
        if not options.optimise:
            return textured
        way = WAYS[options.refinement]
        term = load_lpips(context) if way.lpips else load_term(context, "cuda")
        try:
            texture = refine(textured, views, view_scales(views), context, dr, "cuda", term=term, way=way)
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the GPU ran out of memory while refining a texture of {options.size} pixels",
                remedy="Lower texture.size, or close other programs on the GPU.",
            ) from error
        textured = replace(textured, texture=quantize(texture).astype(np.float32) / 255)
        context.note(**front_facts(textured, views))
        return textured


def load_lpips(context: StageContext) -> "Lpips":
    """LPIPS of VGG, as V3D's refinement has it; WeightsError where its weights are not here."""
    from backend.models import lpips

    context.note(texture_perceptual=True)
    return lpips.load(context, centred=True)


def load_term(context: StageContext, device: str) -> "TorchPerceptualTerm | None":
    """The perceptual term; None where its weights are not present."""
    context.note(texture_perceptual=stlpips.present())
    if not stlpips.present():
        return None
    from backend.geometry.perceptual_torch import TorchPerceptualNet, TorchPerceptualTerm

    tensors = stlpips.load()
    PerceptualNet.of(tensors)  # names and shapes
    return TorchPerceptualTerm(TorchPerceptualNet(tensors, device), context.seed)


def refine(
    textured: TexturedMesh,
    views: Views,
    trust: np.ndarray,
    context: StageContext,
    dr: Any,
    device: str,
    *,
    term: "TorchPerceptualTerm | Lpips | None" = None,
    steps: int = STEPS,
    way: Way = WAYS["measured"],
) -> np.ndarray:
    """The texture (T, T, 3) float32, 0..1, after `steps` steps of Adam, a view each.

    dr     nvdiffrast.torch or a module with its functions
    trust  (N,) weights of the views

    Only pixels that are on the object in the view and on the mesh count, so that a wrong outline does not
    colour the mesh.
    """
    import torch

    scene = Scene(textured.mesh.vertices, textured.mesh.faces, dr, device)
    start = torch.as_tensor(np.ascontiguousarray(textured.texture, dtype=np.float32), device=device)
    uvs = torch.as_tensor(np.ascontiguousarray(textured.uvs, dtype=np.float32), device=device)
    cameras = views.cameras
    fine = cameras.resized(cameras.width * _SUPERSAMPLE, cameras.height * _SUPERSAMPLE)
    targets = make_targets(views, device)
    size = start.shape[0]
    detail = torch.zeros_like(start, requires_grad=True)
    coarse = torch.zeros((1, 3, max(size // _COARSE, 1), max(size // _COARSE, 1)), device=device)
    coarse.requires_grad_()
    optimiser = torch.optim.Adam([detail, coarse], lr=way.rate, betas=(0.9, 0.99))
    generator = np.random.default_rng(context.seed)
    count = min(way.views or len(views), len(views))
    chosen = np.linspace(0, len(views), count, endpoint=False).astype(int)
    order: list[int] = []
    errors = np.full(len(views), np.nan)
    before = None
    weights = trust / max(float(trust.mean()), 1e-9)

    def current() -> "torch.Tensor":
        upsampled = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        return start + detail + upsampled[0].permute(1, 2, 0)

    for step in range(steps):
        context.step(step, steps, f"Refining the texture: step {step} of {steps}")
        order = order or list(generator.permutation(chosen))
        view = int(order.pop())
        target = targets[view]
        if not target.inside.any():
            continue
        for group in optimiser.param_groups:
            group["lr"] = way.rate * (1 - step / steps if way.falls else 1.0)
        texture = current()
        picture, inside = draw_inside(scene, texture, uvs, fine, view, target)
        optimiser.zero_grad(set_to_none=True)
        loss, error = _loss(picture, target, inside, way.objective, term, step, steps)
        total = float(weights[view]) * loss + way.objective.nearness * ((texture - start) ** 2).mean()
        total.backward()
        optimiser.step()
        errors[view] = error
        if step + 1 == count:
            before = errors.copy()
    if before is not None and np.isfinite(errors).any():
        context.note(
            texture_error_before=round(float(np.nanmean(before)), 6),
            texture_error_after=round(float(np.nanmean(errors)), 6),
        )
    return current().detach().clamp(0, 1).cpu().numpy()


def draw_inside(
    scene: Scene, texture: "torch.Tensor", uvs: "torch.Tensor", cameras: Cameras, view: int, target: Target
) -> "tuple[torch.Tensor, torch.Tensor]":
    """In the target's window: colours (3, h, w), and where mesh and object fill the pixel (h, w).

    Elsewhere the colours are the target's own.
    """
    import torch

    rast = scene.rasterize(cameras, view)
    planes = resolved(scene.textured(texture, uvs, rast), rast, _SUPERSAMPLE)
    inside = target.inside & (planes[..., 3] > 1 - 1e-3)
    picture = torch.where(inside, planes[..., :3].permute(2, 0, 1), target.colors)
    return picture[:, *target.window], inside[target.window]


def _loss(picture, target: Target, inside, objective: Objective, term, step: int, steps: int):
    """The objective of one view, differentiable, and the mean squared error over the object."""
    colors = target.colors[:, *target.window]
    squares = (picture - colors) ** 2
    loss = squares.mean()
    if objective.ssim:
        loss = loss + objective.ssim * (1 - ssim(picture, colors)).mean()
    if term is not None and objective.perceptual and term.wanted(step, step / steps):
        loss = loss + objective.perceptual * term(picture, colors, step)
    return loss, float(squares.detach().sum() / (3 * inside.sum()).clamp_min(1))


def make_targets(views: Views, device: str) -> list[Target]:
    """The views over white, 0..1 as they come (they were divided by 255 when they were read, once)."""
    import torch

    targets = []
    for rgba in views.rgba:
        alpha = rgba[..., 3:]
        colors = (rgba[..., :3] * alpha + (1 - alpha)).transpose(2, 0, 1)
        colors = torch.as_tensor(np.ascontiguousarray(colors), device=device)
        solid = rgba[..., 3] > 0.99
        window = tuple(
            slice(max(int(lines[0]) - _MARGIN, 0), int(lines[-1]) + 1 + _MARGIN)
            if len(lines)
            else slice(0, 1)
            for lines in (np.flatnonzero(solid.any(axis=axis)) for axis in (1, 0))
        )
        targets.append(Target(colors, torch.as_tensor(solid, device=device), window))
    return targets
