"""Depth maps of many views into one signed distance field (Curless and Levoy 1996)."""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid
from backend.geometry.jit import kernel
from backend.geometry.parallel import bands, map_parallel, thread_count


@dataclass(frozen=True)
class Fused:
    """On the points of a grid.

    distance (X, Y, Z) float32 metres, > 0 inside (behind the surface), meaningless where weight is 0
    weight   (X, Y, Z) float32: sum of the weights of the views that see the point or just behind it
    """

    distance: np.ndarray
    weight: np.ndarray


@kernel
def _fuse_planes(depth, weight, projection, hull, cell, truncation, skip_below, start, stop, out, seen):
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
                    behind = np.float32(w) - d
                    if behind > truncation:
                        continue
                    share = weight[n, near_row, near_column]
                    total += share
                    mean += share * max(behind, -truncation)
                if total > 0.0:
                    out[i, j, k] = mean / total
                    seen[i, j, k] = total


def fuse_depth(
    depth: np.ndarray, weight: np.ndarray, cameras: Cameras, hull: Grid, truncation: float
) -> Fused:
    """Fuse depth (N, h, w) float32 metres (0 = unknown) with weight (N, h, w) on the points of `hull`.

    cameras     of the depth maps' size
    truncation  metres: points further behind a surface do not hear of it; before it they hear this much
    Points outside the hull are left out.
    """
    out, seen = np.zeros_like(hull.field), np.zeros_like(hull.field)
    projection = cameras.intrinsics @ cameras.camera_from_world[:, :3]
    projection[:, :, 3] += projection[:, :, :3] @ hull.origin
    projection = np.ascontiguousarray(projection)
    limit = np.float32(-2 * hull.cell)
    map_parallel(
        lambda band: _fuse_planes(
            depth, weight, projection, hull.field, hull.cell, np.float32(truncation), limit, *band, out, seen
        ),
        bands(len(out), 4 * thread_count()),
    )
    return Fused(out, seen)


def merge_fused(hull: Grid, fused: Fused, *, enough: float = 0.5) -> Grid:
    """min(hull, fused) where the views saw enough, the hull elsewhere, with a soft passage.

    enough: the weight from which fused depth counts in full.
    """
    from scipy.ndimage import gaussian_filter

    lowered = np.minimum(hull.field, fused.distance)
    share = np.clip(fused.weight / enough, 0, 1)
    field = hull.field + share * (lowered - hull.field)
    near = np.clip(field, -4 * hull.cell, 4 * hull.cell)
    smooth = gaussian_filter(near, 0.7)
    changed = (fused.weight > 0) & (hull.field > -hull.cell)
    return Grid(np.where(changed, np.minimum(smooth, hull.field), hull.field), hull.origin, hull.cell)
