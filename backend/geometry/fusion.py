"""Depth maps of many views into one signed distance field (Curless and Levoy 1996)."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid
from backend.geometry.jit import kernel
from backend.geometry.parallel import bands, map_parallel, thread_count

_REACH = 4.0
"""Cells from the hull's surface: its field is not told from its clipped self further off."""
_MOST_SAY = 2.0


@dataclass(frozen=True)
class Fused:
    """On the points of a grid.

    distance (X, Y, Z) float32 metres, > 0 inside (behind the surface), meaningless where weight is 0
    weight   (X, Y, Z) float32: sum of the weights of the views that see the point or just behind it
    """

    distance: np.ndarray
    weight: np.ndarray


@kernel
def _fuse_planes(
    depth, weight, facing, projection, hull, cell, truncation, skip_below, start, stop, out, seen
):
    """Weighted mean over the views of the clipped distance to their surfaces."""
    views, height, width = depth.shape
    for i in range(start, stop):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                if hull[i, j, k] < skip_below:
                    continue
                x, y, z = cell * i, cell * j, cell * k
                total, mean = np.float32(0.0), np.float32(0.0)
                for n in range(views):
                    p = projection[n]
                    w = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                    if w <= 0.0:
                        continue
                    u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / w - 0.5
                    v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / w - 0.5
                    if u < 0.0 or v < 0.0:
                        continue
                    column, row = int(u), int(v)
                    if column >= width - 1 or row >= height - 1:
                        continue
                    a, b = np.float32(u - column), np.float32(v - row)
                    d00, d01 = depth[n, row, column], depth[n, row, column + 1]
                    d10, d11 = depth[n, row + 1, column], depth[n, row + 1, column + 1]
                    low, high = min(d00, d01, d10, d11), max(d00, d01, d10, d11)
                    near_row, near_column = row + (b > 0.5), column + (a > 0.5)
                    d = depth[n, near_row, near_column]
                    if d <= 0.0:
                        continue
                    if low > 0.0 and high - low < truncation:
                        d = (d00 * (1 - a) + d01 * a) * (1 - b) + (d10 * (1 - a) + d11 * a) * b
                    # Across the surface, not along the axis: a slope would count as depth.
                    behind = (np.float32(w) - d) * facing[n, near_row, near_column]
                    if behind > truncation:
                        continue
                    share = weight[n, near_row, near_column]
                    total += share
                    mean += share * max(behind, -truncation)
                if total > 0.0:
                    out[i, j, k] = mean / total
                    seen[i, j, k] = total


