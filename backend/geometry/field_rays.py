"""Rays through a distance field, and how well photographs agree on what they meet.

A hypothesis of a shape is a field (X, Y, Z) float32 on the points of a grid: distance to the surface in
cells, > 0 inside, clipped. All points and rays here are in cells, from the first point of the grid. Where
several shapes are possible the one to believe is the one whose points look alike in all views that see
them (space carving, Kutulakos and Seitz 2000).
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.parallel import bands, map_parallel, thread_count

_WORST = np.float32(0.25)
"""An error counts no more than this: a highlight or a wrong mask is no evidence of shape."""


@dataclass(frozen=True)
class Photographs:
    """Pictures to look points up in.

    images     (N, H, W, 3) float32 0..1
    projection (N, 3, 4) float64, cells -> homogeneous pixels
    centres    (N, 3) float64 cells
    sources    (N, S) int64: the views that each is compared with, -1 where there are fewer
    """

    images: np.ndarray
    projection: np.ndarray
    centres: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True)
class SightLines:
    """Rays of P pixels.

    view (P,) int64; origin, direction (P, 3) float64, unit; start (P,) float64: where to begin, -1 = nowhere
    colour (P, 3) float32: what the pixel shows
    """

    view: np.ndarray
    origin: np.ndarray
    direction: np.ndarray
    start: np.ndarray
    colour: np.ndarray

    def __len__(self) -> int:
        return len(self.view)

    def at(self, distance: np.ndarray) -> np.ndarray:
        """(P, 3) the points `distance` (P,) along the rays."""
        return self.origin + self.direction * distance[:, None]

    def take(self, chosen: np.ndarray) -> "SightLines":
        return SightLines(
            self.view[chosen],
            self.origin[chosen],
            self.direction[chosen],
            self.start[chosen],
            self.colour[chosen],
        )


@dataclass(frozen=True)
class Agreement:
    """Of P pixels with the views beside theirs.

    error    (P,) float32: mean difference of colour, 0 where `seen` is 0
    seen     (P,) int32: how many other views see the same point
    distance (P,) float64 cells along the ray, -1 where nothing is met
    """

    error: np.ndarray
    seen: np.ndarray
    distance: np.ndarray


@kernel
def _value(field, x, y, z):
    """Trilinear; the point is inside the grid."""
    i, j, k = int(x), int(y), int(z)
    i, j, k = min(i, field.shape[0] - 2), min(j, field.shape[1] - 2), min(k, field.shape[2] - 2)
    a, b, c = np.float32(x - i), np.float32(y - j), np.float32(z - k)
    one = np.float32(1.0)
    v00 = field[i, j, k] * (one - c) + field[i, j, k + 1] * c
    v01 = field[i, j + 1, k] * (one - c) + field[i, j + 1, k + 1] * c
    v10 = field[i + 1, j, k] * (one - c) + field[i + 1, j, k + 1] * c
    v11 = field[i + 1, j + 1, k] * (one - c) + field[i + 1, j + 1, k + 1] * c
    return (v00 * (one - b) + v01 * b) * (one - a) + (v10 * (one - b) + v11 * b) * a


@kernel
def _march(field, x, y, z, dx, dy, dz, start):
    """Distance at which a ray first enters the shape, from `start` on; -1 when it leaves the grid."""
    last_x, last_y, last_z = field.shape[0] - 1.0, field.shape[1] - 1.0, field.shape[2] - 1.0
    t, before, value_before = start, start, np.float32(0.0)
    while True:
        px, py, pz = x + dx * t, y + dy * t, z + dz * t
        if px < 0.0 or py < 0.0 or pz < 0.0 or px > last_x or py > last_y or pz > last_z:
            return -1.0
        value = _value(field, px, py, pz)
        if value > 0.0:
            return before + (t - before) * -value_before / (value - value_before)
        before, value_before = t, value
        # Fields are not exact distances everywhere: never the whole way, never far.
        t += min(max(0.35, -0.8 * value), 3.0)


@kernel
def _first_hits(field, origin, direction, start, first, last, out):
    for p in range(first, last):
        out[p] = -1.0
        if start[p] >= 0.0:
            out[p] = _march(
                field, origin[p, 0], origin[p, 1], origin[p, 2],
                direction[p, 0], direction[p, 1], direction[p, 2], start[p],
            )  # fmt: skip


@kernel
def _agree(
    field, images, projection, centres, sources, view, origin, direction, distance, colour, first, last,
    error, seen,
):  # fmt: skip
    height, width = images.shape[1], images.shape[2]
    for p in range(first, last):
        t = distance[p]
        if t < 0.0:
            continue
        x = origin[p, 0] + t * direction[p, 0]
        y = origin[p, 1] + t * direction[p, 1]
        z = origin[p, 2] + t * direction[p, 2]
        for s in range(sources.shape[1]):
            n = sources[view[p], s]
            if n < 0:
                continue
            q = projection[n]
            depth = q[2, 0] * x + q[2, 1] * y + q[2, 2] * z + q[2, 3]
            if depth <= 0.0:
                continue
            u = (q[0, 0] * x + q[0, 1] * y + q[0, 2] * z + q[0, 3]) / depth - 0.5
            v = (q[1, 0] * x + q[1, 1] * y + q[1, 2] * z + q[1, 3]) / depth - 0.5
            if u < 0.0 or v < 0.0 or u >= width - 1 or v >= height - 1:
                continue
            ex, ey, ez = centres[n, 0] - x, centres[n, 1] - y, centres[n, 2] - z
            length = np.sqrt(ex * ex + ey * ey + ez * ez)
            if _march(field, x, y, z, ex / length, ey / length, ez / length, 1.5) >= 0.0:
                continue
            column, row = int(u), int(v)
            a, b = np.float32(u - column), np.float32(v - row)
            off = np.float32(0.0)
            for c in range(3):
                shown = (images[n, row, column, c] * (1 - a) + images[n, row, column + 1, c] * a) * (
                    1 - b
                ) + (images[n, row + 1, column, c] * (1 - a) + images[n, row + 1, column + 1, c] * a) * b
                off += abs(shown - colour[p, c])
            error[p] += min(off / 3, _WORST)
            seen[p] += 1
        if seen[p] > 0:
            error[p] /= seen[p]


def entry_distance(origin: np.ndarray, direction: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(P,) where rays (P, 3) come into a grid of `shape` points, -1 where they miss it."""
    last = np.array(shape) - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = -origin / direction, (last - origin) / direction
    near, far = np.fmin(one, other).max(axis=1), np.fmax(one, other).min(axis=1)
    return np.where(far > np.maximum(near, 0) + 1e-3, np.maximum(near, 0) + 1e-3, -1.0)


def first_hits(field: np.ndarray, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(P,) float64: distance at which each ray enters the shape, -1 where it misses it.

    origin, direction, start  as in `SightLines`
    """
    out = np.empty(len(origin))
    map_parallel(
        lambda band: _first_hits(field, origin, direction, start, *band, out),
        bands(len(origin), 2 * thread_count()),
    )
    return out


def agreement(field: np.ndarray, photographs: Photographs, lines: SightLines) -> Agreement:
    """How well the views beside agree with each pixel on the point of the shape that it shows."""
    error, seen = np.zeros(len(lines), np.float32), np.zeros(len(lines), np.int32)
    distance = first_hits(field, lines.origin, lines.direction, lines.start)
    pictures = photographs.images, photographs.projection, photographs.centres, photographs.sources
    rays = lines.view, lines.origin, lines.direction, distance, lines.colour
    map_parallel(
        lambda band: _agree(field, *pictures, *rays, *band, error, seen),
        bands(len(lines), 2 * thread_count()),
    )
    return Agreement(error, seen, distance)
