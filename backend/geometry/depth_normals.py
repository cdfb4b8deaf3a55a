"""Normals of a depth picture, and their gradient: cross product of central differences of its points.

As GSplat's `depth_to_normal`, but only where the pixel and its four neighbours are covered: differences
across an outline would give the normals of nothing.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.jit import inline_kernel, kernel
from backend.geometry.parallel import for_bands

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

    depth (H, W) float32 metres along the camera axis, alpha (H, W) float32; a normal needs alpha of
    LEAST_ALPHA and finite depth in the pixel and its four neighbours. pose (4, 4) OpenCV axes,
    intrinsics (3, 3) pixels.
    """
    depth, alpha, lens, rotation = _arguments(depth, alpha, world_from_camera, intrinsics)
    normals = np.zeros((*depth.shape, 3), dtype=np.float32)
    for_bands(lambda start, stop: _fill(start, stop, depth, alpha, lens, rotation, normals), len(depth))
    return normals


def normals_from_depth_back(
    upstream: np.ndarray,
    depth: np.ndarray,
    alpha: np.ndarray,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
) -> DepthGradient:
    """upstream (H, W, 3), dL/d normals -> dL/d depth and camera. Which pixels count is not differentiated."""
    depth, alpha, lens, rotation = _arguments(depth, alpha, world_from_camera, intrinsics)
    to_depth, to_tangent, to_lens = np.zeros(depth.shape), np.zeros(6), np.zeros(4)
    upstream = np.ascontiguousarray(upstream, dtype=np.float32)
    _back(upstream, depth, alpha, lens, rotation, to_depth, to_tangent, to_lens)
    return DepthGradient(to_depth, to_tangent, to_lens)


def _arguments(depth, alpha, world_from_camera, intrinsics):
    lens = np.array(
        [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]], dtype=np.float64
    )
    rotation = np.ascontiguousarray(world_from_camera[:3, :3], dtype=np.float64)
    return *(np.ascontiguousarray(a, dtype=np.float32) for a in (depth, alpha)), lens, rotation


@inline_kernel
def _covered(depth, alpha, v, u):
    return alpha[v, u] >= LEAST_ALPHA and depth[v, u] < np.inf


@inline_kernel
def _whole(depth, alpha, v, u):
    """Are an inner pixel and its four neighbours covered?"""
    return (
        _covered(depth, alpha, v, u)
        and _covered(depth, alpha, v + 1, u)
        and _covered(depth, alpha, v - 1, u)
        and _covered(depth, alpha, v, u + 1)
        and _covered(depth, alpha, v, u - 1)
    )


@inline_kernel
def _step(depth, lens, v, u, dv, du):
    """Camera-frame point at (v + dv, u + du) minus the one at (v - dv, u - du)."""
    near, far = np.float64(depth[v - dv, u - du]), np.float64(depth[v + dv, u + du])
    x, y = u + 0.5 - lens[2], v + 0.5 - lens[3]
    return (
        (far * (x + du) - near * (x - du)) / lens[0],
        (far * (y + dv) - near * (y - dv)) / lens[1],
        far - near,
    )


@kernel
def _fill(start, stop, depth, alpha, lens, rotation, normals):
    """Rows start..stop of normals (H, W, 3), which the caller has zeroed."""
    height, width = depth.shape
    for v in range(max(start, 1), min(stop, height - 1)):
        for u in range(1, width - 1):
            if not _whole(depth, alpha, v, u):
                continue
            ax, ay, az = _step(depth, lens, v, u, 1, 0)
            bx, by, bz = _step(depth, lens, v, u, 0, 1)
            x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            length = np.sqrt(x * x + y * y + z * z)
            if length > _TINY:
                for k in range(3):
                    normals[v, u, k] = (rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] * z) / length


@inline_kernel
def _push(depth, lens, v, u, gx, gy, gz, to_depth, to_lens):
    """Gradient of the camera-frame point of pixel (v, u) -> of its depth and of the lens."""
    x, y, z = (u + 0.5 - lens[2]) / lens[0], (v + 0.5 - lens[3]) / lens[1], depth[v, u]
    to_depth[v, u] += gx * x + gy * y + gz
    to_lens[0] -= gx * x * z / lens[0]
    to_lens[1] -= gy * y * z / lens[1]
    to_lens[2] -= gx * z / lens[0]
    to_lens[3] -= gy * z / lens[1]


@kernel
def _back(upstream, depth, alpha, lens, rotation, to_depth, to_tangent, to_lens):
    """Adds to to_depth (H, W), to_tangent (6,) and to_lens (4,), all float64. One thread: rows overlap."""
    height, width = depth.shape
    r = rotation
    for v in range(1, height - 1):
        for u in range(1, width - 1):
            if not _whole(depth, alpha, v, u):
                continue
            ax, ay, az = _step(depth, lens, v, u, 1, 0)
            bx, by, bz = _step(depth, lens, v, u, 0, 1)
            x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            length = np.sqrt(x * x + y * y + z * z)
            if not length > _TINY:
                continue
            x, y, z = x / length, y / length, z / length
            g0, g1, g2 = upstream[v, u, 0], upstream[v, u, 1], upstream[v, u, 2]
            gx = r[0, 0] * g0 + r[1, 0] * g1 + r[2, 0] * g2
            gy = r[0, 1] * g0 + r[1, 1] * g1 + r[2, 1] * g2
            gz = r[0, 2] * g0 + r[1, 2] * g1 + r[2, 2] * g2
            # The points stay in the camera; its motion turns only what is read as the world's axes.
            to_tangent[0] += gy * z - gz * y
            to_tangent[1] += gz * x - gx * z
            to_tangent[2] += gx * y - gy * x
            along = gx * x + gy * y + gz * z
            gx, gy, gz = (gx - along * x) / length, (gy - along * y) / length, (gz - along * z) / length
            # c = a x b: dL/da = b x g, dL/db = g x a.
            px, py, pz = by * gz - bz * gy, bz * gx - bx * gz, bx * gy - by * gx
            _push(depth, lens, v + 1, u, px, py, pz, to_depth, to_lens)
            _push(depth, lens, v - 1, u, -px, -py, -pz, to_depth, to_lens)
            px, py, pz = gy * az - gz * ay, gz * ax - gx * az, gx * ay - gy * ax
            _push(depth, lens, v, u + 1, px, py, pz, to_depth, to_lens)
            _push(depth, lens, v, u - 1, -px, -py, -pz, to_depth, to_lens)
