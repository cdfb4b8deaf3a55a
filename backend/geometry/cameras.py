"""Pinhole cameras as one value: poses, intrinsics, size; rings of them; projection."""

from dataclasses import dataclass

import numpy as np

from shared_protocol.conventions import look_at, ring_position
from shared_protocol.errors import InvalidInput


@dataclass(frozen=True)
class Cameras:
    """N pinhole cameras of one picture size.

    world_from_camera (N, 4, 4) float64, OpenCV axes, metres
    intrinsics        (N, 3, 3) float64, pixels, pixel centres at +0.5
    width, height     pixels
    """

    world_from_camera: np.ndarray
    intrinsics: np.ndarray
    width: int
    height: int

    def __post_init__(self) -> None:
        poses = np.ascontiguousarray(self.world_from_camera, dtype=np.float64)
        intrinsics = np.ascontiguousarray(self.intrinsics, dtype=np.float64)
        if poses.ndim != 3 or poses.shape[1:] != (4, 4):
            raise InvalidInput(f"camera poses have shape {poses.shape}", "(N, 4, 4)")
        if intrinsics.shape != (len(poses), 3, 3):
            raise InvalidInput(f"camera intrinsics have shape {intrinsics.shape}", f"({len(poses)}, 3, 3)")
        if not (np.isfinite(poses).all() and np.isfinite(intrinsics).all()):
            raise InvalidInput("a camera holds NaN or infinite numbers", "finite poses and intrinsics")
        rotation = poses[:, :3, :3]
        if np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(initial=0) > 1e-3:
            raise InvalidInput("a camera pose has scale or shear", "a rotation and a translation")
        if np.any(np.linalg.det(rotation) < 0):
            raise InvalidInput("a camera pose is mirrored", "a right-handed rotation")
        object.__setattr__(self, "world_from_camera", poses)
        object.__setattr__(self, "intrinsics", intrinsics)

    def __len__(self) -> int:
        return len(self.world_from_camera)

    @property
    def camera_from_world(self) -> np.ndarray:
        """(N, 4, 4) float64."""
        return np.linalg.inv(self.world_from_camera)

    @property
    def centres(self) -> np.ndarray:
        """(N, 3) camera centres in the world, metres."""
        return self.world_from_camera[:, :3, 3]

    def take(self, indices: "list[int] | np.ndarray | slice") -> "Cameras":
        """The cameras at these indices."""
        return Cameras(self.world_from_camera[indices], self.intrinsics[indices], self.width, self.height)

    def resized(self, width: int, height: int) -> "Cameras":
        """The same views at another picture size."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return Cameras(self.world_from_camera, scale @ self.intrinsics, width, height)

    def cropped(self, left: np.ndarray, top: np.ndarray, width: int, height: int) -> "Cameras":
        """Windows of width x height pixels of the same pictures; left, top (N,): of each, pixels."""
        intrinsics = self.intrinsics.copy()
        intrinsics[:, 0, 2] -= left
        intrinsics[:, 1, 2] -= top
        return Cameras(self.world_from_camera, intrinsics, width, height)

    def transformed(self, scale: float, offset: np.ndarray) -> "Cameras":
        """The cameras after the world is mapped by x -> scale * x + offset (offset (3,))."""
        poses = self.world_from_camera.copy()
        poses[:, :3, 3] = scale * poses[:, :3, 3] + offset
        return Cameras(poses, self.intrinsics, self.width, self.height)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (P, 3) -> pixels (N, P, 2) and depth along the axis (N, P), metres."""
        points = np.asarray(points, dtype=np.float64)
        view = self.camera_from_world
        local = points @ view[:, :3, :3].transpose(0, 2, 1) + view[:, None, :3, 3]
        image = local @ self.intrinsics.transpose(0, 2, 1)
        depth = local[..., 2]
        return image[..., :2] / np.where(np.abs(depth) < 1e-12, 1e-12, depth)[..., None], depth


def pinhole_intrinsics(fov_degrees: float, width: int, height: int) -> np.ndarray:
    """(3, 3) intrinsics with the horizontal field of view `fov_degrees`, square pixels, centred."""
    focal = 0.5 * width / np.tan(np.radians(fov_degrees) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def moved(world_from_camera: np.ndarray, tangent: np.ndarray) -> np.ndarray:
    """Poses (..., 4, 4) after small motions (..., 6) in the cameras' own axes: rotation vector, translation.

    A point p in the camera goes to exp(rotation) p + translation: what `CameraGradient.tangent` of the
    splat rasteriser is the gradient of. Radians and metres; any size of rotation.
    """
    from scipy.spatial.transform import Rotation

    tangent = np.asarray(tangent, dtype=np.float64)
    motion = np.broadcast_to(np.eye(4), (*tangent.shape[:-1], 4, 4)).copy()
    motion[..., :3, :3] = (
        Rotation.from_rotvec(tangent[..., :3].reshape(-1, 3)).as_matrix().reshape(*tangent.shape[:-1], 3, 3)
    )
    motion[..., :3, 3] = tangent[..., 3:]
    return world_from_camera @ np.linalg.inv(motion)


def ring(
    views: int,
    *,
    radius: float,
    elevation_degrees: float,
    fov_degrees: float,
    size: int,
    first_azimuth_degrees: float = 0.0,
) -> Cameras:
    """A full turn of `views` square cameras around the origin; view 0 is the input view (from -Y).

    Azimuth grows counter-clockwise seen from +Z, as in Hi3D, V3D and SV3D (facts of their releases).
    """
    poses = [
        look_at(ring_position(first_azimuth_degrees + 360.0 * i / views, elevation_degrees, radius))
        for i in range(views)
    ]
    intrinsics = np.repeat(pinhole_intrinsics(fov_degrees, size, size)[None], views, axis=0)
    return Cameras(np.stack(poses), intrinsics, size, size)
