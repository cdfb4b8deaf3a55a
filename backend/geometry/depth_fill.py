"""Depth where matching found none: carried in from confirmed depths around, along smooth pictures.

A patch without texture on a wall is seen by every camera and matched by none, so a carve would leave it
standing proud of the wall by what the hull adds there. What is carried across is how far behind the hull
the surface lies, so that nothing found around means the hull itself; it obeys Laplace's equation with
weights that fall across edges of the picture (Perez 2003; Levin 2004 for the weights), and is zero at the
outline, where a hull touches the object.
"""

import numpy as np

from backend.geometry.jit import kernel

_EDGE_FALL = np.float32(10.0)
"""Weight between neighbours: exp(-this times the difference of grey, 0..1)."""
_RIM = 1.5
_SWEEPS, _OVER = 160, np.float32(1.85)


@kernel
def _relax(gray, state, behind, support, sweeps, over):
    """Gauss-Seidel with over-relaxation in a fixed order, both fields at once; state 1 is unknown."""
    height, width = gray.shape
    across = np.zeros((height, width, 2), dtype=np.float32)
    for i in range(height - 1):
        for j in range(width - 1):
            across[i, j, 0] = np.exp(-_EDGE_FALL * abs(gray[i, j + 1] - gray[i, j]))
            across[i, j, 1] = np.exp(-_EDGE_FALL * abs(gray[i + 1, j] - gray[i, j]))
    for _ in range(sweeps):
        for i in range(1, height - 1):
            for j in range(1, width - 1):
                if state[i, j] != 1:
                    continue
                total, mean, known = np.float32(1e-6), np.float32(0.0), np.float32(0.0)
                if state[i, j + 1] > 0:
                    weight = across[i, j, 0]
                    total, mean = total + weight, mean + weight * behind[i, j + 1]
                    known += weight * support[i, j + 1]
                if state[i, j - 1] > 0:
                    weight = across[i, j - 1, 0]
                    total, mean = total + weight, mean + weight * behind[i, j - 1]
                    known += weight * support[i, j - 1]
                if state[i + 1, j] > 0:
                    weight = across[i, j, 1]
                    total, mean = total + weight, mean + weight * behind[i + 1, j]
                    known += weight * support[i + 1, j]
                if state[i - 1, j] > 0:
                    weight = across[i - 1, j, 1]
                    total, mean = total + weight, mean + weight * behind[i - 1, j]
                    known += weight * support[i - 1, j]
                behind[i, j] += over * (mean / total - behind[i, j])
                support[i, j] += over * (known / total - support[i, j])


def fill_depth(
    depth: np.ndarray, hull: np.ndarray, gray: np.ndarray, distance: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (h, w) float32 metres everywhere inside the hull, and how far each value is supported, 0..1.

    depth     (h, w) float32 metres, 0 = unknown
    hull      (h, w) float32 metres: where the ray enters the hull, 0 outside
    gray      (h, w) float32 0..1; distance (h, w) float32: pixels to the mask's edge, > 0 inside
    floor     metres: a depth that lies no further behind the hull is taken for the hull's
    Support is the chance that a walk from the pixel, drawn along the weights, meets a known depth before
    the outline.
    """
    inside = (hull > 0) & (distance > 0)
    known = inside & (depth > 0)
    rim = inside & (distance < _RIM) & ~known
    state = np.where(known | rim, np.uint8(2), inside.astype(np.uint8))
    behind = np.where(known, np.clip(depth - hull, 0, None), 0).astype(np.float32)
    t = np.clip(behind / np.float32(floor) - 1, 0, 1)
    behind *= t * t * (3 - 2 * t)
    support = known.astype(np.float32)
    _relax(np.ascontiguousarray(gray), state, behind, support, _SWEEPS, _OVER)
    filled = np.where(known, depth, np.where(inside, hull + np.clip(behind, 0, None), 0))
    return filled.astype(np.float32), np.clip(support, 0, 1)
