"""The hash grid's lookup and its gradient on the CPU, for float32 and two features.

A dozen torch operations a level, each through memory, cost some thirty times as much (measured:
115,000 points, a level: 0.3 CPU seconds against 0.01). `hash_grid.py` holds the plain twin.
"""

import numpy as np

from backend.geometry.jit import inline_kernel, kernel

PRIMES = (1, 2654435761, 805459861)
"""Instant-NGP, equation 4."""


@inline_kernel
def _corner(i, j, k, resolution, size):
    """Row of the level's table for a corner; `size` is a power of two where the level is hashed."""
    side = resolution + 1
    if side * side * side <= size:
        return i + side * (j + side * k)
    return (i ^ (j * 2654435761) ^ (k * 805459861)) & (size - 1)


@kernel
def look_up(points, table, first, sizes, resolutions, active, start, stop, features, slopes):
    """Points start..stop: features (P, 2 L) and, where `slopes` has rows, slopes (P, 2 L, 3).

    points (P, 3) float32 in 0..1; table (T, 2) float32; first, sizes, resolutions (L,) int64.
    """
    with_slopes = slopes.shape[0] > 0
    for p in range(start, stop):
        for level in range(active):
            resolution, size, base = resolutions[level], sizes[level], first[level]
            scale = np.float32(resolution)
            x = min(max(points[p, 0], np.float32(0)), np.float32(1)) * scale
            y = min(max(points[p, 1], np.float32(0)), np.float32(1)) * scale
            z = min(max(points[p, 2], np.float32(0)), np.float32(1)) * scale
            i, j, k = min(int(x), resolution - 1), min(int(y), resolution - 1), min(int(z), resolution - 1)
            a, b, c = x - np.float32(i), y - np.float32(j), z - np.float32(k)
            for corner in range(8):
                di, dj, dk = corner & 1, (corner >> 1) & 1, corner >> 2
                row = base + _corner(i + di, j + dj, k + dk, resolution, size)
                wx = a if di else np.float32(1) - a
                wy = b if dj else np.float32(1) - b
                wz = c if dk else np.float32(1) - c
                for f in range(2):
                    value = table[row, f]
                    features[p, 2 * level + f] += wx * wy * wz * value
                    if with_slopes:
                        value *= scale
                        slopes[p, 2 * level + f, 0] += (value if di else -value) * wy * wz
                        slopes[p, 2 * level + f, 1] += (value if dj else -value) * wx * wz
                        slopes[p, 2 * level + f, 2] += (value if dk else -value) * wx * wy


@kernel
def add_gradients(points, first, sizes, resolutions, level, d_features, d_slopes, d_table):
    """One level's part of the gradient to the table, added to d_table (T, 2)."""
    with_slopes = d_slopes.shape[0] > 0
    resolution, size, base = resolutions[level], sizes[level], first[level]
    scale = np.float32(resolution)
    for p in range(points.shape[0]):
        x = min(max(points[p, 0], np.float32(0)), np.float32(1)) * scale
        y = min(max(points[p, 1], np.float32(0)), np.float32(1)) * scale
        z = min(max(points[p, 2], np.float32(0)), np.float32(1)) * scale
        i, j, k = min(int(x), resolution - 1), min(int(y), resolution - 1), min(int(z), resolution - 1)
        a, b, c = x - np.float32(i), y - np.float32(j), z - np.float32(k)
        for corner in range(8):
            di, dj, dk = corner & 1, (corner >> 1) & 1, corner >> 2
            row = base + _corner(i + di, j + dj, k + dk, resolution, size)
            wx = a if di else np.float32(1) - a
            wy = b if dj else np.float32(1) - b
            wz = c if dk else np.float32(1) - c
            for f in range(2):
                total = d_features[p, 2 * level + f] * wx * wy * wz
                if with_slopes:
                    sx = d_slopes[p, 2 * level + f, 0] * wy * wz
                    sy = d_slopes[p, 2 * level + f, 1] * wx * wz
                    sz = d_slopes[p, 2 * level + f, 2] * wx * wy
                    total += scale * ((sx if di else -sx) + (sy if dj else -sy) + (sz if dk else -sz))
                d_table[row, f] += total
