"""Gaussians drawn by GSplat (1.4, 1.5) on CUDA, with the conventions of our CPU rasteriser.

GSplat adds gradients up in the order its threads arrive, so two runs differ in the last bits.
Imports torch and gsplat inside the functions: only those who ask for "cuda" need them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.splat_projection import TINY
from backend.geometry.splat_raster import Gaussians
from shared_protocol.errors import EngineUnavailable, OutOfMemory

if TYPE_CHECKING:
    import torch

    from backend.geometry.rasterize import SplatGradients

_EVERY_BATCH = 1 << 30


def require_cuda() -> None:
    """EngineUnavailable, with what to install, unless torch, gsplat and a CUDA device are there."""
    try:
        import gsplat  # noqa: F401
        import torch
    except ImportError as error:
        raise EngineUnavailable(
            f"Gaussians cannot be drawn on CUDA: {error}",
            remedy='Install them with pip install "orrery[models]", or use the CPU.',
        ) from error
    if not torch.cuda.is_available():
        raise EngineUnavailable(
            "Gaussians cannot be drawn on CUDA: torch finds no CUDA device",
            remedy="Install the CUDA build of torch and the NVIDIA driver, or use the CPU.",
        )


def draw(
    positions: "torch.Tensor",
    scales: "torch.Tensor",
    rotations: "torch.Tensor",
    opacities: "torch.Tensor",
    harmonics: "torch.Tensor",
    camera_from_world: "torch.Tensor",
    intrinsics: "torch.Tensor",
    width: int,
    height: int,
    background: "torch.Tensor",
    *,
    antialiased: bool = False,
    depth: bool = False,
) -> "tuple[torch.Tensor, dict]":
    """Planes (N, 4 or 5, H, W) as `Rasterization.planes`, differentiable, and what GSplat tells of them.

    Tensors of `Gaussians`; camera_from_world (N, 4, 4), also differentiable; intrinsics (N, 3, 3);
    background (3,).
    """
    import gsplat
    import torch

    color, alpha, info = gsplat.rasterization(
        means=positions,
        quats=_turning(rotations),
        scales=scales,
        opacities=opacities,
        colors=harmonics,
        viewmats=camera_from_world,
        Ks=intrinsics,
        width=width,
        height=height,
        eps2d=0.3,
        sh_degree=round(harmonics.shape[1] ** 0.5) - 1,
        packed=False,
        backgrounds=background.expand(len(intrinsics), 3),
        render_mode="RGB+D" if depth else "RGB",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    planes = torch.cat([color[..., :3], alpha, color[..., 3:]], dim=-1)
    return planes.permute(0, 3, 1, 2), info


def draw_on(
    device: str,
    gaussians: Gaussians,
    cameras: Cameras,
    background: np.ndarray,
    antialiased: bool,
    depth: bool,
    median_depth: bool,
    differentiable: bool,
) -> "tuple[np.ndarray, np.ndarray | None, Callable[[np.ndarray, bool], SplatGradients] | None]":
    """`rasterize` on a torch device: planes, median depth, backward. Raises OutOfMemory."""
    import torch

    from backend.geometry.rasterize import SplatGradients

    def tensor(array: np.ndarray, learn: bool = False) -> torch.Tensor:
        array = np.asarray(array, dtype=np.float32)
        return torch.tensor(array, device=device, requires_grad=learn)

    kept = np.flatnonzero(_drawable(gaussians))
    if not len(kept) or not len(cameras):
        return _nothing(gaussians, cameras, background, depth, median_depth, differentiable)
    median = None
    try:
        leaves = [tensor(array[kept], differentiable) for array in vars(gaussians).values()]
        motions = torch.zeros((len(cameras), 6), device=device, requires_grad=differentiable)
        views = _small_motion(motions) @ tensor(cameras.camera_from_world)
        with torch.set_grad_enabled(differentiable):
            planes, info = draw(
                *leaves, views, tensor(cameras.intrinsics), cameras.width, cameras.height, tensor(background),
                antialiased=antialiased, depth=depth,
            )  # fmt: skip
        if median_depth:
            median = _median_depth(info, len(cameras), cameras.width, cameras.height).cpu().numpy()
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(
            f"the GPU ran out of memory while drawing {len(gaussians):,} Gaussians "
            f"for {len(cameras)} cameras of {cameras.width}x{cameras.height}",
            remedy="Draw fewer cameras at once, close other programs on the GPU, or use the CPU.",
        ) from error

    def backward(upstream: np.ndarray, moving: bool) -> SplatGradients:
        wanted = [*leaves, motions] if moving else leaves
        found = torch.autograd.grad(
            planes, wanted, tensor(upstream), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        total = Gaussians(*(np.zeros_like(array) for array in vars(gaussians).values()))
        for array, gradient in zip(vars(total).values(), found, strict=False):
            array[kept] = gradient.cpu().numpy()
        tangents = found[-1].cpu().numpy().astype(np.float64) if moving else None
        return SplatGradients(total, tangents, None)

    return planes.detach().cpu().numpy(), median, backward if differentiable else None


def _nothing(gaussians, cameras, background, depth, median_depth, differentiable):
    """As `draw_on`, where GSplat would have nothing to do."""
    from backend.geometry.rasterize import SplatGradients

    size = (cameras.height, cameras.width)
    planes = np.zeros((len(cameras), 5 if depth else 4, *size), dtype=np.float32)
    planes[:, :3] = np.asarray(background, dtype=np.float32)[:, None, None]
    median = np.full((len(cameras), *size), np.inf, dtype=np.float32) if median_depth else None

    def backward(upstream: np.ndarray, moving: bool) -> SplatGradients:
        total = Gaussians(*(np.zeros_like(array) for array in vars(gaussians).values()))
        return SplatGradients(total, np.zeros((len(cameras), 6)) if moving else None, None)

    return planes, median, backward if differentiable else None


def _drawable(gaussians: Gaussians) -> np.ndarray:
    """(G,) bool: neither NaN nor infinite: the others would spoil all gradients."""
    finite = [np.isfinite(array.reshape(len(array), -1)).all(axis=1) for array in vars(gaussians).values()]
    return np.all(finite, axis=0)


def _turning(rotations: "torch.Tensor") -> "torch.Tensor":
    """(G, 4) quaternions; those of length 0, by which GSplat's kernels would divide, as no rotation."""
    import torch

    none = rotations.square().sum(1, keepdim=True) <= float(TINY)
    return torch.where(none, torch.tensor([1.0, 0, 0, 0], device=rotations.device), rotations)


