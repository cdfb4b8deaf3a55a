"""Depth maps of all views: those the views bring, or a photo-consistent sweep inward from the hull."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.depth_fill import fill_depth
from backend.geometry.mesh_check import vertex_normals
from backend.geometry.mesh_raster import Fragments, rasterize_mesh
from backend.geometry.parallel import map_parallel
from backend.geometry.photo_consistency import (
    STRIDE,
    SweepViews,
    confirmations,
    prepare,
    sweep_step,
    sweep_view,
)
from backend.geometry.silhouettes import signed_distance
from backend.pipeline.values import Views

WORK_SIZE = 512
"""Longest side of the pictures that are matched; larger ones are reduced to it."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DEEPEST, _DEEPEST_AGAIN = 0.18, 0.06
_STEPS_BEFORE = 3
_COARSE = 1.6
"""Pixels of parallax between hypotheses of the first pass, which only has to find the second its start."""
_COARSEST, _LARGE = 2 * STRIDE, 60_000
"""Pixels for one of the first pass' maps where views show at least so many of the object (the median of
them): a quarter of the work, and no such scan came out worse. Smaller ones did (a hammer's F-score
at 1 % by .004), and have little work to save."""
_LEAN, _LEAN_AGAIN = 0.5, 0.05
_ACCEPTED, _CLEAR = 0.35, 0.75
"""Correlation from which a depth may count; and from which one confirming view is enough, not two."""
_TOLERANCE = 8e-3
_FILL_WEIGHT, _LEAST_SUPPORT, _FILL_FLOOR = 0.1, 0.5, 2e-3
"""Trust in depth carried in from around a textureless patch; support from which it counts at all; how far
behind the hull (share of the size) a depth must lie to be carried."""


@dataclass(frozen=True)
class DepthMaps:
    """Of all views.

    depth, weight (N, h, w) float32: metres along the axis (0 = unknown), and how far each can be trusted
    cameras       N cameras of size w x h
    """

    depth: np.ndarray
    weight: np.ndarray
    cameras: Cameras


@dataclass(frozen=True)
class _Faces:
    """What one view sees of a mesh, (h, w): depth of entry and of the first exit (0 outside), normal.

    normal (h, w, 3) float32, camera axes
    """

    entry: np.ndarray
    leave: np.ndarray
    normal: np.ndarray


def given_depth(views: Views) -> DepthMaps:
    """The depth that an engine brought with its views."""
    known = np.isfinite(views.depth) & (views.depth > 0) & (views.rgba[..., 3] >= 0.5)
    weight = np.where(known, views.confidence[:, None, None], 0)
    return DepthMaps(
        np.where(known, views.depth, 0).astype(np.float32), weight.astype(np.float32), views.cameras
    )


