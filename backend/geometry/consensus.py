"""Views that nearly agree, brought into agreement: each is warped onto what the others show of a surface.

A generated orbit draws every view a pixel or so beside where the object's shape would put it. Each view is
drawn again from the pictures of its neighbours, projected through a first surface; the optical flow between
both (Kroeger 2016, "Fast optical flow using dense inverse search"), smoothed over much of the picture with
the weight of its gradients, is how far this view stands beside the others.
"""

from collections.abc import Callable

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.jit import kernel
from backend.geometry.mesh_check import vertex_normals
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import map_parallel

_NEIGHBOURS = 6
_SMOOTH, _LARGEST = 0.04, 0.012
"""Shares of the picture's longer side: sigma of the smoothing; larger flow is an error of matching."""
_STIFF = 3e-4
_GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@kernel
def _blend(points, normals, projection, centres, gray, alpha, depth, slack, out):
    """Mean grey of the views that see each point (P, 3), by the fourth power of the cosine; -1 for none."""
    views, height, width = depth.shape
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        total, mean = np.float32(0.0), np.float32(0.0)
        for n in range(views):
            p = projection[n]
            w = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
            if w <= 0.0:
                continue
            u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / w - 0.5
            v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / w - 0.5
            if u < 0.0 or v < 0.0 or u >= width - 1 or v >= height - 1:
                continue
            if w > depth[n, int(v + 0.5), int(u + 0.5)] + slack:
                continue
            dx, dy, dz = centres[n, 0] - x, centres[n, 1] - y, centres[n, 2] - z
            cosine = (dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]) / np.sqrt(
                dx * dx + dy * dy + dz * dz
            )
            if cosine <= 0.05:
                continue
            column, row = int(u), int(v)
            a, b = np.float32(u - column), np.float32(v - row)
            cover = min(
                alpha[n, row, column], alpha[n, row, column + 1],
                alpha[n, row + 1, column], alpha[n, row + 1, column + 1],
            )  # fmt: skip
            if cover < 0.98:
                continue
            value = (gray[n, row, column] * (1 - a) + gray[n, row, column + 1] * a) * (1 - b) + (
                gray[n, row + 1, column] * (1 - a) + gray[n, row + 1, column + 1] * a
            ) * b
            weight = np.float32(cosine * cosine * cosine * cosine)
            total += weight
            mean += weight * value
        out[i] = mean / total if total > 0.0 else np.float32(-1.0)


def _nearest_views(cameras: Cameras, centre: np.ndarray, count: int) -> np.ndarray:
    """(N, count) int64: the views whose directions from `centre` (3,) are nearest to each view's."""
    towards = cameras.centres - centre
    towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    cosine = np.round(towards @ towards.T, 6)
    np.fill_diagonal(cosine, -2)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :count]


def _others_picture(
    view: int,
    depth: np.ndarray,
    across: np.ndarray,
    gray: np.ndarray,
    alpha: np.ndarray,
    cameras: Cameras,
    others: np.ndarray,
    slack: float,
) -> np.ndarray:
    """(H, W) float32: the view as the others would draw it; -1 where they see nothing.

    depth   (N, H, W) of the surface in all views, inf outside
    across  (P, 3) the normals of the P pixels of this view that see it
    """
    pose, intrinsics = cameras.world_from_camera[view], cameras.intrinsics[view]
    row, column = np.nonzero(np.isfinite(depth[view]))
    z = depth[view, row, column].astype(np.float64)
    pixel = np.stack([column + 0.5, row + 0.5, np.ones(len(z))])
    points = (np.linalg.inv(intrinsics) @ pixel).T * z[:, None] @ pose[:3, :3].T + pose[:3, 3]
    across = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    found = np.empty(len(points), dtype=np.float32)
    projection = np.ascontiguousarray(cameras.intrinsics[others] @ cameras.camera_from_world[others, :3])
    _blend(
        points, across.astype(np.float64), projection, np.ascontiguousarray(cameras.centres[others]),
        gray[others], alpha[others], depth[others], slack, found,
    )  # fmt: skip
    picture = np.full(gray.shape[1:], -1, dtype=np.float32)
    picture[row, column] = found
    return picture


