"""What no camera sees from below: the cone that a visual hull hangs under the object is cut off.

Cameras that all look down from a ring leave the underside to the hull, which there is a cone as steep as
the sight lines. An object stands on its base, and the base is no lower than the lowest point that any
view sees: a flat cut there agrees with every silhouette. Where the wall already turns inward above the
cut the underside is taken for round, and half of the cone is left.
"""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid, Silhouettes, extract_surface
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import map_parallel

_LEAST_ELEVATION = 2.0
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
    swollen = Grid(grid.field + np.float32(0.5 * grid.cell), grid.origin, grid.cell)
    vertices, faces = extract_surface(swollen)
    seen = map_parallel(lambda n: _lowest_seen(vertices, faces, masks, cameras, n, up), range(len(cameras)))
    lowest = float(np.quantile(seen, doubted, method="lower"))
    if not np.isfinite(lowest):
        return grid
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2.0
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


def _lowest_seen(
    vertices: np.ndarray, faces: np.ndarray, masks: Silhouettes, cameras: Cameras, view: int, up: np.ndarray
) -> float:
    """Lowest height along `up` at which a sight line inside the mask enters the hull; inf if none does."""
    half = cameras.resized(cameras.width // 2, cameras.height // 2)
    pose, intrinsics = half.world_from_camera[view], half.intrinsics[view]
    depth = rasterize_mesh(vertices, faces, pose, intrinsics, half.width, half.height).depth
    distance = masks.distance[view][: 2 * half.height : 2, : 2 * half.width : 2]
    row, column = np.nonzero(np.isfinite(depth) & (distance > 0.5) & (distance < _EDGE))
    if not len(row):
        return np.inf
    z = depth[row, column].astype(np.float64)
    x = (column + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0] * z
    y = (row + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1] * z
    height = np.stack([x, y, z], axis=1) @ (pose[:3, :3].T @ up) + pose[:3, 3] @ up
    # The pixel is a little above the edge that it belongs to.
    height -= distance[row, column] * z / masks.focal[view]
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
