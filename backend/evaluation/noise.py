"""Views that do not quite agree, as generated ones do: what the protocols call "noise 1" and "noise 2".

Each view on its own, at level k: a smooth random warp of k pixels (standard deviation), 0.3 k % of scale and
0.5 k px of shift, 2 k % of gain in each channel. The lengths are of pictures of 512 px and scale with them.
"""

import zlib

import cv2
import numpy as np

WARP, SHIFT, SCALE, GAIN = 1.0, 0.5, 0.003, 0.02
"""Standard deviations at level 1: pixels, pixels, share, share."""
SMOOTHNESS = 40.0
"""Pixels: standard deviation of the Gaussian that makes white noise a warp."""
_STATED = 512


def disagreeing(rgba: np.ndarray, level: float, seed: int, name: str) -> np.ndarray:
    """The views (N, H, W, 4), straight alpha 0..1, each disturbed by itself; the same for the same arguments.

    Resampled once, on premultiplied colour. Level 0 returns the views as they are.
    """
    if not level:
        return rgba
    return np.stack(
        [
            _disturbed(view, level, np.random.default_rng([seed, zlib.crc32(name.encode()), number]))
            for number, view in enumerate(rgba)
        ]
    )


def _disturbed(view: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    height, width = view.shape[:2]
    unit = level * width / _STATED
    warp = [smooth_field(height, width, generator) * unit * WARP for _ in range(2)]
    scale = 1 + level * SCALE * generator.normal()
    shift = unit * SHIFT * generator.normal(size=2)
    gain = 1 + level * GAIN * generator.normal(size=3)
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = (column - middle_x) * scale + middle_x + shift[0] + warp[0]
    y = (row - middle_y) * scale + middle_y + shift[1] + warp[1]
    premultiplied = np.dstack([view[..., :3] * view[..., 3:], view[..., 3]]).astype(np.float32)
    moved = cv2.remap(premultiplied, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    alpha = moved[..., 3:]
    colour = moved[..., :3] / np.maximum(alpha, 1e-6) * gain
    return np.clip(np.dstack([colour, alpha]), 0, 1).astype(np.float32)


def smooth_field(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """(H, W) float64 of mean about 0 and standard deviation 1, smooth over SMOOTHNESS pixels (of 512)."""
    white = generator.normal(size=(height, width))
    field = cv2.GaussianBlur(white, (0, 0), SMOOTHNESS * width / _STATED)
    return field / field.std()
