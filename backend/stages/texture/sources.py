"""What one view can say about the surface: colour in two bands, how far to trust each pixel, depth."""

from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_raster import rasterize_mesh
from backend.pipeline.values import Mesh, Views
from backend.stages.texture.push_pull import push_pull

SOLID_ALPHA = 0.9
"""Alpha from which a pixel's colour is the object's alone."""
LOW_BAND_SIGMA = 1 / 100
"""Blur that parts the two bands, in picture widths."""
EDGE_RAMP = 2 / 512
"""Trust grows from 0 at a silhouette or an occlusion edge to 1 at this distance, in picture widths."""
DEPTH_OVERSAMPLING = 2


@dataclass(frozen=True)
class Source:
    """One view, ready to be projected.

    bands    (H, W, 6) float32: colour, then the same colour blurred; defined beyond the silhouette too
    trust    (H, W) float32 0..1: 0 outside and at silhouettes and occlusion edges
    depth    (2H, 2W) float32 metres along the axis, inf where the mesh is not
    """

    bands: np.ndarray
    trust: np.ndarray
    depth: np.ndarray


def prepare_source(mesh: Mesh, views: Views, view: int, extent: float) -> Source:
    """Everything `projection.project` samples of one view; `extent` is the mesh's size in metres."""
    width = views.cameras.width
    depth = render_depth(mesh, views.cameras, view)
    rgba = views.rgba[view]
    alpha = np.ascontiguousarray(rgba[..., 3])
    # Colours at the silhouette are mixed with what was behind: they count only where nothing else is near.
    solid = cv2.erode((alpha >= SOLID_ALPHA).astype(np.float32), np.ones((3, 3), np.uint8))
    weight = np.where(solid > 0, 1.0, 1e-3 * alpha).astype(np.float32)
    color = push_pull(np.ascontiguousarray(rgba[..., :3]), weight)
    low = cv2.GaussianBlur(color, (0, 0), LOW_BAND_SIGMA * width)
    edges = occlusion_edges(depth, extent)
    inside = (alpha >= 0.5).astype(np.uint8)
    fine = cv2.resize(inside, edges.shape[::-1], interpolation=cv2.INTER_NEAREST) & ~edges & 1
    distance = cv2.distanceTransform(fine, cv2.DIST_L2, 3)
    distance = cv2.resize(distance, (width, views.cameras.height), interpolation=cv2.INTER_AREA)
    ramp = np.clip(distance / (DEPTH_OVERSAMPLING * EDGE_RAMP * width), 0, 1)
    trust = (ramp * ramp * (3 - 2 * ramp) * inside).astype(np.float32)
    return Source(np.ascontiguousarray(np.dstack([color, low])), trust, depth)


def render_depth(mesh: Mesh, cameras: Cameras, view: int) -> np.ndarray:
    """Z-buffer of the mesh at twice the view's size."""
    fine = cameras.resized(cameras.width * DEPTH_OVERSAMPLING, cameras.height * DEPTH_OVERSAMPLING)
    return rasterize_mesh(
        mesh.vertices,
        mesh.faces,
        fine.world_from_camera[view],
        fine.intrinsics[view],
        fine.width,
        fine.height,
    ).depth


def occlusion_edges(depth: np.ndarray, extent: float) -> np.ndarray:
    """(H, W) uint8, 1 where depth jumps by more than 2 % of the extent between neighbouring pixels."""
    finite = np.where(np.isfinite(depth), depth, np.float32(1e3 * extent))
    box = np.ones((3, 3), np.uint8)
    return (cv2.dilate(finite, box) - cv2.erode(finite, box) > 0.02 * extent).astype(np.uint8)
