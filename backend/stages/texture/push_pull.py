"""Smooth filling of holes in pictures: the push-pull pyramid (Gortler et al. 1996, The Lumigraph, 3.4)."""

import cv2
import numpy as np


def push_pull(colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill `colors` (H, W, C) float32 where `weight` (H, W) float32 0..1 is below one.

    Pixels of weight 1 keep their colour, weight 0 takes a smooth blend of the pixels around, weights
    between mix the two. All weights zero gives zeros.
    """
    height, width = weight.shape
    if height == 1 and width == 1:
        return np.where(weight[..., None] > 0, colors, 0).astype(np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    channels = colors.shape[2]
    padded = np.zeros((2 * half[1], 2 * half[0], channels + 1), dtype=np.float32)
    np.multiply(colors, weight[..., None], out=padded[:height, :width, :channels])
    padded[:height, :width, channels] = weight
    small = cv2.resize(padded, half, interpolation=cv2.INTER_AREA)
    del padded  # pictures are large, and several are filled at a time
    small = small.reshape(half[1], half[0], -1)
    small *= 4
    total = small[..., -1]
    means = small[..., :-1] / np.maximum(total, 1e-8)[..., None]
    coarse = push_pull(means, np.minimum(total, 1))
    smooth = cv2.resize(coarse, (2 * half[0], 2 * half[1]), interpolation=cv2.INTER_LINEAR)
    smooth = smooth.reshape(2 * half[1], 2 * half[0], -1)[:height, :width]
    smooth *= (1 - weight)[..., None]
    filled = colors * weight[..., None]
    filled += smooth
    return filled
