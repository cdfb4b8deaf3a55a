"""Signed distance of every pixel to the edge of a mask, exact and sub-pixel.

An anti-aliased mask says more than where the edge pixels are: a pixel that is 30 % covered lies 0.2 px
outside the edge. The distance starts from that sub-pixel edge (Gustavson and Strand, "Anti-aliased
Euclidean distance transform", 2011), then spreads by the separable exact transform of Felzenszwalb and
Huttenlocher (2012) with the position of the nearest edge pixel carried along.
"""

import numpy as np

from backend.geometry.eight_bit import EightBit
from backend.geometry.jit import kernel
from backend.geometry.parallel import map_parallel

FAR = np.float32(1e6)
"""Distance where a picture has no edge at all."""


@kernel
def _edge_offsets(alpha, edge, is_edge):
    """For every pixel beside the edge: edge (H, W, 3) = unit normal x, y (inward), its way to the edge."""
    height, width = alpha.shape
    for y in range(height):
        for x in range(width):
            value = alpha[y, x]
            inside = value >= 0.5
            left, right = alpha[y, max(x - 1, 0)], alpha[y, min(x + 1, width - 1)]
            above, below = alpha[max(y - 1, 0), x], alpha[min(y + 1, height - 1), x]
            is_edge[y, x] = 0
            # A pixel that is covered wholly or not at all only says that the edge is not in it: it counts
            # where the pixel beyond the edge says no more.
            partial = 0.02 < value < 0.98
            beside = False
            for other in (left, right, above, below):
                if (other >= 0.5) != inside and (partial or other <= 0.02 or other >= 0.98):
                    beside = True
            if not beside:
                continue
            # Gradient over the 3x3 neighbourhood, points to the inside.
            gx, gy = 0.0, 0.0
            for s in range(-1, 2):
                weight = 2.0 if s == 0 else 1.0
                row, column = min(max(y + s, 0), height - 1), min(max(x + s, 0), width - 1)
                gx += weight * (alpha[row, min(x + 1, width - 1)] - alpha[row, max(x - 1, 0)])
                gy += weight * (alpha[min(y + 1, height - 1), column] - alpha[max(y - 1, 0), column])
            length = np.sqrt(gx * gx + gy * gy)
            flat = length < 1e-3
            if flat:  # a line or dot one pixel wide: both sides are alike
                gx, gy = (0.0, 1.0) if abs(above + below) < abs(left + right) else (1.0, 0.0)
                length = 1.0
            gx, gy = gx / length, gy / length
            big, small = max(abs(gx), abs(gy)), min(abs(gx), abs(gy))
            corner = 0.5 * small / big
            cover = min(max(value, 0.0), 1.0)
            # How far the edge of a half plane is from the centre of a pixel that it covers by `cover`.
            if flat:
                outside = -0.5 * cover
            elif cover < corner:
                outside = 0.5 * (big + small) - np.sqrt(2.0 * big * small * cover)
            elif cover < 1.0 - corner:
                outside = (0.5 - cover) * big
            else:
                outside = -0.5 * (big + small) + np.sqrt(2.0 * big * small * (1.0 - cover))
            is_edge[y, x] = 1
            edge[y, x, 0], edge[y, x, 1], edge[y, x, 2] = gx, gy, outside


@kernel
def _signed_distance(alpha, edge, is_edge, nearest_row, out):
    """Nearest edge pixel (exact, by columns then rows), then the nearest edge line of those around it."""
    height, width = alpha.shape
    far = 1 << 20
    for x in range(width):
        last = -far
        for y in range(height):
            if is_edge[y, x]:
                last = y
            nearest_row[y, x] = last
        last = far
        for y in range(height - 1, -1, -1):
            if is_edge[y, x]:
                last = y
            if last - y < y - nearest_row[y, x]:
                nearest_row[y, x] = last
    hull = np.empty(width, dtype=np.int32)
    border = np.empty(width + 1, dtype=np.float64)
    for y in range(height):
        count = 0
        for x in range(width):
            gap = float(nearest_row[y, x] - y)
            if abs(gap) > far // 2:
                continue
            height_here = gap * gap + float(x) * x
            while count > 0:
                other = hull[count - 1]
                other_gap = float(nearest_row[y, other] - y)
                meet = (height_here - other_gap * other_gap - float(other) * other) / (2.0 * (x - other))
                if meet > border[count - 1]:
                    break
                count -= 1
            if count == 0:
                border[0] = -1e30
            else:
                border[count] = meet
            hull[count] = x
            count += 1
        at = 0
        for x in range(width):
            inside = alpha[y, x] >= 0.5
            if count == 0:
                out[y, x] = 1e6 if inside else -1e6
                continue
            while at + 1 < count and border[at + 1] < x:
                at += 1
            column = hull[at]
            row = nearest_row[y, column]
            # The nearest pixel centre need not hold the nearest bit of edge: look at its neighbours too.
            nearest = 1e12
            for v in range(max(row - 1, 0), min(row + 2, height)):
                for u in range(max(column - 1, 0), min(column + 2, width)):
                    if is_edge[v, u]:
                        nx, ny = edge[v, u, 0], edge[v, u, 1]
                        dx, dy = x - u - nx * edge[v, u, 2], y - v - ny * edge[v, u, 2]
                        across, beside = dx * nx + dy * ny, dx * ny - dy * nx
                        beyond = max(abs(beside) - 0.6, 0.0)  # each pixel owns some length of straight edge
                        nearest = min(nearest, across * across + beyond * beyond)
            distance = np.sqrt(nearest)
            out[y, x] = distance if inside else -distance


def signed_distance(alpha: np.ndarray) -> np.ndarray:
    """alpha (H, W) float32 0..1 -> (H, W) float32 pixels to the edge (alpha = 0.5), > 0 inside.

    A picture without an edge gives +FAR (all inside) or -FAR. The frame itself is no edge.
    """
    alpha = np.ascontiguousarray(alpha, dtype=np.float32)
    edge = np.zeros((*alpha.shape, 3), dtype=np.float32)
    is_edge = np.zeros(alpha.shape, dtype=np.uint8)
    _edge_offsets(alpha, edge, is_edge)
    nearest_row = np.empty(alpha.shape, dtype=np.int32)
    out = np.empty_like(alpha)
    _signed_distance(alpha, edge, is_edge, nearest_row, out)
    return out


def signed_distances(alpha: np.ndarray | EightBit, used: np.ndarray) -> np.ndarray:
    """(N, H, W) -> (M, H, W) float32, as `signed_distance` of the M views `used`."""
    out = np.empty((len(used), *alpha.shape[1:]), dtype=np.float32)

    def measure(place: int) -> None:
        out[place] = signed_distance(alpha[used[place]])

    map_parallel(measure, range(len(used)))
    return out
