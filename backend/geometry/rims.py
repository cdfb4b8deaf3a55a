"""Outlines that a carve must not bite into: every sight line inside a mask meets the object.

A visual hull has this by construction; a hull lowered by depth loses it where the depth is a little wrong,
and there the outline shrinks, which costs more in new views than a smooth error of the depth. Along each
sight line that has lost the object the carved field is raised where the least was missing, by what was
missing: a little where the carve bit a little, along an outline to a rim tangent to it; it keeps its form.
Balls put back instead are too small for the grid to hold them: outlines stayed some .15 pixels short
(on the orbit 1.1 dB less on drill, hammer and lunch box; a track off the orbit was below its hull).
"""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid, Silhouettes
from backend.geometry.jit import inline_kernel, kernel
from backend.geometry.parallel import bands, map_parallel

_BAND = 1.7
_LEAST = 0.35
_ENOUGH = np.float32(0.7)
"""Of what the hull holds on a sight line: a carved line that holds less has lost its outline."""
_INNER = 4
_RAISED, _FREE = np.float32(0.5), np.float32(1.4)
"""Cells from the point raised: up to the first the field is raised in full, from the second not at all."""
_NEARBY, _SLIGHT = 2.0, 1.0
"""An outline is a line of points to raise: one with no other within so many cells is a stray sight line, and
raised by more than the second would be a pimple (on a mug's handle one of two cells)."""


@inline_kernel
def _sample(field, x, y, z):
    i, j, k = int(x), int(y), int(z)
    a, b, c = np.float32(x - i), np.float32(y - j), np.float32(z - k)
    low = (field[i, j, k] * (1 - c) + field[i, j, k + 1] * c) * (1 - b) + (
        field[i, j + 1, k] * (1 - c) + field[i, j + 1, k + 1] * c
    ) * b
    high = (field[i + 1, j, k] * (1 - c) + field[i + 1, j, k + 1] * c) * (1 - b) + (
        field[i + 1, j + 1, k] * (1 - c) + field[i + 1, j + 1, k + 1] * c
    ) * b
    return low * (1 - a) + high * a


@inline_kernel
def _span(dx, dy, dz, centre, shape):
    """Depths at which a ray enters and leaves the grid, a cell inside its border."""
    near, far = 1e-9, 1e30
    for axis in range(3):
        d = (dx, dy, dz)[axis]
        o = centre[axis]
        if abs(d) < 1e-12:
            if o < 1.0 or o > shape[axis] - 2.0:
                near = 1e30
            continue
        first, last = (1.0 - o) / d, (shape[axis] - 2.0 - o) / d
        near, far = max(near, min(first, last)), min(far, max(first, last))
    return near, far


@kernel
def _lost_rays(hull, carved, distance, ray, centre, focal, cell, start, stop, lifts):
    """Points to raise (x, y, z in cells, by metres) for rows start..stop of one view; returns their number.

    ray (3, 3): pixel (column, row, 1) -> direction in cells for one metre of depth; centre (3,) in cells.
    """
    width = distance.shape[1]
    count = 0
    for row in range(start, stop):
        for column in range(width):
            inset = distance[row, column]
            if inset < _LEAST or (inset > _BAND and (row % _INNER != 0 or column % _INNER != 0)):
                continue
            u, v = column + 0.5, row + 0.5
            dx = ray[0, 0] * u + ray[0, 1] * v + ray[0, 2]
            dy = ray[1, 0] * u + ray[1, 1] * v + ray[1, 2]
            dz = ray[2, 0] * u + ray[2, 1] * v + ray[2, 2]
            near, far = _span(dx, dy, dz, centre, hull.shape)
            if near >= far:
                continue
            length = np.sqrt(dx * dx + dy * dy + dz * dz)
            step = 0.5 / length
            allowed = np.float32(inset * (0.5 * (near + far)) / focal)
            allowed = min(allowed, np.float32(1.5 * cell))
            # What the hull holds on this line, and what is left of it.
            most, left = np.float32(-1e30), np.float32(-1e30)
            t = near
            whole = False
            while t < far:
                x, y, z = centre[0] + dx * t, centre[1] + dy * t, centre[2] + dz * t
                value = _sample(hull, x, y, z)
                if value > 0.0:
                    most = max(most, value)
                    left = max(left, _sample(carved, x, y, z))
                    if left >= _ENOUGH * allowed:
                        whole = True
                        break
                    t += step
                else:
                    t += step * min(max(-1.6 * value / cell, 1.0), 4.0)
            if whole or most <= 0.1 * _LEAST * cell:
                continue
            need = min(most, allowed)
            if left >= _ENOUGH * need or count >= len(lifts):
                continue
            best, at = np.float32(-1e30), near
            t = near
            while t < far:
                x, y, z = centre[0] + dx * t, centre[1] + dy * t, centre[2] + dz * t
                if _sample(hull, x, y, z) >= 0.8 * need:
                    value = _sample(carved, x, y, z)
                    if value > best:
                        best, at = value, t
                t += step
            if best == np.float32(-1e30):
                continue  # the steps of this line missed what little the hull holds on it
            lifts[count, 0] = centre[0] + dx * at
            lifts[count, 1] = centre[1] + dy * at
            lifts[count, 2] = centre[2] + dz * at
            lifts[count, 3] = need - best
            count += 1
    return count


