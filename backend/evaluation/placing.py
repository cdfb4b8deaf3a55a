"""Puts a result into the frame of the truth: how a one-picture shape and its scale come to lie on the scan.

as is    results from posed views are in the truth's frame already
camera   by the input camera alone: the protocol knows its lens and its distance to the object's centre, the
         pipeline knows which part of the picture it looked at. Nothing of the truth's shape is used.
box      camera's rotation; then the result's own box is given longest side 1 and centred
icp      box, then a similarity fitted to the truth's surface (Besl 1992, Umeyama 1991); it looks at the
         truth, as the papers do that say "aligned"
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.metrics import sample_surface
from backend.pipeline.values import Mesh

_ICP_POINTS, _ICP_STEPS = 5_000, 100
_ICP_KEPT = 0.8
"""Share of the pairs, the nearest ones, that ICP fits to: a part that is missing pulls at nothing."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + offset, from the result's frame to the truth's."""

    scale: float = 1.0
    rotation: np.ndarray = None  # type: ignore[assignment]
    offset: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name, default in (("rotation", np.eye(3)), ("offset", np.zeros(3))):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(P, 3) float64."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.rotation.T + self.offset

    def then(self, other: "Similarity") -> "Similarity":
        """First this, then the other."""
        return Similarity(
            other.scale * self.scale, other.rotation @ self.rotation, other.points(self.offset[None])[0]
        )

    def cameras(self, cameras: Cameras) -> Cameras:
        """Cameras of the truth's frame, as they stand in the result's."""
        poses = cameras.world_from_camera.copy()
        poses[:, :3, :3] = self.rotation.T @ poses[:, :3, :3]
        poses[:, :3, 3] = (poses[:, :3, 3] - self.offset) @ self.rotation / self.scale
        return Cameras(poses, cameras.intrinsics, cameras.width, cameras.height)


def lens_for(camera: Cameras, alpha: np.ndarray, fill: float) -> float:
    """Degrees: field of view of the pipeline's square frame, whose object's box fills `fill` of it.

    camera  the one input camera; alpha (H, W) its picture's. With it the pipeline sees the object through
    the lens that made the picture.
    """
    rows, columns = np.flatnonzero((alpha > 0.5).any(1)), np.flatnonzero((alpha > 0.5).any(0))
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    return float(2 * np.degrees(np.arctan(0.5 * longest / fill / camera.intrinsics[0, 0, 0])))


def by_camera(camera: Cameras, used: Cameras, facts: dict[str, Any], fill: float) -> Similarity:
    """Placement by the input camera.

    camera  the true input camera, looking at the origin
    used    the result's cameras, of which 0 is the input view, looking at its origin
    facts   of the matting stage: crop_box, in pixels of the picture, put centred into the frame
    """
    left, top, right, bottom = facts["crop_box"]
    focal = camera.intrinsics[0, 0, 0]
    # One pixel of the picture is this many of the result's metres, at the depth of its origin.
    depth = float(np.linalg.norm(used.centres[0]))
    frame = depth * used.width / used.intrinsics[0, 0, 0]
    pixel = frame * fill / max(right - left, bottom - top)
    distance = float(np.linalg.norm(camera.centres[0]))
    scale = distance / focal / pixel
    # The pipeline looks along the ray through the middle of the crop.
    ray = np.linalg.inv(camera.intrinsics[0]) @ [(left + right) / 2, (top + bottom) / 2, 1.0]
    pose = camera.world_from_camera[0]
    turned = pose[:3, :3] @ _rotation_between(np.array([0, 0, 1.0]), ray / np.linalg.norm(ray))
    rotation = turned @ used.world_from_camera[0, :3, :3].T
    return Similarity(scale, rotation, pose[:3, :3] @ (ray * distance) + pose[:3, 3])


def by_box(mesh: Mesh, start: Similarity) -> Similarity:
    """`start`, then the mesh's own box with longest side 1 and centred."""
    points = start.points(mesh.vertices)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 1 / (high - low).max()
    return start.then(Similarity(scale, np.eye(3), -scale * (low + high) / 2))


def by_icp(
    mesh: Mesh,
    true_vertices: np.ndarray,
    true_faces: np.ndarray,
    start: Similarity,
    check: Callable[[], None] = lambda: None,
) -> Similarity:
    """`start`, refined to the truth's surface: nearest points both ways, best similarity, repeated."""
    from scipy.spatial import cKDTree

    ours = sample_surface(mesh.vertices, mesh.faces, _ICP_POINTS, seed=3)
    truth = sample_surface(true_vertices, true_faces, _ICP_POINTS, seed=4)
    tree, place, before = cKDTree(truth), start, np.inf
    for _ in range(_ICP_STEPS):
        check()
        moved = place.points(ours)
        there, nearest = tree.query(moved)
        back, own = cKDTree(moved).query(truth)
        source, target = np.concatenate([moved, moved[own]]), np.concatenate([truth[nearest], truth])
        distance = np.concatenate([there, back])
        kept = distance <= np.quantile(distance, _ICP_KEPT)
        error = float((distance[kept] ** 2).mean())
        if error > before * (1 - 1e-4):
            break
        before = error
        place = place.then(_umeyama(source[kept], target[kept]))
    return place


def _umeyama(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The similarity that takes source (P, 3) to target (P, 3) with least squares (Umeyama 1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, values, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((values * sign).sum() / (a**2).sum(axis=1).mean())
    return Similarity(scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0))


def _rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest rotation that turns unit vector a onto unit vector b (not its opposite)."""
    v, c = np.cross(a, b), float(a @ b)
    skew = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + c)
