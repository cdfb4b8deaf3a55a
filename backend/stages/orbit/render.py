"""Renders the two-sided shape from the ring's cameras."""

from dataclasses import dataclass

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import for_bands

SAMPLES = 2
"""Per pixel and axis."""
_SAME_SURFACE = 0.01
"""Samples of a pixel whose depth lies within this share of the nearest one belong to its surface."""


@dataclass(frozen=True)
class Shape:
    """A closed surface whose colours come from two pictures on camera 0's frame.

    vertices   (V, 3) float64 metres, world; faces (F, 3) int32, counter-clockwise seen from outside
    attributes (V, 3) float32: place on the pictures x, y (0..1), and how much of `front` is seen (0..1)
    pictures   (S, S, 6) float32, front colours and back colours, bled beyond the silhouette
    """

    vertices: np.ndarray
    faces: np.ndarray
    attributes: np.ndarray
    pictures: np.ndarray


@kernel
def _shade_rows(
    face, barycentric, depth, faces, attributes, pictures, row_start, row_stop, samples, rgba, mean_depth
):
    """Averages samples x samples fragments a pixel; pictures (S, S, 6) = front and back side by side."""
    size = pictures.shape[0]
    for row in range(row_start, row_stop):
        for column in range(rgba.shape[1]):
            nearest = np.inf
            for y in range(row * samples, (row + 1) * samples):
                for x in range(column * samples, (column + 1) * samples):
                    nearest = min(nearest, depth[y, x])
            if nearest == np.inf:
                continue
            hits, near_hits, depth_sum = 0, 0, 0.0
            for y in range(row * samples, (row + 1) * samples):
                for x in range(column * samples, (column + 1) * samples):
                    f = face[y, x]
                    if f < 0:
                        continue
                    u, v, share = 0.0, 0.0, 0.0
                    for k in range(3):
                        w, vertex = barycentric[y, x, k], faces[f, k]
                        u += w * attributes[vertex, 0]
                        v += w * attributes[vertex, 1]
                        share += w * attributes[vertex, 2]
                    u = min(max(u * size - 0.5, 0.0), size - 1.001)
                    v = min(max(v * size - 0.5, 0.0), size - 1.001)
                    i, j = int(u), int(v)
                    fu, fv = u - i, v - j
                    for k in range(6):
                        value = (1 - fv) * (
                            (1 - fu) * pictures[j, i, k] + fu * pictures[j, i + 1, k]
                        ) + fv * ((1 - fu) * pictures[j + 1, i, k] + fu * pictures[j + 1, i + 1, k])
                        rgba[row, column, k % 3] += value * (share if k < 3 else 1 - share)
                    hits += 1
                    if depth[y, x] <= nearest * (1 + _SAME_SURFACE):
                        depth_sum += depth[y, x]
                        near_hits += 1
            for k in range(3):
                rgba[row, column, k] /= hits
            rgba[row, column, 3] = hits / (samples * samples)
            mean_depth[row, column] = depth_sum / near_hits


def render(
    shape: Shape, world_from_camera: np.ndarray, intrinsics: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One view: rgba (size, size, 4) float32 and depth (size, size) float32 metres, inf outside."""
    fine = size * SAMPLES
    scale = np.diag([SAMPLES, SAMPLES, 1.0])
    hit = rasterize_mesh(shape.vertices, shape.faces, world_from_camera, scale @ intrinsics, fine, fine)
    rgba = np.zeros((size, size, 4), dtype=np.float32)
    depth = np.full((size, size), np.inf, dtype=np.float32)
    for_bands(
        lambda start, stop: _shade_rows(
            hit.face, hit.barycentric, hit.depth, shape.faces, shape.attributes, shape.pictures,
            start, stop, SAMPLES, rgba, depth,
        ),
        size,
    )  # fmt: skip
    return rgba, depth
