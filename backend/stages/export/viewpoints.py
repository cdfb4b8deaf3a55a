"""From where the contact sheet and the film look: around the mesh, starting at the front view."""

from collections.abc import Sequence

import numpy as np

from backend.geometry.cameras import Cameras, pinhole_intrinsics
from shared_protocol.conventions import look_at, ring_position

_MARGIN = 1.08
_LEAST_DISTANCE = 2.5
_STEEPEST = 80.0


def around_object(
    vertices: np.ndarray, front: Cameras, directions: Sequence[tuple[float, float]], size: int
) -> Cameras:
    """Square cameras around the mesh that all show it whole and at one scale.

    front       one camera, the input view: its azimuth is 0 here, its distance is kept
    directions  (azimuth, elevation) in degrees; azimuth is relative to the front view,
                counter-clockwise seen from +Z; elevation is absolute, up to 80 either way
    """
    centre = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0)).astype(np.float64)
    reach = max(float(np.linalg.norm(vertices - centre, axis=1).max()), 1e-6)
    offset = front.centres[0] - centre
    distance = max(float(np.linalg.norm(offset)), _LEAST_DISTANCE * reach)
    azimuth = float(np.degrees(np.arctan2(offset[0], -offset[1])))
    poses = np.stack(
        [
            look_at(
                centre + ring_position(azimuth + turn, float(np.clip(up, -_STEEPEST, _STEEPEST)), distance),
                centre,
            )
            for turn, up in directions
        ]
    )
    unit = np.repeat(np.eye(3)[None], len(poses), axis=0)
    slopes, _ = Cameras(poses, unit, 1, 1).project(vertices)
    fov = float(np.degrees(2 * np.arctan(np.abs(slopes).max() * _MARGIN)))
    intrinsics = np.repeat(pinhole_intrinsics(fov, size, size)[None], len(poses), axis=0)
    return Cameras(poses, intrinsics, size, size)


def front_elevation(vertices: np.ndarray, front: Cameras) -> float:
    """Degrees by which the front camera looks down on the middle of the mesh."""
    offset = front.centres[0] - 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
    return float(np.degrees(np.arctan2(offset[2], np.hypot(offset[0], offset[1]))))