def facing_of(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Cosine between the line of sight and the surface's normal, from depth (h, w) metres, 0 = unknown.

    (h, w) float32 from 0.05 to 1; a pixel whose neighbours are unknown or far off gets 0.3.
    """
    height, width = depth.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    x = (columns - np.float32(intrinsics[0, 2])) / np.float32(intrinsics[0, 0])
    y = (rows - np.float32(intrinsics[1, 2])) / np.float32(intrinsics[1, 1])
    z = depth
    # Slopes of log depth over two pixels: for a plane they give its normal whatever its distance.
    slopes = []
    known = z > 0
    log = np.log(np.where(known, z, 1)).astype(np.float32)
    for axis in (1, 0):
        ahead, behind = np.roll(log, -2, axis), np.roll(log, 2, axis)
        good = known & np.roll(known, -2, axis) & np.roll(known, 2, axis)
        slopes.append(np.where(good, (ahead - behind) / 4, np.nan))
    per_x, per_y = slopes[0] * np.float32(intrinsics[0, 0]), slopes[1] * np.float32(intrinsics[1, 1])
    # The plane n . p = 1 with p = z (x, y, 1) has n proportional to (-per_x, -per_y, 1 + x per_x + y per_y).
    along = 1 + x * per_x + y * per_y
    cosine = 1 / np.sqrt((per_x**2 + per_y**2 + along**2) * (x**2 + y**2 + 1))
    cosine = np.where(np.isfinite(cosine), cosine, np.float32(0.3))
    return np.where(known, np.clip(cosine, 0.05, 1), 0).astype(np.float32)


def fuse_depth(
    depth: np.ndarray, weight: np.ndarray, cameras: Cameras, hull: Grid, truncation: float
) -> Fused:
    """Fuse depth (N, h, w) float32 metres (0 = unknown) with weight (N, h, w) on the points of `hull`.

    Surfaces seen at a slant count less, by the square of the cosine.
    cameras     of the depth maps' size
    truncation  metres: points further behind a surface do not hear of it; before it they hear this much
    Points outside the hull are left out.
    """
    out, seen = np.zeros_like(hull.field), np.zeros_like(hull.field)
    facing = np.stack(map_parallel(lambda n: facing_of(depth[n], cameras.intrinsics[n]), range(len(depth))))
    weight = weight * facing**2
    projection = cameras.intrinsics @ cameras.camera_from_world[:, :3]
    projection[:, :, 3] += projection[:, :, :3] @ hull.origin
    projection = np.ascontiguousarray(projection)
    limit = np.float32(-2 * hull.cell)
    map_parallel(
        lambda band: _fuse_planes(
            depth,
            weight,
            facing,
            projection,
            hull.field,
            hull.cell,
            np.float32(truncation),
            limit,
            *band,
            out,
            seen,
        ),
        bands(len(out), 4 * thread_count()),
    )
    return Fused(out, seen)


def merge_fused(
    hull: Grid, fused: Fused, *, enough: float = 0.05, dead: float = 0.1, smooth: float = 0.0
) -> Grid:
    """The hull, lowered to the fused surface where the views saw enough.

    enough  the weight from which fused depth counts in full
    dead    cells: where depth and hull differ by less, the hull is right (its silhouettes are exact, and
            lowering by the noise of depth would shrink the object)
    smooth  cells: sigma over which the difference is averaged first, by its weight. Depth of views that
            disagree errs to both sides; its positive part alone would be pits
    """
    cell = hull.cell
    near = np.clip(hull.field, -_REACH * cell, _REACH * cell)
    weight = fused.weight
    difference = np.where(weight > 0, near - fused.distance, 0)
    if smooth:
        said = np.minimum(weight, _MOST_SAY)
        around = gaussian_filter(said, smooth)
        mean = gaussian_filter(said * difference, smooth) / np.maximum(around, 1e-6)
        difference = np.where(around > 1e-6, mean, 0)
        weight = np.where(weight > 0, weight, around)
    carve = np.clip(difference, 0, None) * np.clip(weight / enough, 0, 1)
    t = np.clip(carve / (2 * dead * cell) - 0.5, 0, 1)
    carve *= t * t * (3 - 2 * t)
    return _lowered(hull, near, gaussian_filter(carve, 0.6))


def smoothed(hull: Grid, carved: Grid, sigma: float) -> Grid:
    """`carved`, its depth below `hull` averaged over `sigma` cells: where nothing was cut the hull stays."""
    reach = _REACH * hull.cell
    near = np.clip(hull.field, -reach, reach)
    return _lowered(hull, near, gaussian_filter(near - np.clip(carved.field, -reach, reach), sigma))


def without_terraces(grid: Grid, sigma: float) -> Grid:
    """The field averaged along z, near the surface, over `sigma` cells.

    Views from one height that stand a pixel too high or too low cut steps into the hull, level all around.
    """
    reach = _REACH * grid.cell
    field = gaussian_filter1d(np.clip(grid.field, -reach, reach), sigma, axis=2)
    return Grid(np.where(np.abs(grid.field) < reach, field, grid.field), grid.origin, grid.cell)


def _lowered(hull: Grid, near: np.ndarray, carve: np.ndarray) -> Grid:
    """The hull, its field `near` lowered by `carve`; as it was where that is next to nothing."""
    field = np.where(carve > 1e-3 * hull.cell, near - carve, hull.field)
    return Grid(field.astype(np.float32), hull.origin, hull.cell)
