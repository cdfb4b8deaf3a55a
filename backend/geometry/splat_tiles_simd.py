"""Loops of `splat_tiles` with explicit vector registers: same kernels, same arguments, same hits.

The reach of an ellipse in eight columns of pixels is sixteen numbers, eight last rows and eight first ones.
"""

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.simd import constant, larger, root, smaller, where
from backend.geometry.simd_moves import aligned, load, prefetch, rows_of_columns, store, store_whole
from backend.geometry.splat_projection import SCREEN, SCREEN_GRADIENT
from backend.geometry.splat_tiles import BLOCKS, LOCAL, SLACK, TILE_HEIGHT

_u = np.uint64
_ZERO = np.float32(0)
# The lower eight lanes find the last row of each column, the upper eight the first.
_SIGN = constant([1.0] * 8 + [-1.0] * 8)
_LEFT = constant([4 * i + 0.5 for i in range(8)] * 2)
_RIGHT = constant([4 * i + 3.5 for i in range(8)] * 2)
_WHOLE_ROW = constant([float(SLACK) - 0.5] * 8 + [0.99 - float(SLACK) - 0.5] * 8)
"""From a height to a row, once truncated: pixel centres lie at +0.5."""
_BEYOND = constant([0.0] * 8 + [4.0] * 8)
_QUARTER, _NONE = np.float32(0.25), np.float32(-1)
_AHEAD = 8
"""Gaussians between the request for a row of `screen` and its use: they lie all over it."""


@kernel
def bin_band(first_pixel, tile_rows, ids, screen):
    """As `splat_tiles.bin_band`."""
    local = aligned(len(ids) * LOCAL).reshape(len(ids), LOCAL)
    starts = np.zeros(tile_rows + 1, dtype=np.int32)
    blocks = np.empty(16 * len(ids), dtype=np.int32)
    spans = np.empty((len(ids), 2), dtype=np.int32)
    most = 0
    left_edge = np.float32(first_pixel)
    highest = np.float32(tile_rows * TILE_HEIGHT - 1)
    for n in range(len(ids)):
        i = _u(ids[n])
        ahead = _u(ids[min(n + _AHEAD, len(ids) - 1)]) * _u(SCREEN)
        prefetch(screen, ahead)
        store(local, _u(n) * _u(LOCAL), load(screen, i * _u(SCREEN)))
        x, y, a, b = screen[i, 0] - left_edge, screen[i, 1], screen[i, 2], screen[i, 3]
        half_height, half_width, shear = screen[i, 9], screen[i, 11], screen[i, 13]
        spans[n, 0] = int(min(max(y - half_height, _ZERO), highest)) // TILE_HEIGHT
        spans[n, 1] = int(min(max(y + half_height, _ZERO), highest)) // TILE_HEIGHT
        most += spans[n, 1] - spans[n, 0] + 1
        flatness = screen[i, 14] / screen[i, 15]
        # The highest point lies at dx = top, the lowest at -top.
        top = _SIGN() * (-b / a * half_height)
        left, right = larger(_LEFT() - x, -half_width), smaller(_RIGHT() - x, half_width)
        at = smaller(larger(left, top), right)
        edge = _SIGN() * root(larger((half_width * half_width - at * at) * flatness, _ZERO)) - shear * at
        row = edge + (_WHOLE_ROW() + y)
        inside = (left <= right + SLACK) & (row >= _ZERO)
        store_whole(blocks, _u(16 * n), where(inside, smaller(row, _BEYOND() + highest) * _QUARTER, _NONE))
    # A loop of its own: a mispredicted branch is dear where it waits for a far load and roots.
    entries, tiles = np.empty(most + 1, dtype=np.int64), np.empty(most + 1, dtype=np.int32)
    count = _u(0)
    for n in range(len(ids)):
        for row in range(spans[n, 0], spans[n, 1] + 1):
            touched = rows_of_columns(blocks, _u(16 * n), 4 * row)
            # Written in any case, and written over where it is not one.
            entries[count], tiles[count] = n << BLOCKS | touched, row
            count += _u(touched != 0)
    for k in range(count):
        starts[_u(tiles[k]) + _u(1)] += 1
    for tile in range(tile_rows):
        starts[tile + 1] += starts[tile]
    # Filling moves each start to the next, and then all move back.
    hits = np.empty(count, dtype=np.int64)
    for k in range(count):
        tile = _u(tiles[k])
        hits[starts[tile]] = entries[k]
        starts[tile] += 1
    for tile in range(tile_rows, 0, -1):
        starts[tile] = starts[tile - 1]
    starts[0] = 0
    return local, starts, hits


@kernel
def gather_gradient(ids, grad_local, grad_screen):
    """As `splat_tiles.gather_gradient`."""
    for n in range(len(ids)):
        ahead = _u(ids[min(n + _AHEAD, len(ids) - 1)]) * _u(SCREEN_GRADIENT)
        prefetch(grad_screen, ahead)
        i = _u(ids[n]) * _u(SCREEN_GRADIENT)
        store(grad_screen, i, load(grad_screen, i) + load(grad_local, _u(n) * _u(LOCAL)))
