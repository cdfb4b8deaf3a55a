"""Do the views agree? Measured from their silhouettes; a wrong one is left out, near ones are aligned.

In true pictures every outline touches the visual hull. Where views stand beside one another the strictest
of them decides, and the outlines of the others lie outside the hull by as much as they disagree.
"""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid, Silhouettes, looked_at
from backend.geometry.jit import kernel
from backend.geometry.parallel import bands, map_parallel
from backend.geometry.rims import gaps_to_outlines
from backend.pipeline.values import Views

DISAGREE = 0.55
"""Pixels of 512: the upper quartile of the gaps from which views are taken not to agree (measured: true
renders of solid things up to .21, of thin things .5; views that are moved by a pixel .64 to 1.7)."""

_RAYS, _STEPS = 12, 48
_LEAST_RAYS = 60
_CUT = 3.0
_BLAMED = 0.05
_MOST_DROPPED = 0.25


@kernel
def _cut_away(points, projection, distance, open_sides, limit, start, stop, cut):
    """cut (R, T, N) bool: do the points (R, T, 3) of lines start..stop lie outside each view's outline?

    limit  pixels, negative: how far outside. What a view's frame may hide does not count.
    """
    height, width = distance.shape[1], distance.shape[2]
    for n in range(len(distance)):
        p, open_side = projection[n], open_sides[n]
        for i in range(start, stop):
            for t in range(points.shape[1]):
                x, y, z = points[i, t, 0], points[i, t, 1], points[i, t, 2]
                w = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                cut[i, t, n] = False
                if w <= 1e-9:
                    continue
                u = np.rint((p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / w - 0.5)
                v = np.rint((p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / w - 0.5)
                if (
                    (u < 0 and open_side[0])
                    or (u >= width and open_side[1])
                    or (v < 0 and open_side[2])
                    or (v >= height and open_side[3])
                ):
                    continue
                inside = 0 <= u < width and 0 <= v < height
                inset = distance[n, int(min(max(v, 0.0), height - 1.0)), int(min(max(u, 0.0), width - 1.0))]
                cut[i, t, n] = (inset if inside else min(inset, np.float32(0)) - np.float32(10)) < limit


def outline_gaps(hull: Grid, masks: Silhouettes, cameras: Cameras) -> np.ndarray:
    """(M,) pixels, as of pictures 512 wide, between the masks' outlines and the hull's (all views)."""
    scale = 512 / max(cameras.width, cameras.height)
    gaps = map_parallel(lambda n: gaps_to_outlines(hull, masks, cameras, n), range(len(cameras)))
    return np.concatenate(gaps) * scale


def contradicted(masks: Silhouettes, cameras: Cameras) -> list[int]:
    """Views (indices into `masks`) whose mask alone cuts away what the others show; the worst first.

    cameras  of the views in `masks`. A sight line of one view votes against another if that view's mask
    is the only one that every point on the line would contradict.
    """
    count = len(cameras)
    centre = looked_at(cameras)[0]
    points, owner = _sight_points(masks, cameras, centre, _reach(masks, cameras, centre))
    if len(points) < _LEAST_RAYS:
        return []
    cut = np.empty((*points.shape[:2], count), dtype=bool)
    limit = np.float32(-_CUT * max(cameras.width, cameras.height) / 512)
    lines = bands(len(points), 64)
    map_parallel(
        lambda line: _cut_away(
            points, masks.projection, masks.distance, masks.open_sides, limit, line[0], line[1], cut
        ),
        lines,
    )
    dropped: list[int] = []
    while len(dropped) < int(_MOST_DROPPED * count):
        against = cut.copy()
        against[..., dropped] = False
        number = against.sum(axis=-1)
        fewest = number.min(axis=1)
        alone = np.flatnonzero((fewest == 1) & ~np.isin(owner, dropped))
        at = number[alone].argmin(axis=1)
        votes = np.bincount(against[alone, at].argmax(axis=-1), minlength=count)
        rays = np.array([np.count_nonzero((owner != n) & ~np.isin(owner, dropped)) for n in range(count)])
        share = votes / np.maximum(rays, 1)
        worst = int(share.argmax())
        if share[worst] < _BLAMED:
            break
        dropped.append(worst)
    return dropped


def _reach(masks: Silhouettes, cameras: Cameras, centre: np.ndarray) -> float:
    """Metres from `centre` (3,) that hold what the median view shows."""
    pixels, depth = cameras.project(centre[None])
    reach = []
    for view in range(len(cameras)):
        row, column = np.nonzero(masks.distance[view] > 0)
        away = np.hypot(column + 0.5 - pixels[view, 0, 0], row + 0.5 - pixels[view, 0, 1]).max()
        reach.append(1.1 * away * depth[view, 0] / masks.focal[view])
    return float(np.median(reach))


def _sight_points(
    masks: Silhouettes, cameras: Cameras, centre: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """(R, T, 3) points on sight lines well inside the masks, (R,) the view of each line."""
    points, owner = [], []
    for view in range(len(cameras)):
        stride = max(1, max(cameras.width, cameras.height) // (4 * _RAYS))
        inset = masks.distance[view][stride // 2 :: stride, stride // 2 :: stride]
        row, column = np.nonzero(inset > _CUT * max(cameras.width, cameras.height) / 512)
        if not len(row):
            continue
        pose = cameras.world_from_camera[view]
        pixel = np.stack(
            [column * stride + stride // 2 + 0.5, row * stride + stride // 2 + 0.5, np.ones(len(row))]
        )
        ray = (np.linalg.inv(cameras.intrinsics[view]) @ pixel).T @ pose[:3, :3].T
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        middle = (centre - pose[:3, 3]) @ ray.T
        along = np.maximum(middle[:, None] + reach * np.linspace(-1, 1, _STEPS), 1e-6)
        points.append(pose[:3, 3] + along[..., None] * ray[:, None])
        owner.append(np.full(len(row), view))
    if not points:
        return np.zeros((0, _STEPS, 3)), np.zeros(0, dtype=np.int64)
    return np.concatenate(points), np.concatenate(owner)


def without(views: Views, dropped: list[int]) -> Views:
    """The views but those dropped."""
    return views.take(np.setdiff1d(np.arange(len(views)), dropped))
