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
from backend.geometry.simd import (
    aligned,
    constant,
    larger,
    prefetch,
    root,
    rows_of_columns,
    smaller,
    store_whole,
    where,
)
from backend.geometry.splat_projection import NOT_DRAWN, SCREEN, SCREEN_GRADIENT

TILE_WIDTH, TILE_HEIGHT = 32, 16
"""Pixels. The width is also that of a band: fixed, so that sums over bands do not depend on the cores."""
BLOCKS = 32
"""Blocks a tile."""
LOCAL = 16
"""Columns of a band's copy of `screen`: a row is one cache line. Behind those of `screen`, log2 of alpha:
12 + 14 dx^2 + 15 (dy + 13 dx)^2."""

_u = np.uint64
_ZERO, _HALF = np.float32(0), np.float32(0.5)
_LOG2_E, _LOG2_255 = np.float32(1 / np.log(2)), np.float32(np.log2(255))
# The lower eight lanes find the last row of each column, the upper eight the first.
_SIGN = constant([1.0] * 8 + [-1.0] * 8)
_LEFT = constant([4 * i + 0.5 for i in range(8)] * 2)
_RIGHT = constant([4 * i + 3.5 for i in range(8)] * 2)
_SLACK = np.float32(0.02)
"""Pixels added to each reach, so that rounding never drops a row with alpha >= 1/255."""
_WHOLE_ROW = constant([0.02 - 0.5] * 8 + [0.99 - 0.02 - 0.5] * 8)
"""From a height to a row, once truncated: pixel centres lie at +0.5."""
_BEYOND = constant([0.0] * 8 + [4.0] * 8)
_QUARTER, _NONE = np.float32(0.25), np.float32(-1)
_WIDEST = np.float32(1 << 20)
_AHEAD = 8
"""Gaussians between the request for a row of `screen` and its use: they lie all over it."""
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
def split_bands(depth, order, touched, bands):
    """Deal the Gaussians in `order` out to the bands they touch: starts (bands + 1,), ids, both int32.

    depth (G,) as for `depth_order`; touched (G, 2) int32: first and last band of each Gaussian that is drawn.
    """
    starts = np.zeros(bands + 1, dtype=np.int32)
    for i in range(len(depth)):
        if depth[i] < NOT_DRAWN:
            for band in range(touched[i, 0], touched[i, 1] + 1):
                starts[band + 1] += 1
    for band in range(bands):
        starts[band + 1] += starts[band]
    ids = np.empty(starts[bands], dtype=np.int32)
    for k in range(len(order)):
        i = _u(order[k])
        for band in range(_u(touched[i, 0]), _u(touched[i, 1] + 1)):
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
        prefetch(screen, ahead + _u(SCREEN - 1))
        for j in range(SCREEN):
            local[n, j] = screen[i, j]
        x, y, a, b, c, reach = (
            screen[i, 0] - left_edge, screen[i, 1], screen[i, 2], screen[i, 3], screen[i, 4], screen[i, 9]
        )  # fmt: skip
        # s = dx^2 / (2 var_x) + c / 2 (dy + b / c dx)^2: the rows at dx lie around -b / c dx.
        inverse_c, inverse_variance = np.float32(1) / c, screen[i, 11]
        shear = b * inverse_c
        local[n, 12], local[n, 13] = _LOG2_E * _HALF * reach - _LOG2_255, shear
        local[n, 14], local[n, 15] = -_LOG2_E * _HALF * inverse_variance, -_LOG2_E * _HALF * c
        half_width = np.sqrt(reach / inverse_variance)
        half_height = np.sqrt(reach * a * inverse_c / inverse_variance)
        spans[n, 0] = int(min(max(y - half_height, _ZERO), highest)) // TILE_HEIGHT
        spans[n, 1] = int(min(max(y + half_height, _ZERO), highest)) // TILE_HEIGHT
        most += spans[n, 1] - spans[n, 0] + 1
        # The highest point lies at dx = top, the lowest at -top.
        top = _SIGN() * (-b / a * half_height)
        left, right = larger(_LEFT() - x, -half_width), smaller(_RIGHT() - x, half_width)
        at = smaller(larger(left, top), right)
        edge = _SIGN() * root(larger((reach - inverse_variance * at * at) * inverse_c, _ZERO)) - shear * at
        row = edge + (_WHOLE_ROW() + y)
        inside = (left <= right + _SLACK) & (row >= _ZERO)
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
    """Add one band's gradients (n, LOCAL) to the rows `ids` of grad_screen (G, SCREEN_GRADIENT)."""
    for n in range(len(ids)):
        ahead = _u(ids[min(n + _AHEAD, len(ids) - 1)]) * _u(SCREEN_GRADIENT)
        prefetch(grad_screen, ahead)
        prefetch(grad_screen, ahead + _u(SCREEN_GRADIENT - 1))
        i = _u(ids[n])
        for j in range(SCREEN_GRADIENT):
            grad_screen[i, j] += grad_local[n, j]
