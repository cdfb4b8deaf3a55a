"""Soft edges: alpha that follows the picture's edges."""

import cv2
import numpy as np


def flatten(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) over white -> (H, W, 3); for engines that look at colours only."""
    return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])


def clean_edges(rgb: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Sharpen a blurry mask (H, W) along the picture's edges: guided filter (He 2010), then contrast."""
    radius = max(2, round(max(soft.shape) / 160))
    guide = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)
    window = (2 * radius + 1,) * 2
    mean_i, mean_p = cv2.blur(guide, window), cv2.blur(soft, window)
    covariance = cv2.blur(guide * soft, window) - mean_i * mean_p
    variance = cv2.blur(guide * guide, window) - mean_i**2
    a = covariance / (variance + 1e-4)
    b = mean_p - a * mean_i
    refined = cv2.blur(a, window) * guide + cv2.blur(b, window)
    return np.clip((refined - 0.5) * 2.0 + 0.5, 0, 1).astype(np.float32)
