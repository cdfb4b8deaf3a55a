"""Axes, units and orders, and the only converters between them.

World      Blender's: right-handed, +Z up, metres. The object stands at the origin and its front
           looks toward -Y, so the input picture is seen from -Y.
Azimuth    degrees, counter-clockwise seen from +Z, 0 at the input view; elevation positive looks down.
Camera     `world_from_camera` (4, 4), OpenCV axes: +X right, +Y down, +Z forward. Intrinsics in pixels,
           pixel centres at +0.5 (the left edge of the picture is x = 0).
Quaternion w, x, y, z.
Image      float32 sRGB-encoded 0..1, straight alpha, (H, W, C), rows from the top.
glTF       right-handed, +Y up, front toward +Z; written by the exporter and nowhere else.
"""

import numpy as np

_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


def opengl_from_opencv(world_from_camera: np.ndarray) -> np.ndarray:
    """(..., 4, 4) pose with OpenCV camera axes -> the same pose with OpenGL axes (+Y up, looks along -Z).

    Blender's and nerfstudio's cameras have these axes. The converter is its own inverse.
    """
    return np.asarray(world_from_camera, dtype=np.float64) @ _FLIP_YZ


opencv_from_opengl = opengl_from_opencv


def gltf_from_world(points: np.ndarray) -> np.ndarray:
    """(..., 3) points or directions, Blender world (+Z up) -> glTF (+Y up). Front -Y becomes +Z."""
    points = np.asarray(points)
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def world_from_gltf(points: np.ndarray) -> np.ndarray:
    """(..., 3) points or directions, glTF (+Y up) -> Blender world (+Z up)."""
    points = np.asarray(points)
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def ring_position(azimuth_degrees: float, elevation_degrees: float, radius: float) -> np.ndarray:
    """(3,) camera centre in the world, metres: azimuth 0 is on -Y, 90 on +X."""
    azimuth, elevation = np.radians(azimuth_degrees), np.radians(elevation_degrees)
    return radius * np.array(
        [
            np.cos(elevation) * np.sin(azimuth),
            -np.cos(elevation) * np.cos(azimuth),
            np.sin(elevation),
        ]
    )


def look_at(position: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """(4, 4) `world_from_camera`, OpenCV axes, at `position`, looking at `target` (the origin), +Z up."""
    position = np.asarray(position, dtype=np.float64)
    forward = (np.zeros(3) if target is None else np.asarray(target, dtype=np.float64)) - position
    forward = forward / np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 1 - 1e-9 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, position
    return pose


def linear_from_srgb(encoded: np.ndarray) -> np.ndarray:
    """sRGB-encoded 0..1 -> linear light (IEC 61966-2-1), any shape."""
    encoded = np.asarray(encoded, dtype=np.float32)
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Linear light 0..1 -> sRGB-encoded (IEC 61966-2-1), any shape."""
    linear = np.clip(np.asarray(linear, dtype=np.float32), 0.0, None)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
