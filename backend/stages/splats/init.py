"""Where the Gaussians start: on the carved hull, evenly, flat, in the colours of the views (V3D 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid, extract_surface, hull_field, object_bounds
from backend.geometry.fusion import fuse_depth, merge_fused
from backend.geometry.harmonics import harmonics_from_color
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.rotations import quaternions_to_axis_z
from backend.geometry.splat_raster import Gaussians
from backend.geometry.splat_targets import resize_views
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from shared_protocol.errors import StageFailed

HULL_CELLS = 96
_HULL_PIXELS = 384
"""Size of the masks for the hull: sub-pixel edges of 384 are finer than 96 cells."""
_SCALE = 0.6
"""Standard deviation along the surface over the mean distance of neighbours: no holes, little blur."""
_FLATNESS = 0.25
"""Standard deviation along the normal over the one along the surface."""
_INSET = 0.6
"""Depth of the centres below the hull, in mean distances of neighbours: what sticks out of the silhouette
takes a hundred steps to leave (0.6 instead of 0: +0.5 dB at the views, +0.6 dB between them)."""
_OPACITY = 0.9
STARTS = ("measured", "published")
_HALF = 0.5
"""Opacity at the published start (V3D; 3DGS has 0.1)."""
_NEIGHBOURS = 3
_AT_ONCE = 20_000
_LEAST_SQUARE = 1e-7
"""Metres^2: the least mean square of the neighbours' distances (3DGS)."""
_DEPTH_SLACK = 0.015
"""A point counts as seen when it lies no deeper than this share of the object behind the hull."""