@kernel
def _raise(hull, carved, lifts, field):
    """field <- `carved` raised around the points `lifts` (M, 4), nowhere above `hull`."""
    for n in range(len(lifts)):
        x, y, z, lift = lifts[n, 0], lifts[n, 1], lifts[n, 2], lifts[n, 3]
        for i in range(max(int(x) - 1, 0), min(int(x) + 3, field.shape[0])):
            for j in range(max(int(y) - 1, 0), min(int(y) + 3, field.shape[1])):
                for k in range(max(int(z) - 1, 0), min(int(z) + 3, field.shape[2])):
                    away = np.sqrt((i - x) ** 2 + (j - y) ** 2 + (k - z) ** 2)
                    share = min(max((_FREE - away) / (_FREE - _RAISED), 0.0), 1.0)
                    value = min(hull[i, j, k], carved[i, j, k] + np.float32(share * lift))
                    field[i, j, k] = max(field[i, j, k], value)


@kernel
def _gaps(hull, distance, ray, centre, focal, cell, out):
    """How many pixels the hull stays inside the outline, at pixels about one pixel inside it."""
    count = 0
    for row in range(distance.shape[0]):
        for column in range(distance.shape[1]):
            inset = distance[row, column]
            if inset < 0.8 or inset > 1.4 or count >= len(out):
                continue
            u, v = column + 0.5, row + 0.5
            dx = ray[0, 0] * u + ray[0, 1] * v + ray[0, 2]
            dy = ray[1, 0] * u + ray[1, 1] * v + ray[1, 2]
            dz = ray[2, 0] * u + ray[2, 1] * v + ray[2, 2]
            near, far = _span(dx, dy, dz, centre, hull.shape)
            step = 0.25 / np.sqrt(dx * dx + dy * dy + dz * dz)
            most = np.float32(-10.0)
            t = near
            while t < far:
                value = _sample(hull, centre[0] + dx * t, centre[1] + dy * t, centre[2] + dz * t)
                most = max(most, value * np.float32(focal / t) - inset)
                t += step * min(max(-3.0 * value / cell, 1.0), 8.0)
            out[count] = -most
            count += 1
    return count


def gaps_to_outlines(hull: Grid, masks: Silhouettes, cameras: Cameras, view: int) -> np.ndarray:
    """(M,) float32 pixels: how far inside the outline of `view` the hull stays, along that outline.

    About 0 where the hull touches the outline, as it does everywhere if all masks agree and the object is
    thicker than some pixels; negative by what the grid rounds.
    """
    ray, centre = _rays(hull, cameras, view)
    out = np.empty(4 * (cameras.width + cameras.height), dtype=np.float32)
    count = _gaps(hull.field, masks.distance[view], ray, centre, float(masks.focal[view]), hull.cell, out)
    return out[:count]


def _rays(grid: Grid, cameras: Cameras, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel -> direction in cells for a metre of depth (3, 3), and the camera's centre in cells (3,)."""
    pose = cameras.world_from_camera[view]
    ray = pose[:3, :3] @ np.linalg.inv(cameras.intrinsics[view]) / grid.cell
    return ray, (pose[:3, 3] - grid.origin) / grid.cell


def keep_outlines(hull: Grid, carved: Grid, masks: Silhouettes, cameras: Cameras) -> Grid:
    """`carved`, raised where a sight line inside a mask meets the hull and no longer it.

    hull, carved  on the same grid, `carved` nowhere above `hull`; cameras of the views in `masks`
    """
    cell = hull.cell

    def lost(item: tuple[int, tuple[int, int]]) -> np.ndarray:
        view, (start, stop) = item
        ray, centre = _rays(hull, cameras, view)
        lifts = np.empty(((stop - start) * 64, 4))
        count = _lost_rays(
            hull.field, carved.field, masks.distance[view], ray, centre, float(masks.focal[view]), cell,
            start, stop, lifts,
        )  # fmt: skip
        return lifts[:count]

    pieces = [(view, band) for view in range(len(cameras)) for band in bands(cameras.height, 2)]
    lifts = np.concatenate(map_parallel(lost, pieces))
    lifts = lifts[(lifts[:, 3] <= _SLIGHT * cell) | _in_company(lifts[:, :3])]
    if not len(lifts):
        return carved
    field = carved.field.copy()
    _raise(hull.field, carved.field, lifts, field)
    return Grid(field, carved.origin, cell)


def _in_company(points: np.ndarray) -> np.ndarray:
    """(M,) bool: the points (M, 3), cells, that have another one near."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return np.zeros(len(points), dtype=bool)
    return cKDTree(points).query(points, k=2)[0][:, 1] <= _NEARBY
