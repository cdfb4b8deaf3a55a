"""Marching squares: the inside of a mask as triangles whose rim lies on the sub-pixel contour."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.5
_NEAREST = 0.02
"""Contour vertices keep this share of a cell from the grid points, so that no triangle degenerates."""


@dataclass(frozen=True)
class FlatMesh:
    """A triangulated mask.

    points   (V, 2) float64 pixels x, y (pixel centres at +0.5); the first `inner` are grid points
    faces    (F, 3) int32, clockwise on the picture (rows downward)
    inner    number of grid points; the rest are contour points
    grid     (inner,) int64 flat index of each grid point in the mask
    ends     (V - inner, 2) int64 flat indices of the two grid points (inside, outside) of each contour
             point, fraction (V - inner,) its place between them, 0 at the inside one
    """

    points: np.ndarray
    faces: np.ndarray
    inner: int
    grid: np.ndarray
    ends: np.ndarray
    fraction: np.ndarray


def _polygons() -> list[list[int]]:
    """For each of 16 cases the polygon as corner (0..3) and edge (4..7) numbers, walked once around.

    Cells with two opposite corners inside are joined, so that a thin diagonal line stays one part. A walk
    starts at an inside corner: the fan's inner edges then never join two contour points, which the front
    and the back share.
    """
    cases = []
    for case in range(16):
        walk = []
        first = next((corner for corner in range(4) if case >> corner & 1), 0)
        for corner in (*range(first, 4), *range(first)):
            here, there = case >> corner & 1, case >> ((corner + 1) % 4) & 1
            if here:
                walk.append(corner)
            if here != there:
                walk.append(4 + corner)
        cases.append(walk)
    return cases


_CASES = _polygons()


def triangulate(alpha: np.ndarray) -> FlatMesh:
    """Triangles of alpha > 0.5; alpha (H, W) float, its outermost pixels count as outside."""
    height, width = alpha.shape
    alpha = np.pad(alpha[1:-1, 1:-1].astype(np.float64), 1)
    inside = alpha > LEVEL
    index = np.arange(height * width).reshape(height, width)
    case = (
        inside[:-1, :-1] * 1 + inside[:-1, 1:] * 2 + inside[1:, 1:] * 4 + inside[1:, :-1] * 8
    )  # corners clockwise from the top left
    # Vertex keys: grid points 0..HW-1, horizontal edges HW.., vertical edges 2HW.., by their first point.
    area = height * width
    corner = index[:-1, :-1]
    keys = np.stack(
        [corner, corner + 1, corner + width + 1, corner + width,
         area + corner, 2 * area + corner + 1, area + corner + width, 2 * area + corner]
    )  # fmt: skip
    triangles = []
    for number, walk in enumerate(_CASES):
        cells = case == number
        for second in range(1, len(walk) - 1):
            triangles.append(np.stack([keys[walk[k]][cells] for k in (0, second, second + 1)], axis=-1))
    used, faces = np.unique(np.concatenate(triangles), return_inverse=True)
    grid = used[used < area]
    edges = used[used >= area]
    first = edges % area
    second = np.where(edges < 2 * area, first + 1, first + width)
    flat_inside = inside.ravel()
    start = np.where(flat_inside[first], first, second)
    end = np.where(flat_inside[first], second, first)
    a, b = alpha.ravel()[start], alpha.ravel()[end]
    fraction = np.clip((a - LEVEL) / (a - b), _NEAREST, 1 - _NEAREST)
    place = np.stack([index.ravel() % width, index.ravel() // width], axis=-1) + 0.5
    rim = place[start] * (1 - fraction)[:, None] + place[end] * fraction[:, None]
    return FlatMesh(
        np.concatenate([place[grid], rim]),
        faces.reshape(-1, 3).astype(np.int32),
        len(grid),
        grid,
        np.stack([start, end], axis=-1),
        fraction,
    )