@dataclass(frozen=True)
class Start:
    """Starting Gaussians and the object's size (longest side of its box, metres)."""

    gaussians: Gaussians
    extent: float


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """`count` points evenly on a mesh: positions (count, 3), unit normals (count, 3), area m^2.

    Stratified along the order of the faces (marching cubes walks the surface), one point a stratum.
    Normals are interpolated from vertices, which get the area-weighted mean of their faces.
    """
    corners = vertices.astype(np.float64)[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = 0.5 * np.linalg.norm(cross, axis=1)
    total = float(area.sum())
    edges = np.cumsum(area)
    face = np.searchsorted(edges, (np.arange(count) + random.random(count)) * (total / count))
    face = np.minimum(face, len(faces) - 1)
    u, v = random.random(count), random.random(count)
    root = np.sqrt(u)
    weights = np.stack([1 - root, root * (1 - v), root * v], axis=1)
    vertex_normals = np.zeros((len(vertices), 3))
    for corner in range(3):
        for axis in range(3):
            vertex_normals[:, axis] += np.bincount(
                faces[:, corner], weights=cross[:, axis], minlength=len(vertices)
            )
    normals = np.einsum("pk,pkc->pc", weights, vertex_normals[faces[face]])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    return np.einsum("pk,pkc->pc", weights, corners[face]), normals, total


def _bilinear(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """picture (H, W, C) at x, y (P,) in array coordinates (pixel centres whole): (P, C), 0 outside."""
    height, width = picture.shape[:2]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    column, row = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
    a, b = (x - column)[:, None], (y - row)[:, None]
    upper = picture[row, column] * (1 - a) + picture[row, column + 1] * a
    lower = picture[row + 1, column] * (1 - a) + picture[row + 1, column + 1] * a
    return (upper * (1 - b) + lower * b) * inside[:, None]


def colors_from_views(
    points: np.ndarray,
    normals: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    views: Views,
    slack: float,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Mean colour (P, 3) of the views that see each point, weighted by the cosine to its normal, squared,
    and by the confidence of views and pixels.

    The mesh hides: slack is how far, in metres, a point may lie behind it and still count as seen.
    A point that no view sees gets the mean of all cosine-weighted views, hidden or not; `check` is
    called between views.
    """
    cameras = views.cameras
    width, height = cameras.width, cameras.height
    pixels, depth = cameras.project(points)
    total, seen_total = np.zeros((len(points), 4)), np.zeros((len(points), 4))
    for i in range(len(views)):
        check()
        surface = rasterize_mesh(
            vertices, faces, cameras.world_from_camera[i], cameras.intrinsics[i], width, height
        ).depth
        x, y = pixels[i].T
        rgba = views.rgba[i]
        sample = _bilinear(
            np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2), x - 0.5, y - 0.5
        )
        column = np.clip(np.nan_to_num(x), 0, width - 1).astype(np.int64)
        row = np.clip(np.nan_to_num(y), 0, height - 1).astype(np.int64)
        toward = cameras.centres[i] - points
        cosine = np.einsum("pc,pc->p", toward, normals) / np.linalg.norm(toward, axis=1)
        weight = np.clip(cosine, 0.02, None) ** 2 * (sample[:, 3] > 0.5) * (depth[i] > 0)
        weight *= views.confidence[i]
        if views.pixel_confidence is not None:
            weight *= views.pixel_confidence[i, row, column]
        color = sample[:, :3] / np.maximum(sample[:, 3:], 1e-3)
        weighted = np.concatenate([color * weight[:, None], weight[:, None]], axis=1)
        total += weighted
        seen_total += weighted * (depth[i] < surface[row, column] + slack)[:, None]
    grey = np.array([0.5, 0.5, 0.5, 1]) * 1e-6
    mixed = np.where(seen_total[:, 3:] > 1e-3, seen_total, total + grey)
    return np.clip(mixed[:, :3] / mixed[:, 3:], 0, 1)


def _lowered(hull: Grid, views: Views, context: StageContext) -> Grid:
    """The hull carved by the depth that the views bring: hollows that no silhouette shows."""
    known = np.isfinite(views.depth) & (views.depth > 0) & (views.rgba[..., 3] >= 0.5)
    depth = np.where(known, views.depth, 0).astype(np.float32)
    weight = (known * views.confidence[:, None, None]).astype(np.float32)
    fused = fuse_depth(depth, weight, views.cameras, hull, 3 * hull.cell)
    context.check()
    return merge_fused(hull, fused)


def _resized(views: Views, cameras: Cameras, context: StageContext) -> np.ndarray | None:
    """The views' pixel confidence at the size of these cameras."""
    if views.pixel_confidence is None:
        return None
    import cv2

    result = np.empty((len(views), cameras.height, cameras.width), dtype=np.float32)
    for i, view in enumerate(views.pixel_confidence):
        context.check()
        result[i] = cv2.resize(view, (cameras.width, cameras.height), interpolation=cv2.INTER_AREA)
    return result


def neighbour_distances(points: np.ndarray, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """(G,) root mean square of the distances to the three nearest others of points (G, 3), as 3DGS."""
    if len(points) < 2:
        return np.full(len(points), np.sqrt(_LEAST_SQUARE))
    tree = cKDTree(points)
    near = min(_NEIGHBOURS, len(points) - 1) + 1
    squares = np.empty(len(points))
    for first in range(0, len(points), _AT_ONCE):
        check()
        rows = slice(first, first + _AT_ONCE)
        squares[rows] = (tree.query(points[rows], near)[0][:, 1:] ** 2).mean(axis=1)
    return np.sqrt(np.maximum(squares, _LEAST_SQUARE))


def start_on_hull(views: Views, options: SplatsOptions, context: StageContext) -> Start:
    """options.gaussians Gaussians on the visual hull of the views."""
    rgba = resize_views(views.rgba, _HULL_PIXELS, context.check)
    cameras = views.cameras.resized(rgba.shape[2], rgba.shape[1])
    small = Views(rgba, cameras, views.confidence, pixel_confidence=_resized(views, cameras, context))
    alpha = np.ascontiguousarray(rgba[..., 3])
    low, high = object_bounds(alpha, cameras)
    context.check()
    grid = hull_field(alpha, cameras, low, high, HULL_CELLS)
    if views.depth is not None:
        context.check()
        grid = _lowered(grid, views, context)
    vertices, faces = extract_surface(grid)
    if not len(faces):
        raise StageFailed(
            "the views' silhouettes have no volume in common",
            "views of one object with the cameras they were taken from",
            "Check the cut-outs and the order of the cameras.",
        )
    context.check()
    points, normals, area = sample_surface(vertices, faces, options.gaussians, context.generator())
    extent = float((high - low).max())
    context.step(0, options.steps, "Colouring the Gaussians from the views")
    colors = colors_from_views(points, normals, vertices, faces, small, _DEPTH_SLACK * extent, context.check)
    harmonics = np.zeros((options.gaussians, (options.sh_degree + 1) ** 2, 3), dtype=np.float32)
    harmonics[:, 0] = harmonics_from_color(colors)
    if options.start == "published":
        scales = np.repeat(neighbour_distances(points, context.check)[:, None], 3, axis=1)
        upright = np.tile([1.0, 0, 0, 0], (options.gaussians, 1))
        opacities = np.full(options.gaussians, _HALF)
        return Start(Gaussians(points, scales, upright, opacities, harmonics), extent)
    spacing = np.sqrt(area / options.gaussians)
    points -= _INSET * spacing * normals
    scales = np.tile(_SCALE * spacing * np.array([1, 1, _FLATNESS]), (options.gaussians, 1))
    return Start(
        Gaussians(
            points, scales, quaternions_to_axis_z(normals), np.full(options.gaussians, _OPACITY), harmonics
        ),
        extent,
    )