def _small_motion(motions: "torch.Tensor") -> "torch.Tensor":
    """(N, 6) rotation vectors and translations near 0 -> (N, 4, 4), exact to first order."""
    import torch

    (x, y, z), zero = motions[:, :3].T, torch.zeros_like(motions[:, 0])
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)
    top = torch.cat([skew, motions[:, 3:, None]], dim=2)
    change = torch.cat([top, torch.zeros_like(top[:, :1])], dim=1)
    return torch.eye(4, device=motions.device) + change


def _median_depth(info: dict, count: int, width: int, height: int) -> "torch.Tensor":
    """(N, H, W): depth of the Gaussian that brings the transmittance to a half, inf without one.

    From GSplat's list of (pixel, Gaussian) pairs, which stand pixel by pixel and near to far.
    """
    import gsplat
    import torch

    means, conics, opacities, depths = (
        info[name].detach() for name in ("means2d", "conics", "opacities", "depths")
    )
    gaussian, pixel, image = gsplat.rasterize_to_indices_in_range(
        0, _EVERY_BATCH, torch.ones((count, height, width), device=means.device), means, conics,
        opacities.contiguous(), width, height, info["tile_size"], info["isect_offsets"], info["flatten_ids"],
    )  # fmt: skip
    at = torch.stack([pixel % width, pixel // width], dim=1) + 0.5 - means[image, gaussian]
    a, b, c = conics[image, gaussian].T
    power = 0.5 * (a * at[:, 0] ** 2 + c * at[:, 1] ** 2) + b * at[:, 0] * at[:, 1]
    alpha = (opacities[image, gaussian] * torch.exp(-power)).clamp_max(0.999)
    place = image.long() * (height * width) + pixel
    # Sum of log(1 - alpha) from the pixel's first pair on, in float64: sums over all pairs are long.
    passed = torch.cumsum(torch.log1p(-alpha.double()), dim=0)
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[1:] != place[:-1]
    starts = torch.nonzero(first)[:, 0]
    run = torch.cumsum(first, dim=0) - 1
    before = torch.where(starts > 0, passed[starts - 1], 0.0)[run]
    crossed = passed - before <= np.log(0.5)
    median = torch.full((count * height * width,), torch.inf, device=means.device)
    # Near to far, so the nearest of those beyond the half is the smallest.
    median.scatter_reduce_(0, place[crossed], depths[image, gaussian][crossed], "amin")
    return median.reshape(count, height, width)
