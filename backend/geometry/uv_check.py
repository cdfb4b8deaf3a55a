"""Is a UV layout fit for use: stretch, texel density, flipped and overlapping triangles, gaps."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from backend.geometry.mesh_raster import rasterize_pixels


@dataclass(frozen=True)
class UvQuality:
    """Figures of one layout, averages by surface area; 1 is perfect where nothing else is said.

    stretch      L2 stretch of Sander et al. 2001 (Texture Mapping Progressive Meshes): root mean square of
                 the singular values of the map from the atlas to the surface, scaled to equal area
    angle        mean of (s1/s2 + s2/s1) / 2, s1 and s2 the singular values
    area         mean of (r + 1/r) / 2, r the areal scale over its mean
    density_span texel density (texels a metre): 95th percentile over 5th
    utilisation  share of the unit square that triangles cover
    flipped      triangles that run clockwise in the atlas
    collapsed    triangles without area in the atlas though they have some on the surface
    """

    stretch: float
    angle: float
    area: float
    density_span: float
    utilisation: float
    flipped: int
    collapsed: int


def singular_values(
    vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the map surface -> atlas, each face: larger (F,), smaller (F,), signed areas in the atlas (F,).

    uvs (F, 3, 2). Faces without area on the surface give zeros.
    """
    points = np.asarray(vertices, dtype=np.float64)[faces]
    first, second = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    length = np.linalg.norm(first, axis=1)
    safe = np.where(length > 0, length, 1)
    x = np.einsum("fi,fi->f", first, second) / safe
    y = np.linalg.norm(np.cross(first, second), axis=1) / safe
    flat = (length <= 0) | (y <= 1e-9 * length)
    flat_uvs = np.asarray(uvs, dtype=np.float64)
    p, q = flat_uvs[:, 1] - flat_uvs[:, 0], flat_uvs[:, 2] - flat_uvs[:, 0]
    area = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]) / 2
    along = p / safe[:, None]
    across = (q - along * x[:, None]) / np.where(flat, 1, y)[:, None]
    half_sum = (np.einsum("fi,fi->f", along, along) + np.einsum("fi,fi->f", across, across)) / 2
    determinant = along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]
    root = np.sqrt(np.maximum(half_sum**2 - determinant**2, 0))
    large, small = np.sqrt(half_sum + root), np.sqrt(np.maximum(half_sum - root, 0))
    return np.where(flat, 0, large), np.where(flat, 0, small), area


def measure_uvs(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> UvQuality:
    """vertices (V, 3), faces (F, 3), uvs (F, 3, 2) in the unit square."""
    large, small, area = singular_values(vertices, faces, uvs)
    points = np.asarray(vertices, dtype=np.float64)[faces]
    true = np.linalg.norm(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]), axis=1) / 2
    flipped = int(np.count_nonzero(area < 0))
    solid = true > 1e-9 * true.mean()
    collapsed = int(np.count_nonzero(solid & (area == 0)))
    use = solid & (small > 0)
    weight, large, small = true[use] / true[use].sum(), large[use], small[use]
    scale = np.sqrt(np.abs(area).sum() / true.sum())
    stretch = float(np.sqrt((weight * (small**-2 + large**-2) / 2).sum()) * scale)
    ratio = large * small / scale**2
    order = np.argsort(ratio)
    spread = np.cumsum(weight[order])
    low, high = (np.sqrt(ratio[order][min(np.searchsorted(spread, q), len(order) - 1)]) for q in (0.05, 0.95))
    return UvQuality(
        stretch,
        float((weight * (large / small + small / large)).sum() / 2),
        float((weight * (ratio + 1 / ratio)).sum() / 2),
        float(high / low),
        float(np.abs(area).sum()),
        flipped,
        collapsed,
    )


def overlapping_texels(uvs: np.ndarray, size: int) -> int:
    """How many texel centres of a size x size atlas lie strictly inside two triangles or more."""
    points = np.ones((len(uvs) * 3, 3))
    points[:, :2] = np.asarray(uvs, dtype=np.float64).reshape(-1, 2) * size
    corners = np.arange(len(points), dtype=np.int32).reshape(-1, 3)
    # Whoever wins with depths growing from face to face and with depths falling is alone at that texel.
    depth = 1 + np.repeat(np.arange(len(uvs)), 3) / len(uvs)
    points[:, 2] = depth
    lowest = rasterize_pixels(points, corners, size, size)
    points[:, 2] = 3 - depth
    highest = rasterize_pixels(points, corners, size, size)
    inside = (lowest.barycentric.min(axis=2) > 1e-4) & (highest.barycentric.min(axis=2) > 1e-4)
    return int(np.count_nonzero((lowest.face != highest.face) & inside))


def uv_islands(faces: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """(F,) int: the island of each face; faces are joined where they share a vertex at the same place."""
    place = np.ascontiguousarray(uvs, dtype=np.float32).reshape(-1, 2).view(np.int64).ravel()
    corners = np.stack([np.asarray(faces, dtype=np.int64).ravel(), place], axis=1)
    _, point = np.unique(corners, axis=0, return_inverse=True)
    face = np.repeat(np.arange(len(faces)), 3)
    size = len(faces) + int(point.max()) + 1
    links = (np.ones(len(face), dtype=np.int8), (face, len(faces) + point.ravel()))
    return connected_components(coo_matrix(links, shape=(size, size)), directed=False)[1][: len(faces)]


def narrowest_gap(islands: np.ndarray, uvs: np.ndarray, size: int, most: int) -> int:
    """Free texels between the texels of the two nearest islands at atlas size `size`; `most` if more.

    A texel belongs to an island that covers its centre.
    """
    points = np.ones((len(uvs) * 3, 3))
    points[:, :2] = np.asarray(uvs, dtype=np.float64).reshape(-1, 2) * size
    corners = np.arange(len(points), dtype=np.int32).reshape(-1, 3)
    face = rasterize_pixels(points, corners, size, size).face
    owner = np.where(face >= 0, islands[np.maximum(face, 0)] + 1, 0).astype(np.float32)
    for gap in range(most):
        # A disc around a texel of one island that meets another's.
        reach = gap + 1
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disc = (x * x + y * y <= reach * reach).astype(np.uint8)
        highest = cv2.dilate(owner, disc)
        lowest = cv2.erode(np.where(owner > 0, owner, np.float32(3e38)), disc)
        if ((highest != lowest) & (owner > 0)).any():
            return gap
    return most
