"""Normals of a depth picture, and their gradient: cross product of central differences of its points.

As GSplat's `depth_to_normal`, but only where the pixel and its four neighbours are covered: differences
across an outline would give the normals of nothing.
"""

from dataclasses import dataclass

import numpy as np

LEAST_ALPHA = 0.5
_TINY = 1e-30


@dataclass(frozen=True)
class DepthGradient:
    """Of a loss on normals: depth (H, W) float64; tangent (6,), intrinsics (4,) as `CameraGradient`."""

    depth: np.ndarray
    tangent: np.ndarray
    intrinsics: np.ndarray


def normals_from_depth(
    depth: np.ndarray, alpha: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray
) -> np.ndarray:
    """(H, W, 3) float32 unit normals in the world, towards the camera; 0 where there is none.

    depth (H, W) metres along the camera axis, alpha (H, W); a normal needs alpha of LEAST_ALPHA and finite
    depth in the pixel and its four neighbours. pose (4, 4) OpenCV axes, intrinsics (3, 3) pixels.
    """
    return (_surface(depth, alpha, intrinsics).normals @ world_from_camera[:3, :3].T).astype(np.float32)


def normals_from_depth_back(
    upstream: np.ndarray,
    depth: np.ndarray,
    alpha: np.ndarray,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
) -> DepthGradient:
    """upstream (H, W, 3), dL/d normals -> dL/d depth and camera. Which pixels count is not differentiated."""
    surface = _surface(depth, alpha, intrinsics)
    normals, points = surface.normals, surface.points
    # n = c / |c|, c = d_v x d_u.
    turned = upstream @ world_from_camera[:3, :3]
    along = np.sum(turned * normals, axis=-1, keepdims=True)
    cross = (turned - along * normals) * surface.inverse_length[..., None]
    cross = cross[1:-1, 1:-1]
    to_v, to_u = np.cross(surface.d_u, cross), np.cross(cross, surface.d_v)
    to_points = np.zeros_like(points)
    to_points[2:, 1:-1] += to_v
    to_points[:-2, 1:-1] -= to_v
    to_points[1:-1, 2:] += to_u
    to_points[1:-1, :-2] -= to_u
    x, y, z = np.moveaxis(points, -1, 0)
    to_x, to_y, _ = np.moveaxis(to_points, -1, 0)
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    to_intrinsics = -np.array(
        [np.sum(to_x * x) / fx, np.sum(to_y * y) / fy, np.sum(to_x * z) / fx, np.sum(to_y * z) / fy]
    )
    # The points stay in the camera; the camera's motion turns only what is read as the world's axes.
    rotation = np.cross(turned.reshape(-1, 3), normals.reshape(-1, 3)).sum(axis=0)
    tangent = np.concatenate([rotation, np.zeros(3)])
    return DepthGradient(np.sum(to_points * surface.rays, axis=-1), tangent, to_intrinsics)


@dataclass(frozen=True)
class _Surface:
    """Camera frame: points and rays (H, W, 3), differences (H-2, W-2, 3), normals with zeros for none."""

    points: np.ndarray
    rays: np.ndarray
    d_u: np.ndarray
    d_v: np.ndarray
    inverse_length: np.ndarray
    normals: np.ndarray


def _surface(depth: np.ndarray, alpha: np.ndarray, intrinsics: np.ndarray) -> _Surface:
    height, width = depth.shape
    covered = (alpha >= LEAST_ALPHA) & np.isfinite(depth)
    inner = covered[1:-1, 1:-1] & covered[2:, 1:-1] & covered[:-2, 1:-1] & covered[1:-1, 2:]
    inner = inner & covered[1:-1, :-2]
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack(
        [
            (u - intrinsics[0, 2]) / intrinsics[0, 0],
            (v - intrinsics[1, 2]) / intrinsics[1, 1],
            np.ones((height, width)),
        ],
        axis=-1,
    )
    points = rays * np.where(covered, depth, 0)[..., None]
    d_u, d_v = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    cross = np.cross(d_v, d_u)
    length = np.linalg.norm(cross, axis=-1)
    inverse = np.zeros((height, width))
    inverse[1:-1, 1:-1] = np.where(inner & (length > _TINY), 1 / np.maximum(length, _TINY), 0)
    normals = np.zeros((height, width, 3))
    normals[1:-1, 1:-1] = cross * inverse[1:-1, 1:-1, None]
    return _Surface(points, rays, d_u, d_v, inverse, normals)
