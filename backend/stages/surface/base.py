"""What no camera sees from below: the cone that a visual hull hangs under the object is cut off.

Cameras that all look down from a ring leave the underside to the hull, which there is a cone as steep as
the sight lines. An object stands on its base, and the base is no lower than the lowest point that any
view sees: a flat cut there agrees with every silhouette. Where the wall already turns inward above the
cut the underside is taken for round, and half of the cone is left.
"""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid, Silhouettes
from backend.geometry.field_rays import entry_distance, first_hits

_LEAST_ELEVATION = 2.0
_FAR = 6.0
"""Cells: fields are clipped to this."""
_EDGE = 2.5
_BOTTOM = 3
_MARGIN, _WORTHWHILE = 0.2, 2.5
"""In cells: the cut stays this much lower; a smaller cone is left alone (it may be a round tip)."""


def cut_base(grid: Grid, masks: Silhouettes, cameras: Cameras, doubted: float = 0.0) -> Grid:
    """The hull, cut flat under the lowest point seen; unchanged where a camera may see the underside.

    cameras  of the views in `masks`
    """
    up = -cameras.world_from_camera[:, :3, 1].mean(axis=0)
    if np.linalg.norm(up) < 0.3 or masks.open_sides[:, _BOTTOM].any():
        return grid
    up = up / np.linalg.norm(up)
    # A sight line along the edge of the mask grazes the whole cone. It is to stop where it meets the near
    # side, not where it leaves by rounding: the surface is taken half a cell outside.
    swollen = np.clip(grid.field / grid.cell + 0.5, -_FAR, _FAR).astype(np.float32)
    seen = [_lowest_seen(swollen, grid, masks, cameras, n, up) for n in range(len(cameras))]
    lowest = float(np.quantile(seen, doubted, method="lower"))
    if not np.isfinite(lowest):
        return grid
    middle = grid.origin + grid.cell * np.array([_middle(swollen > 0, axis) for axis in range(3)])
    away = cameras.centres - (middle + (lowest - middle @ up) * up)
    rise = away @ up
    elevation = np.degrees(np.arctan2(rise, np.linalg.norm(away - rise[:, None] * up, axis=1)))
    if elevation.min() < _LEAST_ELEVATION:
        return grid
    axes = [grid.origin[i] + grid.cell * np.arange(n) for i, n in enumerate(grid.field.shape)]
    height = (
        (axes[0] * up[0])[:, None, None] + (axes[1] * up[1])[None, :, None] + (axes[2] * up[2])[None, None, :]
    )
    apex = float(height[grid.field > 0].min())
    lowest -= _MARGIN * grid.cell
    if apex > lowest - _WORTHWHILE * grid.cell:
        return grid
    steepest = 1 / np.tan(np.radians(np.median(elevation)))
    level = lowest - 0.5 * _turned_in(grid, height, lowest, steepest) * (lowest - apex)
    field = np.minimum(grid.field, (height - level).astype(np.float32))
    return Grid(field, grid.origin, grid.cell)


def _middle(inside: np.ndarray, axis: int) -> float:
    """Middle of the box around what is `inside` (X, Y, Z), along one axis, in cells."""
    there = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
    return (there[0] + there[-1]) / 2.0


def _lowest_seen(
    field: np.ndarray, grid: Grid, masks: Silhouettes, cameras: Cameras, view: int, up: np.ndarray
) -> float:
    """Lowest height along `up` at which a sight line inside the mask enters the hull; inf if none does.

    field (X, Y, Z) float32: the hull's, in cells of `grid`
    """
    half = cameras.resized(cameras.width // 2, cameras.height // 2)
    pose, k = half.world_from_camera[view], half.intrinsics[view]
    distance = masks.distance[view][: 2 * half.height : 2, : 2 * half.width : 2]
    row, column = np.nonzero((distance > 0.5) & (distance < _EDGE))
    rays = np.stack(
        [(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(row))], axis=1
    )
    length = np.linalg.norm(rays, axis=1)
    rays = rays @ pose[:3, :3].T / length[:, None]
    origin = np.repeat((pose[:3, 3] - grid.origin)[None] / grid.cell, len(row), axis=0)
    start = entry_distance(origin, rays, field.shape)
    met = first_hits(field, origin, rays, start)
    hit = met >= 0
    if not hit.any():
        return np.inf
    height = grid.origin @ up + grid.cell * ((origin + met[:, None] * rays)[hit] @ up)
    # The pixel is a little above the edge that it belongs to.
    height -= distance[row, column][hit] * (grid.cell * met / length)[hit] / masks.focal[view]
    return float(height.min())


def _turned_in(grid: Grid, height: np.ndarray, level: float, steepest: float) -> float:
    """How round the shape is just above `level`: 0 for an upright wall, 1 for one as flat as the cone."""
    inside = grid.field > 0
    gap = 2 * grid.cell

    def area(low: float) -> float:
        return np.count_nonzero(inside & (height >= low) & (height < low + gap)) * grid.cell**3 / gap

    first, second = area(level + gap), area(level + 3 * gap)
    around = 2 * np.sqrt(np.pi * max(first, grid.cell**2))  # of a disc: an outline is longer, the inset less
    inset = (second - first) / (2 * gap * around)
    return float(np.clip(inset / steepest, 0, 1))
