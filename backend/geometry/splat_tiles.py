"""Which Gaussians touch which tile of 32x16 pixels, near to far, one vertical band of the picture at a time.

A band is one tile column. `depth_order` sorts all Gaussians by depth, `split_bands` deals them
out to the bands, and `bin_band`, one call a band, lists for every tile its hits: one int64 a hit, with the
row of the Gaussian within the band in the upper half, and in the lower the blocks that it touches. A block
is 4x4 pixels, the lanes of a vector register (`simd.py`); a tile has eight columns of four of them, block
4 i + j being the j-th of column i. The blocks come from the ellipse alpha >= 1/255 cut to columns of 4
pixels, all eight at once, so a slanted needle costs few pixels.
"""

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.splat_projection import NOT_DRAWN, SCREEN, SCREEN_GRADIENT

TILE_WIDTH, TILE_HEIGHT = 32, 16
"""Pixels. The width is also that of a band: fixed, so that sums over bands do not depend on the cores."""
BLOCKS = 32
"""Blocks a tile."""
LOCAL = 16
"""Columns of a band's copy of `screen`, and of its gradient."""

_u = np.uint64
_ZERO, _HALF, _THREE = np.float32(0), np.float32(0.5), np.float32(3)
SLACK = np.float32(0.02)
"""Pixels added to each reach, so that rounding never drops a row with alpha >= 1/255."""
_ROW_UP = np.float32(0.99)
"""From a height to the row above it, once truncated."""
_BITS = 11


@kernel
def depth_order(depth):
    """Indices (V,) int32 of the drawn Gaussians (depth < NOT_DRAWN), near to far, ties by index.

    Positive floats sort as their bits do: a radix sort of 3 x 11 bits, lowest first.
    """
    bits = depth.view(np.uint32)
    counts = np.zeros((3, 1 << _BITS), dtype=np.int32)
    mask = np.uint32((1 << _BITS) - 1)
    drawn = 0
    first, second = np.empty(len(depth), dtype=np.uint64), np.empty(len(depth), dtype=np.uint64)
    for i in range(len(depth)):
        key = bits[i]
        if depth[i] < NOT_DRAWN:
            first[drawn] = (_u(key) << _u(32)) | _u(i)
            drawn += 1
            counts[0, key & mask] += 1
            counts[1, (key >> np.uint32(_BITS)) & mask] += 1
            counts[2, key >> np.uint32(2 * _BITS)] += 1
    for turn in range(3):
        total = 0
        for digit in range(1 << _BITS):
            here = counts[turn, digit]
            counts[turn, digit] = total
            total += here
        shift = _u(32 + _BITS * turn)
        for k in range(drawn):
            digit = (first[k] >> shift) & _u(mask)
            second[counts[turn, digit]] = first[k]
            counts[turn, digit] += 1
        first, second = second, first
    order = np.empty(drawn, dtype=np.int32)
    for k in range(drawn):
        order[k] = first[k] & _u(0xFFFFFFFF)
    return order


@kernel
def split_bands(depth, order, first_band, last_band, bands):
    """Deal the Gaussians in `order` out to the bands they touch: starts (bands + 1,), ids, both int32.

    depth (G,) as for `depth_order`; first_band, last_band (G,) int32 of each Gaussian that is drawn.
    """
    starts = np.zeros(bands + 1, dtype=np.int32)
    for i in range(len(depth)):
        if depth[i] < NOT_DRAWN:
            for band in range(first_band[i], last_band[i] + 1):
                starts[band + 1] += 1
    for band in range(bands):
        starts[band + 1] += starts[band]
    ids = np.empty(starts[bands], dtype=np.int32)
    for k in range(len(order)):
        i = _u(order[k])
        for band in range(_u(first_band[i]), _u(last_band[i] + 1)):
            ids[starts[band]] = i
            starts[band] += 1
    for band in range(bands, 0, -1):
        starts[band] = starts[band - 1]
    starts[0] = 0
    return starts, ids


