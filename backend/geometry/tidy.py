"""No slivers: corners of faces with hardly any area slide along the surface; topology stays."""

from collections.abc import Callable

import numpy as np

from backend.geometry.smoothing import neighbour_means
from backend.geometry.tangents import smooth_normals

_ROUNDS = 30
_LEAST_QUALITY = 0.02
"""4 sqrt(3) area / sum of squared sides: 1 for an equilateral face."""
_LEAST_AREA = 1e-3
"""Of the mean area."""


def without_slivers(
    vertices: np.ndarray, faces: np.ndarray, check: Callable[[], None] = lambda: None
) -> np.ndarray:
    """The vertices (V, 3) float32 of a closed mesh, corners of slivers moved toward their neighbours' middle.

    They stay in the tangent plane. A mesh without slivers comes back as it is. A surface taken from a grid
    has slivers wherever it passes close to a grid point.
    """
    points = np.array(vertices, dtype=np.float64)
    means = None
    for _ in range(_ROUNDS):
        thin = slivers(points, faces)
        if not thin.any():
            break
        check()
        if means is None:
            means = neighbour_means(faces, len(points))
        corners = np.unique(faces[thin])
        step = 0.5 * (means[corners] @ points - points[corners])
        normals = smooth_normals(points, faces)[corners].astype(np.float64)
        points[corners] += step - (step * normals).sum(axis=1, keepdims=True) * normals
    return points.astype(np.float32)


def slivers(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) bool: faces with hardly any area for their sides, or for the mesh."""
    corners = np.asarray(vertices, dtype=np.float64)[faces]
    double = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    sides = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=(1, 2))
    return (2 * np.sqrt(3) * double < _LEAST_QUALITY * sides) | (double < _LEAST_AREA * double.mean())
