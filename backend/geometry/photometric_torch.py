"""Errors between pictures in torch, for fits on a GPU; `photometric.py` has them for the CPU."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def ssim(x: "torch.Tensor", y: "torch.Tensor") -> "torch.Tensor":
    """SSIM (3, H, W) of (3, H, W) pictures; 11x11 Gaussian window, sigma 1.5, zeros beyond the border."""
    import torch

    offsets = torch.arange(11, dtype=x.dtype, device=x.device) - 5
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    stack = torch.cat([x, y, x * x, y * y, x * y])[:, None]
    blurred = torch.nn.functional.conv2d(stack, window.view(1, 1, 1, 11), padding=(0, 5))
    blurred = torch.nn.functional.conv2d(blurred, window.view(1, 1, 11, 1), padding=(5, 0))
    mean_x, mean_y, xx, yy, xy = blurred[:, 0].split(len(x))
    c1, c2 = 0.01**2, 0.03**2
    covariance = xy - mean_x * mean_y
    variances = xx + yy - mean_x**2 - mean_y**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return top / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
