"""The vectors that tell a net what it makes: sinusoids of numbers, in the order of each published model."""

import math
from collections.abc import Sequence

import torch

WIDTH = 256
"""Of the sinusoid of one number; SV3D's angles have 512."""


def sinusoid(values: torch.Tensor, width: int = WIDTH) -> torch.Tensor:
    """[N] -> [N, width] float32: cosines, then sines, of falling frequencies 10000^(-i / (width // 2)).

    An odd width ends in a column of zeros.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = values.float()[:, None] * frequencies.to(values.device)
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(table, (0, width - 2 * half))


def numbers(values: Sequence[float], width: int = WIDTH) -> torch.Tensor:
    """[1, len(values) * width]: the sinusoids of several numbers, one after another."""
    return sinusoid(torch.tensor(values, dtype=torch.float32), width).reshape(1, -1)


def svd_vector(fps: float, motion: float, cond_aug: float) -> torch.Tensor:
    """[1, 768] of SVD and V3D: frames a second, motion bucket, noise on the condition."""
    return numbers([fps, motion, cond_aug])


def aesthetic_vector(score: float) -> torch.Tensor:
    """[1, 256] of Hi3D's first stage: the score itself, then a sinusoid, 255 wide, of a hundred times it."""
    first = torch.tensor([[score]], dtype=torch.float32)
    return torch.cat([first, sinusoid(first[0] * 100, WIDTH - 1)], dim=1)


def hi3d_first_vector(aesthetic: float, elevation_degrees: float, cond_aug: float) -> torch.Tensor:
    """[1, 768] of Hi3D's first stage; the elevation is in degrees, positive looks down."""
    return torch.cat([aesthetic_vector(aesthetic), numbers([elevation_degrees, cond_aug])], dim=1)


def hi3d_second_vector(elevation_degrees: float, cond_aug: float) -> torch.Tensor:
    """[1, 512] of Hi3D's second stage."""
    return numbers([elevation_degrees, cond_aug])


def sv3d_u_vector(cond_aug: float) -> torch.Tensor:
    """[1, 256]."""
    return numbers([cond_aug])


def sv3d_p_vector(
    cond_aug: float, elevations_degrees: Sequence[float], azimuths_degrees: Sequence[float]
) -> torch.Tensor:
    """[T, 1280], a row a frame: noise on the condition, polar angle from the top, azimuth, in radians."""
    polar = torch.tensor([math.radians(90 - e) for e in elevations_degrees])
    azimuth = torch.tensor([math.radians(a % 360) for a in azimuths_degrees])
    parts = [
        sinusoid(torch.full((len(polar),), float(cond_aug))),
        sinusoid(polar, 2 * WIDTH),
        sinusoid(azimuth, 2 * WIDTH),
    ]
    return torch.cat(parts, dim=1)
