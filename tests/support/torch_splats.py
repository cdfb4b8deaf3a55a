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
    tile: int | None = None,
) -> torch.Tensor:
    """(4, H, W): R, G, B over the background, alpha. Differentiable in the first five arguments."""
    kind = positions.dtype
    pose = torch.as_tensor(np.asarray(world_from_camera), dtype=kind)
    covariances, _ = _quat_scale_to_covar_preci(rotations, scales, compute_preci=False)
    radii, means, depths, conics, _ = _fully_fused_projection(
        positions,
        covariances,
        torch.linalg.inv(pose)[None],
        torch.as_tensor(np.asarray(intrinsics), dtype=kind)[None],
        width,
        height,
    )
    degree = round(harmonics.shape[1] ** 0.5) - 1
    colors = torch.clamp_min(_spherical_harmonics(degree, positions - pose[:3, 3], harmonics) + 0.5, 0)
    radii, means, depths, conics = radii[0], means[0], depths[0].detach(), conics[0]
    order = torch.argsort(depths)
    order = order[depths[order] > 0.01]
    background = torch.as_tensor(np.asarray(background), dtype=kind)
    if tile is None:
        return _composite(order, means, conics, colors, opacities, (0, 0, width, height), background)
    rows = []
    for top in range(0, height, tile):
        row = []
        for left in range(0, width, tile):
            right, bottom = min(left + tile, width), min(top + tile, height)
            x, y = means.detach()[order].T
            reach_x, reach_y = radii[order].T
            hit = (x + reach_x > left) & (x - reach_x < right) & (y + reach_y > top) & (y - reach_y < bottom)
            box = (left, top, right, bottom)
            row.append(_composite(order[hit], means, conics, colors, opacities, box, background))
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1)


def _composite(order, means, conics, colors, opacities, box, background) -> torch.Tensor:
    """Gaussians `order` (near to far) blended in the pixels of box (left, top, right, bottom): (4, h, w)."""
    left, top, right, bottom = box
    kind = means.dtype
    y, x = torch.meshgrid(
        torch.arange(top, bottom, dtype=kind), torch.arange(left, right, dtype=kind), indexing="ij"
    )
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
    remains = behind[-1] if len(order) else torch.ones(x.numel(), dtype=kind)
    color = color + remains * background[:, None]
    return torch.cat([color, 1 - remains[None]]).reshape(4, bottom - top, right - left)
