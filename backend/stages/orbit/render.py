"""Renders the two-sided shape from the ring's cameras."""

from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.mesh_raster import rasterize_mesh

SAMPLES = 2
"""Per pixel and axis."""


@dataclass(frozen=True)
class Shape:
    """A closed surface whose colours come from two pictures on camera 0's frame.

    vertices   (V, 3) float64 metres, world; faces (F, 3) int32, counter-clockwise seen from outside
    attributes (V, 3) float32: place on the pictures x, y (0..1), and how much of `front` is seen (0..1)
    front, back (S, S, 3) float32, colours bled beyond the silhouette
    """

    vertices: np.ndarray
    faces: np.ndarray
    attributes: np.ndarray
    front: np.ndarray
    back: np.ndarray


def render(
    shape: Shape, world_from_camera: np.ndarray, intrinsics: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One view: rgba (size, size, 4) float32 and depth (size, size) float32 metres, inf outside."""
    fine = size * SAMPLES
    scale = np.diag([SAMPLES, SAMPLES, 1.0])
    hit = rasterize_mesh(shape.vertices, shape.faces, world_from_camera, scale @ intrinsics, fine, fine)
    attributes = hit.interpolate(shape.attributes, shape.faces)
    place = attributes[..., :2] * shape.front.shape[0] - 0.5
    x, y = np.ascontiguousarray(place[..., 0]), np.ascontiguousarray(place[..., 1])
    share = attributes[..., 2:]
    colour = share * _sample(shape.front, x, y) + (1 - share) * _sample(shape.back, x, y)
    covered = (hit.face >= 0).astype(np.float32)
    premultiplied = np.dstack([colour * covered[..., None], covered])
    mean = cv2.resize(premultiplied, (size, size), interpolation=cv2.INTER_AREA)
    alpha = mean[..., 3:]
    rgba = np.dstack([mean[..., :3] / np.maximum(alpha, 1e-6), alpha])
    blocks = hit.depth.reshape(size, SAMPLES, size, SAMPLES)
    return np.clip(rgba, 0, 1).astype(np.float32), blocks.min(axis=(1, 3))


def _sample(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(picture, x, y, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
