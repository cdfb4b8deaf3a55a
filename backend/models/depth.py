"""Hi3D's depth condition: a depth net's picture, folded into nine channels at the latents' size.

Chapter 3.3 of the paper and its released embedder: the depth net sees the picture at 1/2.6666 of its size,
down to a multiple of 32; its answer is scaled to three times the latents' size and to 0..1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

SHUFFLE = 3
CHANNELS = SHUFFLE**2
SHRINK = 2.6666
MULTIPLE = 32
LATENT = 8


def depth_size(pixels: int) -> int:
    """Edge at which the depth net sees pictures of this edge: 1024 -> 384, 512 -> 192."""
    return int(pixels / SHRINK / MULTIPLE) * MULTIPLE


def depth_condition(pictures: torch.Tensor, net: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """[T, 3, H, W] in [-1, 1] -> [T, 9, H/8, W/8]; net: [T, 3, h, w] -> [T, h, w], larger is nearer."""
    height, width = pictures.shape[2:]
    small = F.interpolate(pictures, (depth_size(height), depth_size(width)), mode="bilinear")
    depth = net(small)[:, None]
    depth = F.interpolate(depth, (height // LATENT * SHUFFLE, width // LATENT * SHUFFLE), mode="bilinear")
    depth = depth - depth.amin(dim=(1, 2, 3), keepdim=True)
    depth = depth / depth.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return F.pixel_unshuffle(depth, SHUFFLE)
