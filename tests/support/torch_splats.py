"""Gaussian splatting in plain torch, the oracle of the rasteriser's tests.

Covariance, projection and harmonics are GSplat's own torch code; its pixel compositing calls CUDA, so
that part is written out here after the same image formation, over all pixels and all Gaussians at
once (small scenes only), in float32 or float64.
"""

import numpy as np
import torch
from gsplat.cuda._torch_impl import (
    _fully_fused_projection,
    _quat_scale_to_covar_preci,
    _spherical_harmonics,
)


def render(
    positions: torch.Tensor,
    scales: torch.Tensor,
    rotations: torch.Tensor,
    opacities: torch.Tensor,
    harmonics: torch.Tensor,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    width: int,
    height: int,
    background: np.ndarray,
) -> torch.Tensor:
    """(4, H, W): R, G, B over the background, alpha. Differentiable in the first five arguments."""
    kind = positions.dtype
    pose = torch.as_tensor(np.asarray(world_from_camera), dtype=kind)
    covariances, _ = _quat_scale_to_covar_preci(rotations, scales, compute_preci=False)
    _, means, depths, conics, _ = _fully_fused_projection(
        positions,
        covariances,
        torch.linalg.inv(pose)[None],
        torch.as_tensor(np.asarray(intrinsics), dtype=kind)[None],
        width,
        height,
    )
    degree = round(harmonics.shape[1] ** 0.5) - 1
    colors = torch.clamp_min(_spherical_harmonics(degree, positions - pose[:3, 3], harmonics) + 0.5, 0)
    means, depths, conics = means[0], depths[0], conics[0]
    order = torch.argsort(depths)
    order = order[depths[order] > 0.01]
    y, x = torch.meshgrid(torch.arange(height, dtype=kind), torch.arange(width, dtype=kind), indexing="ij")
    dx = x.reshape(1, -1) + 0.5 - means[order, 0:1]
    dy = y.reshape(1, -1) + 0.5 - means[order, 1:2]
    a, b, c = (conics[order, i : i + 1] for i in range(3))
    s = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = torch.clamp_max(opacities[order, None] * torch.exp(-s), 0.999)
    alpha = torch.where((alpha >= 1 / 255) & (s >= 0), alpha, torch.zeros_like(alpha))
    # A pixel ends before the Gaussian that brings its transmittance to 1e-4 or less.
    ended = torch.cumprod(1 - alpha.detach(), dim=0) <= 1e-4
    alpha = torch.where(ended, torch.zeros_like(alpha), alpha)
    behind = torch.cumprod(1 - alpha, dim=0)
    ahead = torch.cat([torch.ones_like(behind[:1]), behind[:-1]])
    color = torch.einsum("gp,gc->cp", alpha * ahead, colors[order])
    left = behind[-1] if len(order) else torch.ones(width * height, dtype=kind)
    color = color + left * torch.as_tensor(np.asarray(background), dtype=kind)[:, None]
    return torch.cat([color, 1 - left[None]]).reshape(4, height, width)
