"""Soft edges: sub-pixel alpha in a thin band around a mask, and object colours free of background."""

import cv2
import numpy as np


def flatten(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) over white -> (H, W, 3); for engines that look at colours only."""
    return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])


def soft_alpha(rgb: np.ndarray, mask: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) alpha: 1 and 0 away from the mask's edge, solved within `radius` pixels of it.

    There a pixel is a mixture a F + (1 - a) B of the nearby sure object and sure background colours
    (means around it); a is the place on the line between them. Where the two colours are too alike the
    blurred mask itself decides.
    """
    solid = mask.astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    sure_in = cv2.erode(solid, kernel, borderType=cv2.BORDER_REPLICATE)
    sure_out = 1 - cv2.dilate(solid, kernel)
    inside, trust_in = local_mean(rgb, sure_in.astype(np.float32), 1.5 * radius)
    outside, trust_out = local_mean(rgb, sure_out.astype(np.float32), 1.5 * radius)
    line = inside - outside
    squared = (line**2).sum(axis=2)
    mixed = ((rgb - outside) * line).sum(axis=2) / np.maximum(squared, 1e-6)
    blurred = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 0.5 * radius)
    # Never far from the mask: the colour only moves the edge within the band.
    prior = np.clip((blurred - 0.5) * 2 + 0.5, 0, 1)
    trust = np.clip((squared - 0.005) / 0.03, 0, 1) * np.minimum(trust_in, trust_out)
    alpha = trust * np.clip(mixed, 0, 1) + (1 - trust) * prior
    alpha = np.clip((alpha - 0.08) / 0.84, 0, 1)
    alpha[sure_in > 0], alpha[sure_out > 0] = 1, 0
    # Thin parts have no sure inside; they keep the mask.
    alpha = np.where(trust_in < 1e-3, np.maximum(alpha, solid), alpha)
    return alpha.astype(np.float32)


def clean_edges(rgb: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Sharpen a network's blurry mask (H, W) along the picture's edges: guided filter (He 2010), contrast.

    Wide haze that is far from anything the network is sure of is removed first; thin parts may be faint.
    """
    radius = max(2, round(max(soft.shape) / 160))
    sure = cv2.dilate((soft > 0.8).astype(np.uint8), np.ones((4 * radius + 1,) * 2, np.uint8))
    faint = ((soft > 0.2) & (sure == 0)).astype(np.uint8)
    haze = cv2.morphologyEx(faint, cv2.MORPH_OPEN, np.ones((4 * radius + 1,) * 2, np.uint8))
    haze = cv2.dilate(haze, np.ones((4 * radius + 1,) * 2, np.uint8)) & faint
    soft = soft * (1 - cv2.blur(haze.astype(np.float32), (2 * radius + 1,) * 2))
    guide = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)
    window = (2 * radius + 1,) * 2
    mean_i, mean_p = cv2.blur(guide, window), cv2.blur(soft, window)
    covariance = cv2.blur(guide * soft, window) - mean_i * mean_p
    variance = cv2.blur(guide * guide, window) - mean_i**2
    a = covariance / (variance + 1e-4)
    b = mean_p - a * mean_i
    refined = cv2.blur(a, window) * guide + cv2.blur(b, window)
    return np.clip((refined - 0.5) * 2.0 + 0.5, 0, 1).astype(np.float32)


def object_box(alpha: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of alpha > 0 with a margin: the part of a large picture that needs work."""
    rows, columns = np.flatnonzero((alpha > 0).any(axis=1)), np.flatnonzero((alpha > 0).any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def object_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3): where alpha is partial, the colour of the solid object beside it: no background halo."""
    result = rgb.astype(np.float32)
    box = object_box(alpha, 8)
    if alpha[box].size:
        result[box] = _object_colours(result[box], alpha[box])
    return result


def _object_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    solid = cv2.erode((alpha > 0.97).astype(np.float32), np.ones((3, 3), np.uint8))
    nearby, trust = local_mean(rgb, solid, max(2.0, max(alpha.shape) / 300))
    keep = np.clip((alpha - 0.9) / 0.1, 0, 1)
    keep = np.maximum(keep, 1 - np.clip(trust * 50, 0, 1))[..., None]
    return (keep * rgb + (1 - keep) * nearby).astype(np.float32)


def local_mean(rgb: np.ndarray, weight: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian mean (H, W, 3) of the weighted pixels around each, and the share (H, W) it rests on."""
    share = cv2.GaussianBlur(weight, (0, 0), sigma)
    sums = cv2.GaussianBlur(rgb * weight[..., None], (0, 0), sigma)
    return sums / np.maximum(share, 1e-6)[..., None], np.clip(share * 20, 0, 1)
