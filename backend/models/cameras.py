"""Where the published models' views are seen from, in our conventions.

All of them count azimuth counter-clockwise seen from +Z. Their world has the first view on +X, ours on -Y: a
quarter turn about Z between the two is all that differs.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras, pinhole_intrinsics
from shared_protocol.conventions import look_at, ring_position

OURS_FROM_PUBLISHED = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""World points of V3D, Hi3D and SV3D (first view on +X) -> ours (first view on -Y)."""


@dataclass(frozen=True)
class Orbit:
    """A camera path around the object.

    azimuths, elevations  degrees, of each frame
    radius, fov           of the published model's world; degrees
    """

    azimuths: tuple[float, ...]
    elevations: tuple[float, ...]
    radius: float
    fov: float

    def cameras(self, size: int) -> Cameras:
        """In our world, square pictures of `size` pixels."""
        places = zip(self.azimuths, self.elevations, strict=True)
        poses = [look_at(ring_position(azimuth, elevation, self.radius)) for azimuth, elevation in places]
        intrinsics = np.repeat(pinhole_intrinsics(self.fov, size, size)[None], len(poses), axis=0)
        return Cameras(np.stack(poses), intrinsics, size, size)


def even_ring(frames: int, elevation: float, radius: float, fov: float) -> Orbit:
    """Frame i at azimuth 360 i / frames; frame 0 is the input view (Hi3D, V3D)."""
    azimuths = tuple(360.0 * i / frames for i in range(frames))
    return Orbit(azimuths, (elevation,) * frames, radius, fov)


def published_poses(orbit: Orbit) -> np.ndarray:
    """(T, 4, 4) world_from_camera, OpenCV axes, in the published world."""
    return np.linalg.inv(OURS_FROM_PUBLISHED) @ orbit.cameras(2).world_from_camera
