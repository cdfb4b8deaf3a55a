"""Depth maps of all views: those the views bring, or a photo-consistent sweep inward from the hull."""

from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_check import vertex_normals
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import map_parallel
from backend.geometry.photo_consistency import STRIDE, SweepViews, confirmations, prepare, sweep_view
from backend.geometry.silhouettes import signed_distances
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views

WORK_SIZE = 512
"""Longest side of the pictures that are matched; larger ones are reduced to it."""

_DEEPEST = 0.18
_ACCEPTED = 0.7
_TOLERANCE = 8e-3


@dataclass(frozen=True)
class DepthMaps:
    """Of all views.

    depth, weight (N, h, w) float32: metres along the axis (0 = unknown), and how far each can be trusted
    cameras       N cameras of size w x h
    """

    depth: np.ndarray
    weight: np.ndarray
    cameras: Cameras


def given_depth(views: Views) -> DepthMaps:
    """The depth that an engine brought with its views."""
    depth = np.where(np.isfinite(views.depth) & (views.rgba[..., 3] >= 0.5), views.depth, 0)
    weight = np.ones_like(views.depth) * views.confidence[:, None, None]
    return DepthMaps(depth.astype(np.float32), weight.astype(np.float32), views.cameras)


def _work_views(views: Views) -> tuple[np.ndarray, np.ndarray, Cameras]:
    """rgb over mid-grey, alpha, cameras, at most WORK_SIZE pixels and even."""
    height, width = views.rgba.shape[1:3]
    scale = min(1.0, WORK_SIZE / max(height, width))
    size = tuple(max(STRIDE, round(n * scale) // STRIDE * STRIDE) for n in (width, height))
    rgba = views.rgba
    if size != (width, height):
        rgba = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in rgba])
    alpha = rgba[..., 3]
    rgb = rgba[..., :3] * alpha[..., None] + 0.5 * (1 - alpha[..., None])
    return np.ascontiguousarray(rgb), np.ascontiguousarray(alpha), views.cameras.resized(*size)


def _hull_maps(
    vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, cameras: Cameras, view: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entry depth, exit depth (0 outside the mesh) and patch normal (camera axes) of each pixel."""
    pose, intrinsics = cameras.world_from_camera[view], cameras.intrinsics[view]
    points = vertices.astype(np.float64)
    a, b, c = (points[faces[:, i]] for i in range(3))
    towards = np.einsum("fi,fi->f", np.cross(b - a, c - a), pose[:3, 3] - a) > 0
    front = rasterize_mesh(vertices, faces[towards], pose, intrinsics, cameras.width, cameras.height)
    back = rasterize_mesh(vertices, faces[~towards], pose, intrinsics, cameras.width, cameras.height)
    entry = np.where(front.face >= 0, front.depth, 0).astype(np.float32)
    leave = np.where(back.face >= 0, back.depth, 0).astype(np.float32)
    normal = front.interpolate(normals, faces[towards]) @ pose[:3, :3].astype(np.float32)
    rows, columns = np.mgrid[0 : cameras.height, 0 : cameras.width].astype(np.float32) + 0.5
    ray = np.stack(
        [
            (columns - intrinsics[0, 2]) / intrinsics[0, 0],
            (rows - intrinsics[1, 2]) / intrinsics[1, 1],
            np.ones_like(rows),
        ],
        axis=-1,
    )
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    # Halfway between the hull's normal and the line of sight: a hull's own normals lean outward.
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    plane = normal - ray
    plane /= np.maximum(np.linalg.norm(plane, axis=-1, keepdims=True), 1e-6)
    return entry, leave, np.ascontiguousarray(plane, dtype=np.float32)


def swept_depth(
    views: Views, vertices: np.ndarray, faces: np.ndarray, context: StageContext, first: int, steps: int
) -> DepthMaps:
    """Plane sweep of every view inside the hull (vertices, faces), then the check of views against views.

    first, steps: progress is reported from step `first` of `steps` on, one for each view.
    """
    rgb, alpha, cameras = _work_views(views)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centre, size = (low + high) / 2.0, float((high - low).max())
    sweep = prepare(rgb, signed_distances(alpha), cameras, centre, views.confidence)
    half = cameras.resized(cameras.width // STRIDE, cameras.height // STRIDE)
    normals = vertex_normals(vertices, faces)
    found = {}
    count = len(views)

    def one(view: int):
        context.check()
        entry, leave, normal = _hull_maps(vertices, faces, normals, half, view)
        result = sweep_view(sweep, view, entry, leave, normal, _DEEPEST * size, centre, check=context.check)
        found[view] = True
        context.step(first + len(found), steps, f"matching view {len(found)} of {count}")
        return result

    maps = map_parallel(one, range(count))
    depth, score = np.stack([m.depth for m in maps]), np.stack([m.score for m in maps])
    depth[score < _ACCEPTED] = 0
    return _confirmed(depth, score, sweep, half, size, context)


def _confirmed(
    depth: np.ndarray, score: np.ndarray, sweep: SweepViews, half: Cameras, size: float, context: StageContext
) -> DepthMaps:
    votes = np.stack(
        map_parallel(
            lambda view: confirmations(depth, sweep.cameras, view, sweep.sources[view], _TOLERANCE * size),
            range(len(depth)),
        )
    )
    kept = (votes >= 2) & (depth > 0)
    seen = sum(int(np.count_nonzero(d[::STRIDE, ::STRIDE] > 1)) for d in sweep.distance)
    context.note(confirmed_share=round(float(kept.sum() / max(seen, 1)), 4))
    weight = np.where(kept, np.clip(score, 0.05, 1) * sweep.weight[:, None, None], 0)
    return DepthMaps(np.where(kept, depth, 0).astype(np.float32), weight.astype(np.float32), half)
