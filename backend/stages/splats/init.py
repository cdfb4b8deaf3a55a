"""Where the Gaussians start: on the carved hull, evenly, flat, in the colours of the views (V3D 3.3)."""

from dataclasses import dataclass

import numpy as np

from backend.geometry.carving import Grid, extract_surface, hull_field, object_bounds
from backend.geometry.fusion import fuse_depth, merge_fused
from backend.geometry.harmonics import harmonics_from_color
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.rotations import quaternions_to_axis_z
from backend.geometry.splat_raster import Gaussians
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.splats.targets import resize_views
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


def colors_from_views(
    points: np.ndarray,
    normals: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    rgba: np.ndarray,
    views: Views,
    slack: float,
) -> np.ndarray:
    """Mean colour (P, 3) of the views that see each point, weighted by the cosine to its normal, squared.

    rgba (N, h, w, 4): the views at the size to sample; slack: metres a point may lie behind the mesh.
    A point that no view sees gets the mean of all cosine-weighted views, hidden or not.
    """
    import cv2

    height, width = rgba.shape[1:3]
    cameras = views.cameras.resized(width, height)
    pixels, depth = cameras.project(points)

    def one(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        surface = rasterize_mesh(
            vertices, faces, cameras.world_from_camera[i], cameras.intrinsics[i], width, height
        ).depth
        # cv2's pixel centres are at integers; nothing beyond the picture.
        x, y = (pixels[i] - 0.5).astype(np.float32).T
        picture = np.concatenate([rgba[i, ..., :3] * rgba[i, ..., 3:], rgba[i, ..., 3:]], axis=2)
        sample = cv2.remap(picture, x[:, None], y[:, None], cv2.INTER_LINEAR, borderValue=0)[:, 0]
        near = cv2.remap(
            np.where(np.isfinite(surface), surface, np.float32(1e30)), x[:, None], y[:, None],
            cv2.INTER_NEAREST, borderValue=1e30,
        )[:, 0]  # fmt: skip
        toward = cameras.centres[i] - points
        cosine = np.einsum("pc,pc->p", toward, normals) / np.linalg.norm(toward, axis=1)
        weight = np.clip(cosine, 0.02, None) ** 2 * (sample[:, 3] > 0.5) * (depth[i] > 0)
        weight *= views.confidence[i]
        return sample[:, :3] / np.maximum(sample[:, 3:], 1e-3), weight, depth[i] < near + slack

    # Each view's rasteriser uses the thread pool itself, so the views go one after another.
    total, seen_total = np.zeros((len(points), 4)), np.zeros((len(points), 4))
    for i in range(len(views)):
        color, weight, seen = one(i)
        weighted = np.concatenate([color * weight[:, None], weight[:, None]], axis=1)
        total += weighted
        seen_total += weighted * seen[:, None]
    mixed = np.where(seen_total[:, 3:] > 1e-3, seen_total, total + np.array([0.5, 0.5, 0.5, 1]) * 1e-6)
    return np.clip(mixed[:, :3] / mixed[:, 3:], 0, 1)


def _lowered(hull: Grid, views: Views, context: StageContext) -> Grid:
    """The hull carved by the depth that the views bring: hollows that no silhouette shows."""
    known = np.isfinite(views.depth) & (views.depth > 0) & (views.rgba[..., 3] >= 0.5)
    depth = np.where(known, views.depth, 0).astype(np.float32)
    weight = (known * views.confidence[:, None, None]).astype(np.float32)
    fused = fuse_depth(depth, weight, views.cameras, hull, 3 * hull.cell)
    context.check()
    return merge_fused(hull, fused)


def start_on_hull(views: Views, options: SplatsOptions, context: StageContext) -> Start:
    """options.gaussians Gaussians on the visual hull of the views."""
    rgba = resize_views(views.rgba, _HULL_PIXELS)
    height, width = rgba.shape[1:3]
    cameras = views.cameras.resized(width, height)
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
    colors = colors_from_views(points, normals, vertices, faces, rgba, views, _DEPTH_SLACK * extent)
    spacing = np.sqrt(area / options.gaussians)
    points -= _INSET * spacing * normals
    scales = np.tile(_SCALE * spacing * np.array([1, 1, _FLATNESS]), (options.gaussians, 1))
    harmonics = np.zeros((options.gaussians, (options.sh_degree + 1) ** 2, 3), dtype=np.float32)
    harmonics[:, 0] = harmonics_from_color(colors)
    return Start(
        Gaussians(
            points, scales, quaternions_to_axis_z(normals), np.full(options.gaussians, _OPACITY), harmonics
        ),
        extent,
    )