@kernel
def bin_band(first_pixel, tile_rows, ids, screen):
    """Hits of the tiles of the band whose first pixel column is given.

    ids (n,) int32 the band's Gaussians, near to far; screen (G, SCREEN) float32.
    Returns local (n, LOCAL) float32, the rows of screen in that order; starts (tile_rows + 1,) int32,
    hits (h,) int64.
    """
    local = np.empty((len(ids), LOCAL), dtype=np.float32)
    # Of each Gaussian, first and last tile row; of each of its columns, first and last pixel row.
    spans, rows = np.empty((len(ids), 2), dtype=np.int32), np.empty((len(ids), 8, 2), dtype=np.int32)
    most = 0
    beyond = np.float32(tile_rows * TILE_HEIGHT)
    highest = np.float32(tile_rows * TILE_HEIGHT - 1)
    for n in range(len(ids)):
        for j in range(SCREEN):
            local[n, j] = screen[ids[n], j]
        x, y, a, b = local[n, 0] - np.float32(first_pixel), local[n, 1], local[n, 2], local[n, 3]
        half_height, half_width, shear = local[n, 9], local[n, 11], local[n, 13]
        spans[n, 0] = int(min(max(y - half_height, _ZERO), highest)) // TILE_HEIGHT
        spans[n, 1] = int(min(max(y + half_height, _ZERO), highest)) // TILE_HEIGHT
        most += spans[n, 1] - spans[n, 0] + 1
        # On the ellipse, (dy + shear dx)^2 = flatness (half_width^2 - dx^2).
        flatness = local[n, 14] / local[n, 15]
        # The lowest row lies where dx = top, the highest where dx = -top.
        top = -b / a * half_height
        for column in range(8):
            left = max(np.float32(4 * column) + _HALF - x, -half_width)
            right = min(np.float32(4 * column + 4) - _HALF - x, half_width)
            at = min(max(left, top), right)
            last = np.sqrt(max((half_width * half_width - at * at) * flatness, _ZERO)) - shear * at
            last += np.float32(SLACK - _HALF) + y
            at = min(max(left, -top), right)
            first = -np.sqrt(max((half_width * half_width - at * at) * flatness, _ZERO)) - shear * at
            first += np.float32(_ROW_UP - SLACK - _HALF) + y
            inside = left <= right + SLACK
            rows[n, column, 0] = int(min(first, beyond + _THREE)) if inside and first >= _ZERO else 0
            rows[n, column, 1] = int(min(last, highest)) if inside and last >= _ZERO else -1
    entries, tiles = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int32)
    count = 0
    for n in range(len(ids)):
        for tile in range(spans[n, 0], spans[n, 1] + 1):
            touched = 0
            for column in range(8):
                first, last = rows[n, column, 0] // 4 - 4 * tile, rows[n, column, 1] // 4 - 4 * tile
                for j in range(max(first, 0), min(last, 3) + 1):
                    touched |= 1 << (4 * column + j)
            if touched:
                entries[count], tiles[count] = n << BLOCKS | touched, tile
                count += 1
    starts, hits = np.zeros(tile_rows + 1, dtype=np.int32), np.empty(count, dtype=np.int64)
    for k in range(count):
        starts[tiles[k] + 1] += 1
    for tile in range(tile_rows):
        starts[tile + 1] += starts[tile]
    filled = starts.copy()
    for k in range(count):
        hits[filled[tiles[k]]] = entries[k]
        filled[tiles[k]] += 1
    return local, starts, hits


@kernel
def gather_gradient(ids, grad_local, grad_screen):
    """Add one band's gradients (n, LOCAL) to the rows `ids` of grad_screen (G, SCREEN_GRADIENT)."""
    for n in range(len(ids)):
        for j in range(SCREEN_GRADIENT):
            grad_screen[ids[n], j] += grad_local[n, j]
