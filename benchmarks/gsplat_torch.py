"""GSplat's plain torch code, made to run without CUDA: the anchor of the rasteriser's benchmark.

`gsplat.cuda._torch_impl` holds projection, harmonics and compositing in torch, but the last asks a CUDA
kernel which Gaussian meets which pixel, and the nerfacc package for sums along rays. Here these two are
put in their place: a serial compiled loop for the first (and for the lists of tiles, which GSplat makes
in a Python loop), torch's segment operations for the second. Everything else is GSplat's, called as it is.
"""

import sys
import types

import numpy as np
import torch
from gsplat.cuda import _torch_impl, _wrapper

from backend.geometry.jit import kernel

_TILE = 16
_f = np.float32


def render(
    tensors: list[torch.Tensor], world_from_camera: np.ndarray, intrinsics: np.ndarray, size: int
) -> torch.Tensor:
    """(size, size, 4) R, G, B on white and alpha, with its graph.

    tensors: positions, scales, rotations, opacities, harmonics as in `Gaussians`, float32.
    """
    _put_in_place()
    means, conics, colors, opacities, offsets, ids = _projected(tensors, world_from_camera, intrinsics, size)
    tiles = -(-size // _TILE)
    color, alpha = _torch_impl._rasterize_to_pixels(
        means, conics, colors[None], opacities[None], size, size, _TILE,
        torch.from_numpy(offsets).reshape(1, tiles, tiles), torch.from_numpy(ids), torch.ones(1, 3),
    )  # fmt: skip
    return torch.cat([color[0], alpha[0]], dim=2)


def blended_pairs(
    arrays: list[np.ndarray], world_from_camera: np.ndarray, intrinsics: np.ndarray, size: int
) -> int:
    """How many (Gaussian, pixel) pairs have a weight in the picture."""
    with torch.no_grad():
        tensors = [torch.tensor(array, dtype=torch.float32) for array in arrays]
        means, conics, _, opacities, offsets, ids = _projected(tensors, world_from_camera, intrinsics, size)
    return len(_pairs(means[0].numpy(), conics[0].numpy(), opacities.numpy(), size, offsets, ids)[0])


def _projected(tensors, world_from_camera, intrinsics, size) -> tuple:
    positions, scales, rotations, opacities, harmonics = tensors
    view = torch.tensor(np.linalg.inv(world_from_camera), dtype=torch.float32)
    covariances, _ = _torch_impl._quat_scale_to_covar_preci(rotations, scales, compute_preci=False)
    radii, means, depths, conics, _ = _torch_impl._fully_fused_projection(
        positions, covariances, view[None], torch.tensor(intrinsics, dtype=torch.float32)[None], size, size
    )
    center = torch.tensor(world_from_camera[:3, 3], dtype=torch.float32)
    degree = round(harmonics.shape[1] ** 0.5) - 1
    colors = torch.clamp_min(_torch_impl._spherical_harmonics(degree, positions - center, harmonics) + 0.5, 0)
    tiles = -(-size // _TILE)
    order = torch.argsort(depths[0].detach()).numpy()
    offsets, ids = _tile_lists(order, means[0].detach().numpy(), radii[0].numpy(), tiles)
    return means, conics, colors, opacities, offsets, ids


@kernel
def _tile_lists(order, means, radii, tiles):
    """Gaussians of every tile, near to far: first entry of each tile (tiles^2,), and all entries."""
    counts = np.zeros(tiles * tiles + 1, dtype=np.int32)
    fill = counts
    ids = np.empty(0, dtype=np.int32)
    for filling in range(2):
        for i in order:
            if radii[i, 0] <= 0 or radii[i, 1] <= 0:
                continue
            left = min(max(int(np.floor((means[i, 0] - radii[i, 0]) / _TILE)), 0), tiles)
            right = min(max(int(np.ceil((means[i, 0] + radii[i, 0]) / _TILE)), 0), tiles)
            top = min(max(int(np.floor((means[i, 1] - radii[i, 1]) / _TILE)), 0), tiles)
            bottom = min(max(int(np.ceil((means[i, 1] + radii[i, 1]) / _TILE)), 0), tiles)
            for y in range(top, bottom):
                for x in range(left, right):
                    tile = y * tiles + x
                    if filling:
                        ids[fill[tile]] = i
                        fill[tile] += 1
                    else:
                        counts[tile + 1] += 1
        if not filling:
            for tile in range(tiles * tiles):
                counts[tile + 1] += counts[tile]
            ids = np.empty(counts[-1], dtype=np.int32)
            fill = counts.copy()
    return counts[:-1], ids


@kernel
def _pairs(means, conics, opacities, size, offsets, ids):
    """Gaussian and pixel of every blended pair, pixel by pixel, near to far: two (pairs,) int64."""
    tiles = -(-size // _TILE)
    capacity = 1 << 22
    gaussians, pixels = np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int64)
    count = 0
    for y in range(size):
        for x in range(size):
            tile = (y // _TILE) * tiles + x // _TILE
            last = offsets[tile + 1] if tile + 1 < tiles * tiles else len(ids)
            transmittance = _f(1)
            for k in range(offsets[tile], last):
                i = ids[k]
                dx, dy = _f(x) + _f(0.5) - means[i, 0], _f(y) + _f(0.5) - means[i, 1]
                s = _f(0.5) * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) + conics[i, 1] * dx * dy
                alpha = min(_f(0.999), opacities[i] * np.exp(-s))
                if s < _f(0) or alpha < _f(1 / 255):
                    continue
                transmittance *= _f(1) - alpha
                if transmittance <= _f(1e-4):
                    break
                if count == capacity:
                    capacity *= 2
                    more = np.empty(capacity, dtype=np.int64)
                    more[:count] = gaussians
                    gaussians = more
                    more = np.empty(capacity, dtype=np.int64)
                    more[:count] = pixels
                    pixels = more
                gaussians[count], pixels[count] = i, y * size + x
                count += 1
    return gaussians[:count], pixels[:count]


def _indices(
    start, stop, transmittances, means, conics, opacities, width, height, tile_size, offsets, ids
):  # fmt: skip
    """In place of `rasterize_to_indices_in_range`: one camera, all Gaussians at once."""
    gaussians, pixels = _pairs(
        means[0].detach().numpy(), conics[0].detach().numpy(), opacities[0].detach().numpy(),
        width, offsets.flatten().numpy(), ids.numpy(),
    )  # fmt: skip
    gaussians = torch.from_numpy(gaussians)
    return gaussians, torch.from_numpy(pixels), torch.zeros_like(gaussians)


def _weights(alphas: torch.Tensor, *, ray_indices: torch.Tensor, n_rays: int) -> tuple[torch.Tensor, ...]:
    """In place of nerfacc's: weight and transmittance of each sample, rays one after another."""
    logs = torch.log1p(-alphas.double())
    sums = torch.cumsum(logs, 0) - logs
    first = torch.ones_like(ray_indices, dtype=torch.bool)
    first[1:] = ray_indices[1:] != ray_indices[:-1]
    runs = torch.cumsum(first, 0) - 1
    transmittance = torch.exp(sums - sums[first][runs]).float()
    return alphas * transmittance, transmittance


def _along_rays(
    weights: torch.Tensor, values: torch.Tensor | None, *, ray_indices: torch.Tensor, n_rays: int
) -> torch.Tensor:
    """In place of nerfacc's: sums of weight times value along rays, (n_rays, channels)."""
    samples = weights[:, None] if values is None else weights[:, None] * values
    return weights.new_zeros(n_rays, samples.shape[1]).index_add_(0, ray_indices, samples)


def _put_in_place() -> None:
    nerfacc = types.ModuleType("nerfacc")
    nerfacc.render_weight_from_alpha, nerfacc.accumulate_along_rays = _weights, _along_rays
    sys.modules["nerfacc"] = nerfacc
    _wrapper.rasterize_to_indices_in_range = _indices
