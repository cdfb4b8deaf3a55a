"""Tangent space as glTF and Blender have it: Mikkelsen's (2008, "Simulation of wrinkled surfaces revisited").

Viewers compute it from positions, normals and UVs when a file brings none, so a normal map must be baked in
this very space: x along u, y along v (v up, OpenGL's convention), z the smooth normal, interpolated over
the triangle and not normalised before use.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TangentFrames:
    """The frame at every face corner.

    normals   (F, 3, 3) unit, smooth
    tangents  (F, 3, 3) unit, perpendicular to the normal
    signs     (F,) +1 or -1: bitangent = sign * cross(normal, tangent)
    """

    normals: np.ndarray
    tangents: np.ndarray
    signs: np.ndarray


def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float32 unit normals, faces weighted by their angle at the vertex, as Blender's are.

    (Thürmer and Wüthrich 1998.) +Z where a vertex has no face with an area.
    """
    points = np.asarray(vertices, dtype=np.float64)[faces]
    across = _unit(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]))
    share = _corner_angles(points)[..., None] * across[:, None]
    corner = np.asarray(faces).ravel()
    sums = np.stack(
        [np.bincount(corner, share[..., axis].ravel(), len(vertices)) for axis in range(3)], axis=1
    )
    normals = _unit(sums)
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0, 0, 1)
    return normals.astype(np.float32)


def _corner_angles(points: np.ndarray, normals: np.ndarray | None = None) -> np.ndarray:
    """(F, 3) radians between the edges at each corner of points (F, 3, 3), laid into the tangent planes."""
    ahead, behind = (np.roll(points, turn, axis=1) - points for turn in (-1, 1))
    if normals is not None:
        ahead, behind = _flattened(ahead, normals), _flattened(behind, normals)
    return np.arccos(np.clip((_unit(ahead) * _unit(behind)).sum(axis=-1), -1, 1))


def tangent_frames(
    vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, normals: np.ndarray
) -> TangentFrames:
    """Mikkelsen's frames: vertices (V, 3), faces (F, 3), uvs (F, 3, 2) v up, `smooth_normals` (V, 3).

    Corners of one vertex with the same UV and the same handedness share a tangent: the mean of their
    triangles' directions of u, each laid into the tangent plane and weighted by its angle at the corner.
    A triangle without area in the atlas takes any direction.
    """
    points = np.asarray(vertices, dtype=np.float64)[faces]  # (F, 3, 3)
    texture = np.asarray(uvs, dtype=np.float64)
    corner_normals = np.asarray(normals, dtype=np.float64)[faces]
    d1, d2 = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    t1, t2 = texture[:, 1] - texture[:, 0], texture[:, 2] - texture[:, 0]
    area = t1[:, 0] * t2[:, 1] - t1[:, 1] * t2[:, 0]
    signs = np.where(area > 0, 1.0, -1.0)
    along = (t2[:, 1:] * d1 - t1[:, 1:] * d2) * signs[:, None]
    along[area == 0] = 0
    # Each corner's share: direction in its own tangent plane, weight its angle in that plane.
    direction = _unit(_flattened(along[:, None], corner_normals))
    angle = _corner_angles(points, corner_normals)
    group = _groups(faces, uvs, signs)
    share = (angle[..., None] * direction).reshape(-1, 3)
    sums = np.stack([np.bincount(group, weights=share[:, axis]) for axis in range(3)], axis=1)
    tangents = _unit(sums)[group].reshape(-1, 3, 3)
    lost = np.linalg.norm(tangents, axis=-1) < 0.5
    if lost.any():
        n = corner_normals[lost]
        other = np.where(np.abs(n[:, :1]) < 0.9, np.array([[1.0, 0, 0]]), np.array([[0, 1.0, 0]]))
        tangents[lost] = _unit(_flattened(other, n))
    return TangentFrames(corner_normals, tangents, signs)


def encode_normals(
    normals: np.ndarray, frames: TangentFrames, face: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Unit normals (P, 3) in the frames at points of faces (P,), weights (P, 3): (P, 3) float32, 0..1.

    What a viewer does is undone exactly: it takes x T + y B + z N of the interpolated vectors and
    normalises the sum.
    """
    n = np.einsum("pk,pkc->pc", weights, frames.normals[face])
    t = np.einsum("pk,pkc->pc", weights, frames.tangents[face])
    b = frames.signs[face, None] * np.cross(n, t)
    # Rows of the inverse of [t b n], times its determinant, which is positive.
    local = np.stack(
        [
            (np.cross(b, n) * normals).sum(axis=1),
            (np.cross(n, t) * normals).sum(axis=1),
            (np.cross(t, b) * normals).sum(axis=1),
        ],
        axis=1,
    )
    local *= np.sign((np.cross(t, b) * n).sum(axis=1))[:, None]
    # A normal that leaves the surface cannot be shown.
    local[:, 2] = np.maximum(local[:, 2], 0.05 * np.linalg.norm(local, axis=1))
    local = np.where(np.abs(local).sum(axis=1, keepdims=True) > 0, local, [0.0, 0.0, 1.0])
    return (0.5 + 0.5 * _unit(local)).astype(np.float32)


def decode_normals(
    encoded: np.ndarray, frames: TangentFrames, face: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """What a viewer shades with: the twin of `encode_normals`, (P, 3) unit."""
    n = np.einsum("pk,pkc->pc", weights, frames.normals[face])
    t = np.einsum("pk,pkc->pc", weights, frames.tangents[face])
    b = frames.signs[face, None] * np.cross(n, t)
    x, y, z = (2 * np.asarray(encoded, dtype=np.float64) - 1).T[..., None]
    return _unit(x * t + y * b + z * n)


def _groups(faces: np.ndarray, uvs: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """(3F,) number of the tangent each corner uses: one for every vertex, UV and handedness."""
    keys = np.empty((faces.size, 4), dtype=np.uint32)
    keys[:, 0] = faces.ravel()
    keys[:, 1:3] = np.ascontiguousarray(uvs, dtype=np.float32).reshape(-1, 2).view(np.uint32)
    keys[:, 3] = np.repeat(signs > 0, 3)
    order = np.lexsort(keys.T)
    change = np.r_[False, (np.diff(keys[order].astype(np.int64), axis=0) != 0).any(axis=1)]
    group = np.empty(len(keys), dtype=np.int64)
    group[order] = np.cumsum(change)
    return group


def _flattened(vectors: np.ndarray, normals: np.ndarray) -> np.ndarray:
    return vectors - (vectors * normals).sum(axis=-1, keepdims=True) * normals


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