def _flow(others: np.ndarray, gray: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """(H, W, 2) smooth flow from the others' picture to the view, pixels; and its median length."""
    size = max(gray.shape)
    both = (others >= 0) & (alpha > 0.98)
    if not both.any():
        return np.zeros((*gray.shape, 2), dtype=np.float32), 0.0
    there, here = (np.where(both, picture, 0.5).astype(np.float32) for picture in (others, gray))
    bytes_there, bytes_here = (np.rint(p * 255).clip(0, 255).astype(np.uint8) for p in (there, here))
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    raw = search.calc(bytes_there, bytes_here, None)
    core = cv2.erode(both.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    core &= np.hypot(raw[..., 0], raw[..., 1]) < _LARGEST * size
    flow = np.empty_like(raw)
    for axis in range(2):
        slope = cv2.Sobel(there, cv2.CV_32F, 1 - axis, axis)
        weight = np.where(core, slope * slope, np.float32(0))
        sums = cv2.GaussianBlur(np.dstack([weight * raw[..., axis], weight]), (0, 0), _SMOOTH * size)
        flow[..., axis] = sums[..., 0] / (sums[..., 1] + np.float32(_STIFF))
    return flow, float(np.median(np.hypot(flow[both, 0], flow[both, 1])))


def agreeing_pictures(
    rgba: np.ndarray,
    cameras: Cameras,
    vertices: np.ndarray,
    faces: np.ndarray,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, float]:
    """Pictures warped to agree on a surface, and the mean over them of the median warp in pixels.

    rgba (N, H, W, 4) float32 straight alpha, N cameras; vertices (V, 3), faces (F, 3) a closed surface near
    the object's. What the pictures hold beyond smooth warps stays.
    """
    alpha = np.ascontiguousarray(rgba[..., 3])
    gray = np.stack(
        [(p[..., :3] @ _GRAY) * a + np.float32(0.5) * (1 - a) for p, a in zip(rgba, alpha, strict=True)]
    )
    normals = vertex_normals(vertices, faces)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    near = _nearest_views(cameras, (low + high) / 2, min(_NEIGHBOURS, len(cameras) - 1))
    slack = 0.01 * float((high - low).max())
    rows, columns = np.mgrid[0 : rgba.shape[1], 0 : rgba.shape[2]].astype(np.float32)

    depth = np.empty(alpha.shape, dtype=np.float32)

    def draw(view: int) -> np.ndarray:
        check()
        pose, intrinsics = cameras.world_from_camera[view], cameras.intrinsics[view]
        fragments = rasterize_mesh(vertices, faces, pose, intrinsics, cameras.width, cameras.height)
        depth[view] = fragments.depth
        return fragments.interpolate(normals, faces)[fragments.face >= 0]

    across = map_parallel(draw, range(len(cameras)))
    warped = np.empty(rgba.shape, dtype=np.float32)

    def warp(view: int) -> float:
        check()
        others = _others_picture(view, depth, across[view], gray, alpha, cameras, near[view], slack)
        flow, length = _flow(others, gray[view], alpha[view])
        cover = alpha[view, ..., None]
        picture = np.concatenate([rgba[view, ..., :3] * cover, cover], axis=-1)
        moved = cv2.remap(picture, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_CUBIC)
        cover = moved[..., 3:].clip(0, 1)
        warped[view, ..., :3] = (moved[..., :3] / np.maximum(cover, 1e-3)).clip(0, 1)
        warped[view, ..., 3:] = cover
        return length

    lengths = map_parallel(warp, range(len(cameras)))
    return warped, float(np.mean(lengths))
