"""Smoothing of fields and meshes that keeps their size."""

import numpy as np
from scipy.sparse import csr_matrix

from backend.geometry.decimate import unique_edges


def neighbour_means(faces: np.ndarray, count: int) -> csr_matrix:
    """(count, count) sparse matrix that averages the neighbours of each vertex."""
    edges = unique_edges(faces)
    rows = np.concatenate([edges[:, 0], edges[:, 1]])
    columns = np.concatenate([edges[:, 1], edges[:, 0]])
    degree = np.bincount(rows, minlength=count).clip(min=1)
    return csr_matrix((1.0 / degree[rows], (rows, columns)), shape=(count, count))


def taubin(
    vertices: np.ndarray, faces: np.ndarray, *, rounds: int, shrink: float = 0.5, grow: float = -0.53
) -> np.ndarray:
    """Taubin (1995): Laplacian steps that alternately shrink and grow, so that volume is kept.

    vertices (V, 3) -> (V, 3) float32. The faces stay as they are.
    """
    if not len(faces):
        return np.asarray(vertices, dtype=np.float32)
    means = neighbour_means(faces, len(vertices))
    points = np.asarray(vertices, dtype=np.float64)
    for _ in range(rounds):
        for weight in (shrink, grow):
            points = points + weight * (means @ points - points)
    return points.astype(np.float32)
