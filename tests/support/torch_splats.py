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
    world_from_camera: np.ndarray | torch.Tensor,
    intrinsics: np.ndarray | torch.Tensor,
    width: int,
    height: int,
    background: np.ndarray,
    tile: int | None = None,
    *,
    depth: bool = False,
    antialiased: bool = False,
    tangent: torch.Tensor | None = None,
    order: np.ndarray | None = None,
) -> torch.Tensor:
    """(4, H, W): R, G, B over the background, alpha; with depth (5, H, W), the accumulated depth.

    Differentiable in the first seven arguments and in tangent (6,), a motion of the camera as
    `cameras.moved` makes it. order: indices near to far, where float32 depths are to decide ties.
    """
    kind = positions.dtype
    view = torch.linalg.inv(torch.as_tensor(world_from_camera, dtype=kind))
    if tangent is not None:
        view = motion(tangent) @ view
    projected = project(
        positions, scales, rotations, opacities, harmonics, view,
        torch.as_tensor(intrinsics, dtype=kind), width, height, antialiased,
    )  # fmt: skip
    background = torch.as_tensor(np.asarray(background), dtype=kind)
    return composite_all(projected, width, height, background, depth, tile, order)


def composite_all(projected, width, height, background, depth, tile=None, order=None) -> torch.Tensor:
    """What `project` gave -> (4 or 5, H, W) as `render`. tile: pixels a side, to save memory."""
    means, depths, conics, colors, opacities, radii = projected
    if depth:
        colors = torch.cat([colors, depths[:, None]], dim=1)
        background = torch.cat([background, torch.zeros(1, dtype=background.dtype)])
    order = near_to_far(depths) if order is None else torch.as_tensor(order, dtype=torch.int64)
    if tile is None:
        image = _composite(order, means, conics, colors, opacities, (0, 0, width, height), background)
    else:
        rows = [
            torch.cat(
                [
                    _composite(order[hit], means, conics, colors, opacities, box, background)
                    for box, hit in row
                ],
                dim=2,
            )
            for row in _boxes(means.detach()[order], radii[order], width, height, tile)
        ]
        image = torch.cat(rows, dim=1)
    return torch.cat([image[:3], image[-1:], image[3:-1]])


def near_to_far(depths: torch.Tensor) -> torch.Tensor:
    """Indices of the Gaussians in front of the camera."""
    order = torch.argsort(depths.detach())
    return order[depths[order] > 0.01]


def project(
    positions, scales, rotations, opacities, harmonics, view, intrinsics, width, height, antialiased
):  # fmt: skip
    """GSplat's: means (G, 2), depths, conics (G, 3), colours (G, 3), opacities as drawn, radii (G, 2)."""
    covariances, _ = _quat_scale_to_covar_preci(rotations, scales, compute_preci=False)
    radii, means, depths, conics, shrink = _fully_fused_projection(
        positions,
        covariances,
        view[None],
        intrinsics[None],
        width,
        height,
        calc_compensations=antialiased,
    )
    degree = round(harmonics.shape[1] ** 0.5) - 1
    directions = positions - torch.linalg.inv(view)[:3, 3]
    colors = torch.clamp_min(_spherical_harmonics(degree, directions, harmonics) + 0.5, 0)
    if antialiased:
        opacities = opacities * shrink[0]
    return means[0], depths[0], conics[0], colors, opacities, radii[0]


def motion(tangent: torch.Tensor) -> torch.Tensor:
    """(6,) rotation vector and translation -> (4, 4): p goes to exp(rotation) p + translation."""
    x, y, z = tangent[:3]
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    top = torch.cat([torch.linalg.matrix_exp(skew), tangent[3:, None]], dim=1)
    return torch.cat([top, torch.tensor([[0.0, 0, 0, 1]], dtype=tangent.dtype)])


def _boxes(means, radii, width, height, tile):
    """Rows of (box (left, top, right, bottom), which Gaussians reach it)."""
    x, y = means.T
    reach_x, reach_y = radii.T
    for top in range(0, height, tile):
        row = []
        for left in range(0, width, tile):
            right, bottom = min(left + tile, width), min(top + tile, height)
            hit = (x + reach_x > left) & (x - reach_x < right) & (y + reach_y > top) & (y - reach_y < bottom)
            row.append(((left, top, right, bottom), hit))
        yield row


def alphas(order, means, conics, opacities, box) -> torch.Tensor:
    """(G, P): alpha of Gaussians `order` (near to far) in the pixels of a box, 0 where not blended."""
    alpha = _raw_alphas(order, means, conics, opacities, box)
    alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
    # A pixel ends before the Gaussian that brings its transmittance to 1e-4 or less.
    ended = torch.cumprod(1 - alpha.detach(), dim=0) <= 1e-4
    return torch.where(ended, torch.zeros_like(alpha), alpha)


def _raw_alphas(order, means, conics, opacities, box) -> torch.Tensor:
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
    return torch.where(s >= 0, alpha, torch.zeros_like(alpha))


def near_a_threshold(
    positions, scales, rotations, opacities, harmonics, world_from_camera, intrinsics, width, height, tile,
    within,
):  # fmt: skip
    """(H, W) bool numpy: pixels where a pair may be blended or not if each alpha is off by a share.

    Near 1/255, near the clamp at 0.999, or with a transmittance near 1e-4: that one is off by the sum of
    alpha / (1 - alpha) times the share.
    """
    kind = positions.dtype
    view = torch.linalg.inv(torch.as_tensor(world_from_camera, dtype=kind))
    means, depths, conics, _, drawn, radii = project(
        positions, scales, rotations, opacities, harmonics, view,
        torch.as_tensor(intrinsics, dtype=kind), width, height, False,
    )  # fmt: skip
    order = near_to_far(depths)
    unsure = torch.zeros((height, width), dtype=torch.bool)
    for row in _boxes(means[order], radii[order], width, height, tile):
        for (left, top, right, bottom), hit in row:
            alpha = _raw_alphas(order[hit], means, conics, drawn, (left, top, right, bottom))
            close = ((alpha * 255 - 1).abs() < within) | ((alpha / 0.999 - 1).abs() < within) & (
                alpha < 0.999
            )
            alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
            passed, doubt = torch.cumprod(1 - alpha, dim=0), torch.cumsum(alpha / (1 - alpha), dim=0)
            close |= (passed * 1e4).log().abs() < within * doubt
            unsure[top:bottom, left:right] = close.any(dim=0).reshape(bottom - top, right - left)
    return unsure.numpy()


def _composite(order, means, conics, colors, opacities, box, background) -> torch.Tensor:
    """Gaussians `order` (near to far) blended in the pixels of a box: (channels + 1, h, w), alpha last."""
    left, top, right, bottom = box
    alpha = alphas(order, means, conics, opacities, box)
    behind = torch.cumprod(1 - alpha, dim=0)
    ahead = torch.cat([torch.ones_like(behind[:1]), behind[:-1]])
    color = torch.einsum("gp,gc->cp", alpha * ahead, colors[order])
    remains = behind[-1] if len(order) else torch.ones(alpha.shape[1], dtype=means.dtype)
    color = color + remains * background[:, None]
    return torch.cat([color, 1 - remains[None]]).reshape(-1, bottom - top, right - left)
