"""Pictures with alpha: resampling that never mixes in what lies under alpha 0."""

import cv2
import numpy as np


def resize_rgba(rgba: np.ndarray, size: int) -> np.ndarray:
    """(H, H, 4) float32, straight alpha -> (size, size, 4): averaged when shrinking, cubic when enlarging.

    Colours are weighted by alpha, and stay defined beyond the silhouette.
    """
    if rgba.shape[:2] == (size, size):
        return rgba
    if size > rgba.shape[0]:
        spread = np.dstack([bleed(rgba[..., :3], rgba[..., 3]), rgba[..., 3]])
        return np.clip(cv2.resize(spread, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    plain = cv2.resize(rgba, (size, size), interpolation=cv2.INTER_AREA)
    weighted = cv2.resize(rgba[..., :3] * rgba[..., 3:], (size, size), interpolation=cv2.INTER_AREA)
    alpha = plain[..., 3:]
    colour = np.where(alpha > 1 / 255, weighted / np.maximum(alpha, 1 / 255), plain[..., :3])
    return np.clip(np.dstack([colour, alpha]), 0, 1).astype(np.float32)


def bleed(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) carried outward from where alpha (H, W) is high to where it is 0.

    Push-pull: means over ever larger cells, taken from the finest that has any weight.
    """
    levels = [(colour * alpha[..., None], alpha)]
    while min(levels[-1][1].shape) > 1:
        sums, weights = levels[-1]
        half = (max(1, sums.shape[1] // 2), max(1, sums.shape[0] // 2))
        levels.append(
            (cv2.resize(sums, half, interpolation=cv2.INTER_AREA),
             cv2.resize(weights, half, interpolation=cv2.INTER_AREA))
        )  # fmt: skip
    sums, weights = levels[-1]
    filled = sums.reshape(*weights.shape, 3) / np.maximum(weights, 1e-6)[..., None]
    for sums, weights in reversed(levels[:-1]):
        coarse = cv2.resize(filled, weights.shape[::-1], interpolation=cv2.INTER_LINEAR)
        share = np.clip(weights * 4, 0, 1)[..., None]
        filled = share * sums / np.maximum(weights, 1e-6)[..., None] + (1 - share) * coarse.reshape(
            sums.shape
        )
    solid = np.clip(alpha * 4, 0, 1)[..., None]
    return np.clip(solid * colour + (1 - solid) * filled, 0, 1).astype(np.float32)
