"""More views, drawn from the fitted Gaussians between those given: Hi3D 4.4 trains on 16 + M."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from backend.geometry.cameras import Cameras
from backend.geometry.carving import looked_at
from backend.geometry.rasterize import rasterize
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views

TRUST = 0.5
"""Of a drawn view, times that of the views it lies between: it repeats what they say."""


def with_views_between(views: Views, splats: Splats, count: int, context: StageContext) -> Views:
    """The views, and `count` drawn ones spread evenly over the ring that they are in the order of."""
    if not count or len(views) < 2:
        return views
    cameras = cameras_between(views.cameras, count)
    place = _places(len(views), count)
    first = place.astype(int)
    pictures = []
    for n in range(count):
        context.step(n, count, f"Drawing view {n + 1} of {count} between the others")
        drawn = rasterize(
            splats, cameras.take([n]), background=np.zeros(3), antialiased=splats.antialiased,
            differentiable=False,
        )  # fmt: skip
        alpha = drawn.alpha[0][..., None]
        color = np.clip(drawn.color[0] / np.maximum(alpha, 1e-6), 0, 1) * (alpha > 0)
        pictures.append(np.concatenate([color, np.clip(alpha, 0, 1)], axis=2))
    neighbours = views.confidence[first], views.confidence[(first + 1) % len(views)]
    trust = (TRUST * np.minimum(*neighbours)).astype(np.float32)
    pixels = views.pixel_confidence
    if pixels is not None:
        pixels = np.concatenate([pixels, np.ones((count, *pixels.shape[1:]), dtype=np.float32)])
    both = Cameras(
        np.concatenate([views.cameras.world_from_camera, cameras.world_from_camera]),
        np.concatenate([views.cameras.intrinsics, cameras.intrinsics]),
        cameras.width,
        cameras.height,
    )
    return replace(
        views,
        rgba=np.concatenate([views.rgba, np.asarray(pictures, dtype=np.float32)]),
        cameras=both,
        confidence=np.concatenate([views.confidence, trust]),
        depth=None,
        pixel_confidence=pixels,
    )


def cameras_between(cameras: Cameras, count: int) -> Cameras:
    """`count` cameras evenly spread over the closed ring of these, none at one of them.

    They turn about the point that the cameras look at: half-way on a ring is on the ring, too.
    """
    point, _ = looked_at(cameras)
    place = _places(len(cameras), count)
    poses, intrinsics = [], []
    for at in place:
        a, t = int(at), at - int(at)
        b = (a + 1) % len(cameras)
        pair = cameras.world_from_camera[[a, b]]
        away = pair[:, :3, 3] - point
        length = np.linalg.norm(away, axis=1)
        directions = away / length[:, None]
        angle = np.arccos(np.clip(directions[0] @ directions[1], -1, 1))
        share = np.array([1 - t, t]) if angle < 1e-6 else np.sin(np.array([1 - t, t]) * angle) / np.sin(angle)
        pose = np.eye(4)
        pose[:3, :3] = Slerp([0, 1], Rotation.from_matrix(pair[:, :3, :3]))(t).as_matrix()
        pose[:3, 3] = point + (share @ directions) * ((1 - t) * length[0] + t * length[1])
        poses.append(pose)
        intrinsics.append((1 - t) * cameras.intrinsics[a] + t * cameras.intrinsics[b])
    return Cameras(np.array(poses), np.array(intrinsics), cameras.width, cameras.height)


def _places(views: int, count: int) -> np.ndarray:
    """(count,) numbers 0..views; at 2.5, half-way from view 2 to view 3."""
    return (np.arange(count) + 0.5) * views / count
