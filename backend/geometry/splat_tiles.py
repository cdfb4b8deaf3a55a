"""Which Gaussians touch which 8x16-pixel tile, one vertical band of the picture at a time.

A band is BAND tile columns. `bin_band` picks the Gaussians of one band in depth order, copies their
rows of `screen` side by side, and lists for every tile its hits: one int32 a hit, with the row of the
copy in the upper bits and the tile's first and last touched pixel row in the lower eight. The rows
come from the ellipse alpha >= 1/255 cut to the 8-pixel column, so a slanted needle costs few pixels.
"""

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.splat_projection import SCREEN

TILE_WIDTH = 8
TILE_HEIGHT = 16
BAND = 4
"""Tile columns a band. Fixed, so that sums over bands do not depend on the number of cores."""

_ZERO, _HALF = np.float32(0), np.float32(0.5)
_LAST_PIXEL = np.float32(TILE_WIDTH - 0.5)
_SLACK = np.float32(0.02)
"""Pixels added to each reach, so that rounding never drops a row with alpha >= 1/255."""
_FAR = np.float32(1e6)


@kernel
def bin_band(first_column, last_column, tile_rows, order, columns, screen):
    """Hits of tile columns first_column..last_column (inclusive), all Gaussians in depth `order`.

    order (V,) int32; columns (V, 2) int32 in the same order; screen (G, SCREEN) float32.
    Returns ids (n,) int32, local (n, SCREEN) float32, starts (tiles + 1,) int32, hits (h,) int32;
    tile index = (column - first_column) * tile_rows + tile row.
    """
    count, spans = 0, 0
    for k in range(len(order)):
        low, high = max(columns[k, 0], first_column), min(columns[k, 1], last_column)
        if low <= high:
            count += 1
            spans += high - low + 1
    ids = np.empty(count, dtype=np.int32)
    local = np.empty((count, SCREEN), dtype=np.float32)
    rows = np.empty((spans, 2), dtype=np.int16)
    starts = np.zeros((last_column - first_column + 1) * tile_rows + 1, dtype=np.int32)
    last_row = tile_rows * TILE_HEIGHT - 1
    n, span = 0, 0
    for k in range(len(order)):
        low, high = max(columns[k, 0], first_column), min(columns[k, 1], last_column)
        if low > high:
            continue
        i = order[k]
        ids[n] = i
        for j in range(SCREEN):
            local[n, j] = screen[i, j]
        n += 1
        x, y, a, b, c, reach = (
            screen[i, 0], screen[i, 1], screen[i, 2], screen[i, 3], screen[i, 4], screen[i, 9]
        )  # fmt: skip
        # a dx^2 + 2 b dx dy + c dy^2 = reach. Half width, and the slope of the line through the top.
        inverse_c = np.float32(1) / c
        determinant = max(a * c - b * b, np.float32(1e-30))
        half_width = np.sqrt(reach * c / determinant)
        top = np.sqrt(reach * a / determinant)
        top_dx = -b / a * top
        for column in range(low, high + 1):
            left = max(np.float32(column * TILE_WIDTH) + _HALF - x, -half_width)
            right = min(np.float32(column * TILE_WIDTH) + _LAST_PIXEL - x, half_width)
            at = min(max(top_dx, left), right)
            y_high = (np.sqrt(max(c * reach - determinant * at * at, _ZERO)) - b * at) * inverse_c
            at = min(max(-top_dx, left), right)
            y_low = (-np.sqrt(max(c * reach - determinant * at * at, _ZERO)) - b * at) * inverse_c
            first = int(np.ceil(min(max(y + y_low - _HALF - _SLACK, _ZERO), _FAR)))
            last = min(int(np.floor(min(max(y + y_high - _HALF + _SLACK, -_FAR), _FAR))), last_row)
            if left > right + _SLACK or last < first:
                first, last = 1, 0
            rows[span, 0], rows[span, 1] = first, last
            span += 1
            base = (column - first_column) * tile_rows + 1
            for tile in range(first >> 4, (last >> 4) + 1 if last >= first else 0):
                starts[base + tile] += 1
    for tile in range(len(starts) - 1):
        starts[tile + 1] += starts[tile]
    hits = np.empty(starts[-1], dtype=np.int32)
    fill = starts[:-1].copy()
    n, span = 0, 0
    for k in range(len(order)):
        low, high = max(columns[k, 0], first_column), min(columns[k, 1], last_column)
        if low > high:
            continue
        for column in range(low, high + 1):
            first, last = rows[span, 0], rows[span, 1]
            span += 1
            if last < first:
                continue
            base = (column - first_column) * tile_rows
            for tile in range(first >> 4, (last >> 4) + 1):
                begin, end = (
                    max(first - tile * TILE_HEIGHT, 0),
                    min(last - tile * TILE_HEIGHT, TILE_HEIGHT - 1),
                )
                hits[fill[base + tile]] = (n << 8) | (begin << 4) | end
                fill[base + tile] += 1
        n += 1
    return ids, local, starts, hits
