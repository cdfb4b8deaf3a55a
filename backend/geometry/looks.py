"""Cameras where no picture was taken: around above, around below, from the top, from beneath."""

import numpy as np

from backend.geometry.cameras import Cameras
from shared_protocol.conventions import look_at, ring_position

LOOKS = tuple((azimuth, elevation) for elevation in (50, -30) for azimuth in range(0, 360, 60)) + (
    (0.0, 89.0),
    (0.0, -80.0),
)
"""Azimuth and elevation in degrees."""


def look_cameras(vertices: np.ndarray, cameras: Cameras, size: int) -> Cameras:
    """LOOKS at the vertices (V, 3), with the lens and distance of the views; `size` pixels at most."""
    middle = ((vertices.min(axis=0) + vertices.max(axis=0)) / 2).astype(np.float64)
    radius = float(np.linalg.norm(cameras.centres - middle, axis=1).mean())
    poses = np.stack([look_at(middle + ring_position(azimuth, up, radius), middle) for azimuth, up in LOOKS])
    lenses = np.repeat(cameras.intrinsics[:1], len(poses), axis=0)
    shrink = min(1.0, size / max(cameras.width, cameras.height))
    every = Cameras(poses, lenses, cameras.width, cameras.height)
    return every.resized(max(round(shrink * cameras.width), 8), max(round(shrink * cameras.height), 8))