class Matcher:
    """Matches the views of one object, from its hull and then again from a better shape.

    Lengths inside (how deep to look, how near is agreement) are shares of the object's longest side.
    """

    def __init__(
        self, views: Views, vertices: np.ndarray, faces: np.ndarray, distance: np.ndarray | None = None
    ) -> None:
        """vertices (V, 3), faces (F, 3): the hull.

        distance  (N, H, W) float32 signed pixel distances to the views' silhouettes, where they are at hand
        """
        gray, distance, cameras = _work_views(views, distance)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        self._centre, self._size = (low + high) / 2.0, float((high - low).max())
        self._sweep = prepare(gray, distance, cameras, self._centre, views.confidence)
        self._proxy = vertices, faces
        shown = np.median([np.count_nonzero(d > 0) for d in distance])
        self._first = _COARSEST if shown >= _LARGE else STRIDE

    def match(
        self,
        better: tuple[np.ndarray, np.ndarray] | None,
        check: Callable[[], None],
        on_view: Callable[[int], None],
    ) -> tuple[DepthMaps, float]:
        """Depth of every view, kept where other views confirm it; and the share of the pixels kept.

        better   vertices and faces of a shape inside the hull to start from; None starts from the hull
        on_view  is called with the number of views done so far, from several threads
        """
        stride = self._first if better is None else STRIDE
        full = self._sweep.cameras
        cameras = full.resized(full.width // stride, full.height // stride)
        hull = _Drawn.of(*self._proxy, cameras)
        start = hull if better is None else _Drawn.of(*better, cameras)
        hulls: dict[int, np.ndarray] = {}
        lean = _LEAN if better is None else _LEAN_AGAIN
        deepest = (_DEEPEST if better is None else _DEEPEST_AGAIN) * self._size
        done: list[int] = []

        def one(view: int):
            check()
            seen = start.seen(view)
            entry = hulls[view] = seen.entry
            if better is not None:
                hulls[view] = hull.entry(view)
                distance = float(np.linalg.norm(cameras.centres[view] - self._centre))
                before = _STEPS_BEFORE * sweep_step(self._sweep, view, distance)
                entry = np.where(entry > 0, np.maximum(entry - before, hulls[view]), 0).astype(np.float32)
            planes = _planes(seen.normal, cameras, view, lean)
            result = sweep_view(
                self._sweep, view, entry, seen.leave, hulls[view], planes, deepest, self._centre,
                check=check, stride=stride, parallax=_COARSE if better is None else 1.0,
            )  # fmt: skip
            done.append(view)
            on_view(len(done))
            return result

        maps = map_parallel(one, range(len(cameras)))
        depth, score = np.stack([m.depth for m in maps]), np.stack([m.score for m in maps])
        maps, share = _confirmed(depth, score, self._sweep, cameras, _TOLERANCE * self._size)
        check()
        return self._filled(maps, hulls), share

    def _filled(self, maps: DepthMaps, entry: dict[int, np.ndarray]) -> DepthMaps:
        """With textureless patches between confirmed depths filled in, where two other views agree.

        entry  of the hull, a map (h, w) for each view
        """
        count, stride = len(maps.depth), self._sweep.cameras.width // maps.cameras.width
        size = maps.cameras.width, maps.cameras.height
        floor = _FILL_FLOOR * self._size

        def fill(view: int) -> tuple[np.ndarray, np.ndarray]:
            gray = self._sweep.coarse[view]
            if stride > STRIDE:
                gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
            distance = self._sweep.distance[view, ::stride, ::stride]
            return fill_depth(maps.depth[view], entry[view], gray, distance, floor)

        fills = map_parallel(fill, range(count))
        depth, support = np.stack([f[0] for f in fills]), np.stack([f[1] for f in fills])
        tolerance = _TOLERANCE * self._size
        votes = np.stack(
            map_parallel(
                lambda n: confirmations(depth, self._sweep.cameras, n, self._sweep.sources[n], tolerance),
                range(count),
            )
        )
        new = (maps.depth <= 0) & (depth > 0) & (votes >= 2) & (support > _LEAST_SUPPORT)
        weight = _FILL_WEIGHT * support**2 * self._sweep.weight[:, None, None]
        return DepthMaps(
            np.where(new, depth, maps.depth),
            np.where(new, weight, maps.weight).astype(np.float32),
            maps.cameras,
        )


def _work_views(views: Views, distance: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, Cameras]:
    """Grey over mid-grey, signed distance, cameras, at most WORK_SIZE pixels and whole strides."""
    height, width = views.rgba.shape[1:3]
    scale = min(1.0, WORK_SIZE / max(height, width))
    size = tuple(max(_COARSEST, round(n * scale) // _COARSEST * _COARSEST) for n in (width, height))
    same = size == (width, height)

    def prepared(view: int) -> tuple[np.ndarray, np.ndarray | None]:
        picture = views.rgba[view]
        rgba = picture if same else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        alpha = rgba[..., 3]
        rgb = rgba[..., :3] * alpha[..., None] + 0.5 * (1 - alpha[..., None])
        return rgb @ _LUMA, None if same and distance is not None else signed_distance(alpha)

    gray, found = zip(*map_parallel(prepared, range(len(views))), strict=True)
    if not same or distance is None:
        distance = np.stack(found)
    return np.stack(gray), distance, views.cameras.resized(*size)


@dataclass(frozen=True)
class _Drawn:
    """A mesh as cameras see it; each view is drawn when it is asked for."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    across: np.ndarray
    cameras: Cameras

    @classmethod
    def of(cls, vertices: np.ndarray, faces: np.ndarray, cameras: Cameras) -> "_Drawn":
        points = vertices.astype(np.float64)
        a, b, c = (points[faces[:, i]] for i in range(3))
        return cls(vertices, faces, vertex_normals(vertices, faces), np.cross(b - a, c - a), cameras)

    def _towards(self, view: int) -> np.ndarray:
        eye = self.cameras.world_from_camera[view, :3, 3]
        return (
            np.einsum("fi,fi->f", self.across, eye - self.vertices[self.faces[:, 0]].astype(np.float64)) > 0
        )

    def _fragments(self, faces: np.ndarray, view: int) -> tuple[Fragments, np.ndarray]:
        cameras = self.cameras
        pose, intrinsics = cameras.world_from_camera[view], cameras.intrinsics[view]
        drawn = rasterize_mesh(self.vertices, faces, pose, intrinsics, cameras.width, cameras.height)
        return drawn, np.where(drawn.face >= 0, drawn.depth, 0).astype(np.float32)

    def entry(self, view: int) -> np.ndarray:
        """(h, w) float32: depth of entry, 0 outside."""
        return self._fragments(self.faces[self._towards(view)], view)[1]

    def seen(self, view: int) -> _Faces:
        towards = self._towards(view)
        front, entry = self._fragments(self.faces[towards], view)
        rotation = self.cameras.world_from_camera[view, :3, :3].astype(np.float32)
        return _Faces(
            entry,
            self._fragments(self.faces[~towards], view)[1],
            front.interpolate(self.normals, self.faces[towards]) @ rotation,
        )


def _planes(normal: np.ndarray, cameras: Cameras, view: int, lean: float) -> np.ndarray:
    """Normals leaned towards the camera by the share `lean`: those of a hull stand too far outward."""
    intrinsics = cameras.intrinsics[view]
    rows, columns = np.mgrid[0 : cameras.height, 0 : cameras.width].astype(np.float32) + np.float32(0.5)
    x = (columns - np.float32(intrinsics[0, 2])) / np.float32(intrinsics[0, 0])
    y = (rows - np.float32(intrinsics[1, 2])) / np.float32(intrinsics[1, 1])
    ray = np.stack([x, y, np.ones_like(x)], axis=-1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    unit = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    plane = (1 - lean) * unit - lean * ray
    plane /= np.maximum(np.linalg.norm(plane, axis=-1, keepdims=True), 1e-6)
    return np.ascontiguousarray(plane, dtype=np.float32)


def _confirmed(
    depth: np.ndarray, score: np.ndarray, sweep: SweepViews, cameras: Cameras, tolerance: float
) -> tuple[DepthMaps, float]:
    """Keep depths that two other views hold too, and clear ones that one other view holds.

    depth, score (N, h, w), cameras of that size
    """
    depth = np.where(score < _ACCEPTED, 0, depth).astype(np.float32)
    votes = np.stack(
        map_parallel(
            lambda view: confirmations(depth, sweep.cameras, view, sweep.sources[view], tolerance),
            range(len(depth)),
        )
    )
    kept = (depth > 0) & ((votes >= 2) | ((votes >= 1) & (score >= _CLEAR)))
    stride = sweep.cameras.width // cameras.width
    inside = sum(int(np.count_nonzero(d[::stride, ::stride] > 1)) for d in sweep.distance)
    weight = np.where(kept, np.clip(score, 0.05, 1) * sweep.weight[:, None, None], 0)
    maps = DepthMaps(np.where(kept, depth, 0).astype(np.float32), weight.astype(np.float32), cameras)
    return maps, float(kept.sum() / max(inside, 1))
