"""Depth maps from posed views: plane sweep inward from the hull, scored by normalised correlation.

For every second or fourth pixel inside a mask, hypotheses run from the hull's entry point inward. A patch on
a slanted plane through each is looked up in the neighbour views (affine map of the patch) and scored by
bilaterally weighted NCC; a hypothesis gets the mean of its two best views, so that one view may be
occluded. Semi-global aggregation (Hirschmueller 2008) picks one hypothesis a pixel, which is refined at
full resolution. What other views do not confirm is dropped.

Depths are metres along the camera axis. Everything is deterministic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.jit import kernel, merged_kernel
from backend.geometry.parallel import bands

STRIDE = 2
"""The finest depth maps have a pixel for STRIDE x STRIDE pixels of the views, centred in them."""
_SOURCES = 4
_NOISE = np.float32((2.0 / 255) ** 2)
"""Variance added to a patch: flat patches correlate with nothing (smooth shading would with everything)."""


@dataclass(frozen=True)
class SweepViews:
    """Pictures ready for matching.

    gray     (N, H, W) float32 0..1
    coarse   (N, H/2, W/2) float32, `gray` averaged over 2x2
    distance (N, H, W) float32 pixels to the mask's edge, > 0 inside
    cameras  N cameras of size W x H
    sources  (N, S) int64: the views that each is matched against, -1 where there are fewer
    weight   (N,) float32: trust in each view
    """

    gray: np.ndarray
    coarse: np.ndarray
    distance: np.ndarray
    cameras: Cameras
    sources: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class DepthMap:
    """Of one view, a pixel (h, w) for every `stride` x `stride` of the view's.

    depth (h, w) float32 metres, 0 where unknown; score (h, w) float32 correlation 0..1
    """

    depth: np.ndarray
    score: np.ndarray


def neighbours(cameras: Cameras, centre: np.ndarray, count: int = _SOURCES) -> np.ndarray:
    """(N, count) int64 views to match each view with: 6 to 65 degrees away, best near 28; -1 = none.

    The angle is the one between the directions from `centre` (3,) to the cameras.
    """
    towards = cameras.centres - centre
    towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip(towards @ towards.T, -1, 1)))
    unfit = np.abs(angle - 28) + np.where((angle < 6) | (angle > 65), 1e3, 0)
    np.fill_diagonal(unfit, 1e6)
    order = np.argsort(np.round(unfit, 3), axis=1, kind="stable")[:, :count]
    sources = np.full((len(cameras), count), -1, dtype=np.int64)
    sources[:, : order.shape[1]] = np.where(np.take_along_axis(unfit, order, axis=1) < 900, order, -1)
    return sources


def relative_maps(cameras: Cameras, view: int, sources: np.ndarray) -> np.ndarray:
    """(S, 3, 4) float64: a point in `view`'s camera axes -> homogeneous pixels of each source."""
    world = cameras.world_from_camera[view]
    maps = np.zeros((len(sources), 3, 4))
    for slot, source in enumerate(sources):
        if source >= 0:
            maps[slot] = (
                cameras.intrinsics[source] @ (np.linalg.inv(cameras.world_from_camera[source]) @ world)[:3]
            )
    return maps


@merged_kernel
def _reference_patch(gray, distance, row, column, radius, values, weights):
    """Zero-mean weighted patch around a pixel: `values` = w (r - mean), `weights` = w, sum 1.

    Weights fall with colour difference and distance and are 0 outside the mask. Returns the variance.
    """
    height, width = gray.shape
    centre = gray[row, column]
    total, mean = np.float32(0.0), np.float32(0.0)
    slot = 0
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            y, x = min(max(row + dy, 0), height - 1), min(max(column + dx, 0), width - 1)
            weight = np.float32(0.0)
            if distance[y, x] > 0.5:
                value = gray[y, x]
                weight = np.exp(
                    -abs(value - centre) * np.float32(5.0)
                    - np.float32(dx * dx + dy * dy) / np.float32(2.0 * radius * radius)
                )
                values[slot] = value
                total += weight
                mean += weight * value
            else:
                values[slot] = 0.0
            weights[slot] = weight
            slot += 1
    mean /= total
    variance = np.float32(0.0)
    for i in range(slot):
        weights[i] /= total
        off = values[i] - mean
        variance += weights[i] * off * off
        values[i] = weights[i] * off
    return variance


@merged_kernel
def _patch(radius):
    """Space for the values and the weights of a patch, and where its pixels lie, row by row."""
    side = 2 * radius + 1
    right, down = np.empty(side * side, dtype=np.float32), np.empty(side * side, dtype=np.float32)
    for i in range(side * side):
        right[i], down[i] = i % side - radius, i // side - radius
    return np.empty(side * side, dtype=np.float32), np.empty(side * side, dtype=np.float32), right, down


@merged_kernel
def _correlation(gray, values, weights, right, down, variance, radius, u, v, ux, uy, vx, vy, noise):
    """NCC of the reference patch with the source patch at (u, v), axes (ux, vx) and (uy, vy) a pixel.

    right, down  (n,) float32: where the pixels of the patch lie in it
    u, v count from the first pixel's centre. -1 where the patch leaves the picture.
    """
    height, width = gray.shape
    reach_u = (abs(ux) + abs(uy)) * radius
    reach_v = (abs(vx) + abs(vy)) * radius
    margin = np.float32(0.01)  # for the rounding of sums below
    if not (reach_u + margin <= u < width - 1 - margin - reach_u):
        return np.float32(-1.0)
    if not (reach_v + margin <= v < height - 1 - margin - reach_v):
        return np.float32(-1.0)
    # One loop without branches, in single precision, indices without a sign: LLVM makes vectors of it.
    pixels, below, one = gray.ravel(), np.uint32(width), np.uint32(1)
    covariance, mean, square = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(len(right)):
        x, y = u + right[i] * ux + down[i] * uy, v + right[i] * vx + down[i] * vy
        column, row = np.int32(x), np.int32(y)
        a, b = x - np.float32(column), y - np.float32(row)
        at = np.uint32(row * np.int32(width) + column)
        top = pixels[at] + a * (pixels[at + one] - pixels[at])
        at += below
        low = pixels[at] + a * (pixels[at + one] - pixels[at])
        sample = top + b * (low - top)
        weighted = weights[i] * sample
        covariance += values[i] * sample
        mean += weighted
        square += weighted * sample
    other = max(square - mean * mean, np.float32(0.0))
    return covariance / np.sqrt((variance + noise) * (other + noise))


@merged_kernel
def _hypothesis(
    gray, distance, maps, sources, trust, shrink, values, weights, right, down, variance, radius,
    rx, ry, fx, fy, nx, ny, nz, depth, noise,
):  # fmt: skip
    """Mean of the two best correlations of the patch at `depth` on the plane with normal n.

    rx, ry: the pixel's ray at depth 1. `gray` is `shrink` times smaller than `distance` and the maps.
    """
    best, second = np.float32(-1.0), np.float32(-1.0)
    px, py, pz = rx * depth, ry * depth, depth
    # Moving one pixel across the patch moves the point along the plane.
    facing = nx * rx + ny * ry + nz
    step_x, step_y = depth * shrink / fx, depth * shrink / fy
    slide_x, slide_y = -nx / facing * step_x, -ny / facing * step_y
    for s in range(len(sources)):
        n = sources[s]
        if n < 0:
            continue
        m = maps[s]
        w = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
        if w <= 0.0:
            continue
        u = (m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]) / w
        v = (m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]) / w
        column, row = int(u), int(v)
        if u < 0 or v < 0 or column >= distance.shape[2] or row >= distance.shape[1]:
            continue
        if distance[n, row, column] < 2.0:
            continue
        # d(point)/d(x pixel) = (step_x + slide_x rx, slide_x ry, slide_x); the same for y.
        ax, ay, az = step_x + slide_x * rx, slide_x * ry, slide_x
        bx, by, bz = slide_y * rx, step_y + slide_y * ry, slide_y
        aw = m[2, 0] * ax + m[2, 1] * ay + m[2, 2] * az
        bw = m[2, 0] * bx + m[2, 1] * by + m[2, 2] * bz
        scale = 1.0 / (w * shrink)
        score = _correlation(
            gray[n], values, weights, right, down, variance, radius,
            np.float32(u / shrink - 0.5), np.float32(v / shrink - 0.5),
            np.float32((m[0, 0] * ax + m[0, 1] * ay + m[0, 2] * az - u * aw) * scale),
            np.float32((m[0, 0] * bx + m[0, 1] * by + m[0, 2] * bz - u * bw) * scale),
            np.float32((m[1, 0] * ax + m[1, 1] * ay + m[1, 2] * az - v * aw) * scale),
            np.float32((m[1, 0] * bx + m[1, 1] * by + m[1, 2] * bz - v * bw) * scale),
            noise,
        ) * trust[n]  # fmt: skip
        if score > best:
            best, second = score, best
        elif score > second:
            second = score
    return np.float32(0.5) * (max(best, np.float32(0.0)) + max(second, np.float32(0.0)))


@kernel
def _sweep_rows(
    gray, distance, half, pace, maps, sources, trust, view, intrinsics, entry, leave, hull, normal, step,
    prior, noise, top, left, start, stop, cost,
):  # fmt: skip
    """Cost (1 - score) of each hypothesis of rows start..stop; a flat patch costs the same everywhere.

    half      (H/2, W/2) float32: every second pixel of the view's `distance`
    pace      pixels of `half` for one of the map
    cost      (rows, columns, K) of a window of the map whose first pixel is (top, left): K hypotheses `step`
    metres of depth apart, from `entry` on, -1 where the pixel is not matched. Rows are those of the window.
    """
    radius, shrink = 2, 2
    values, weights, right, down = _patch(radius)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    for r in range(start, stop):
        for c in range(cost.shape[1]):
            i, j = top + r, left + c
            y, x = pace * i, pace * j
            if entry[i, j] <= 0.0 or half[y, x] < 1.5:
                continue
            variance = _reference_patch(gray[view], half, y, x, radius, values, weights)
            rx, ry = (2 * x + 1.0 - cx) / fx, (2 * y + 1.0 - cy) / fy
            nx, ny, nz = normal[i, j, 0], normal[i, j, 1], normal[i, j, 2]
            # The map's pixel lies right of and below the patch's by as much, on the same plane.
            aside = pace - 1
            ratio = (nx * (rx + aside / fx) + ny * (ry + aside / fy) + nz) / (nx * rx + ny * ry + nz)
            textured = variance > noise
            for k in range(cost.shape[2]):
                depth = entry[i, j] + step * k
                if depth > leave[i, j] and k > 0:
                    cost[r, c, k] = 1.5
                elif not textured:
                    cost[r, c, k] = 0.7
                else:
                    cost[r, c, k] = np.float32(1.0) - _hypothesis(
                        gray, distance, maps, sources, trust, shrink, values, weights, right, down, variance,
                        radius, rx, ry, fx, fy, nx, ny, nz, depth * ratio, noise,
                    )  # fmt: skip
                cost[r, c, k] += prior * np.float32(min(max(depth - hull[i, j], 0.0) / (4 * step), 1.0))


@kernel
def _aggregate(cost, entry, step, dy, dx, small, large, path, total):
    """One direction of semi-global aggregation, added to `total`; `path` (2, w, K) is scratch: two rows.

    Hypothesis k of two pixels may be of different depth: indices are shifted by the step of the entry.
    """
    height, width, count = cost.shape
    for r in range(height):
        i = r if dy > 0 or (dy == 0 and dx > 0) else height - 1 - r
        for c in range(width):
            j = c if dx > 0 or (dx == 0 and dy > 0) else width - 1 - c
            if cost[i, j, 0] < 0.0:
                continue
            pi, pj = i - dy, j - dx
            if pi < 0 or pj < 0 or pi >= height or pj >= width or cost[pi, pj, 0] < 0.0:
                for k in range(count):
                    path[i & 1, j, k] = cost[i, j, k]
                    total[i, j, k] += path[i & 1, j, k]
                continue
            shift = int(np.rint((entry[i, j] - entry[pi, pj]) / step))
            lowest = path[pi & 1, pj, 0]
            for k in range(1, count):
                lowest = min(lowest, path[pi & 1, pj, k])
            for k in range(count):
                q = k + shift
                best = lowest + large
                if 0 <= q < count:
                    best = min(best, path[pi & 1, pj, q])
                if 0 <= q - 1 < count:
                    best = min(best, path[pi & 1, pj, q - 1] + small)
                if 0 <= q + 1 < count:
                    best = min(best, path[pi & 1, pj, q + 1] + small)
                path[i & 1, j, k] = cost[i, j, k] + best - lowest
                total[i, j, k] += path[i & 1, j, k]


@kernel
def _refine_rows(
    gray, distance, pace, maps, sources, trust, view, intrinsics, entry, normal, total, step, noise,
    top, left, start, stop, depth_out, score_out,
):  # fmt: skip
    """The best hypothesis of the aggregated costs, refined at full resolution in a 7x7 window.

    pace, top, left, start, stop  as in `_sweep_rows`
    """
    radius, fine = 3, 2
    count = total.shape[2]
    values, weights, right, down = _patch(radius)
    scores = np.empty(2 * fine + 1, dtype=np.float32)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    small_step = step / (fine + 1)
    for r in range(start, stop):
        for c in range(total.shape[1]):
            if total[r, c, 0] < 0.0:
                continue
            chosen = 0
            for k in range(1, count):
                if total[r, c, k] < total[r, c, chosen]:
                    chosen = k
            i, j = top + r, left + c
            middle = entry[i, j] + step * chosen
            y, x = pace * (2 * i + 1) - 1, pace * (2 * j + 1) - 1
            variance = _reference_patch(gray[view], distance[view], y, x, radius, values, weights)
            if variance < noise:
                continue
            rx, ry = (x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy
            # The map's pixel lies half a pixel right of and below the patch's, on the same plane.
            nx, ny, nz = normal[i, j, 0], normal[i, j, 1], normal[i, j, 2]
            ratio = (nx * (rx + 0.5 / fx) + ny * (ry + 0.5 / fy) + nz) / (nx * rx + ny * ry + nz)
            best = 0
            for t in range(2 * fine + 1):
                scores[t] = _hypothesis(
                    gray, distance, maps, sources, trust, 1, values, weights, right, down, variance, radius,
                    rx, ry, fx, fy, nx, ny, nz, (middle + small_step * (t - fine)) * ratio, noise,
                )  # fmt: skip
                if scores[t] > scores[best]:
                    best = t
            offset = 0.0
            if 0 < best < 2 * fine:
                bend = scores[best - 1] + scores[best + 1] - 2 * scores[best]
                if bend < 0.0:
                    offset = 0.5 * (scores[best - 1] - scores[best + 1]) / bend
            depth_out[i, j] = middle + small_step * (best - fine + offset)
            score_out[i, j] = scores[best]


def prepare(
    gray: np.ndarray, distance: np.ndarray, cameras: Cameras, centre: np.ndarray, weight: np.ndarray
) -> SweepViews:
    """gray (N, H, W) float32 with even H and W, distance (N, H, W) px, weight (N,) 0..1."""
    coarse = np.stack(
        [cv2.resize(g, (g.shape[1] // 2, g.shape[0] // 2), interpolation=cv2.INTER_AREA) for g in gray]
    )
    trust = (0.5 + 0.5 * np.clip(weight, 0, 1)).astype(np.float32)
    return SweepViews(gray, coarse, distance, cameras, neighbours(cameras, centre), trust)


def sweep_step(views: SweepViews, view: int, distance: float, parallax: float = 1.0) -> float:
    """Metres of depth that move the nearest source's picture by `parallax` pixels, at this distance."""
    sources = views.sources[view][views.sources[view] >= 0]
    ahead = views.cameras.world_from_camera[:, :3, 2]
    cosine = float(np.clip(ahead[sources] @ ahead[view], -1, 1).max())
    sine = max(float(np.sqrt(1 - cosine**2)), 0.1)
    return parallax * distance / (float(views.cameras.intrinsics[view, 0, 0]) * sine)


def sweep_view(
    views: SweepViews,
    view: int,
    entry: np.ndarray,
    leave: np.ndarray,
    hull: np.ndarray,
    normal: np.ndarray,
    deepest: float,
    centre: np.ndarray,
    *,
    check: Callable[[], None] = lambda: None,
    stride: int = STRIDE,
    parallax: float = 1.0,
    hull_prior: float = 0.1,
    small_penalty: float = 0.06,
    large_penalty: float = 0.5,
) -> DepthMap:
    """Depth of one view.

    entry, leave  (h, w) float32: depths to look between, entry 0 where there is nothing
    hull          (h, w) float32: where the ray enters the hull; depths behind it cost up to `hull_prior`
    normal        (h, w, 3) float32: the patch planes' normals in the camera's axes
    deepest       metres: how far behind the entry to look
    stride        pixels of the view for one of the maps above and of the result, h x w; even
    parallax      pixels between hypotheses
    check         called every 0.1 s or so; may raise
    """
    cameras, sources = views.cameras, views.sources[view]
    height, width = entry.shape
    unknown = np.zeros((height, width), dtype=np.float32)
    if not (sources >= 0).any():
        return DepthMap(unknown, unknown)
    maps = relative_maps(cameras, view, sources)
    step = sweep_step(views, view, float(np.linalg.norm(cameras.centres[view] - centre)), parallax)
    count = int(np.clip(np.ceil(deepest / step), 4, 48))
    intrinsics = np.ascontiguousarray(cameras.intrinsics[view])
    half = np.ascontiguousarray(views.distance[view, ::2, ::2])
    pace = stride // STRIDE
    matched = (entry > 0) & (half[::pace, ::pace][:height, :width] >= 1.5)
    rows, columns = np.flatnonzero(matched.any(axis=1)), np.flatnonzero(matched.any(axis=0))
    if not len(rows):
        return DepthMap(unknown, unknown)
    # The volumes hold the object's window of the picture only: they are the largest arrays of all.
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    cost = np.full((bottom - top, right - left, count), -1.0, dtype=np.float32)
    for start, stop in bands(len(cost), 8):
        check()
        _sweep_rows(
            views.coarse, views.distance, half, pace, maps, sources, views.weight, view, intrinsics, entry,
            leave, hull, normal, step, np.float32(hull_prior), _NOISE, top, left, start, stop, cost,
        )  # fmt: skip
    total = np.where(cost < 0, np.float32(-1), np.float32(0))
    path = np.empty((2, *cost.shape[1:]), dtype=np.float32)
    first = np.ascontiguousarray(entry[top:bottom, left:right])
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        _aggregate(
            cost, first, step, dy, dx, np.float32(small_penalty), np.float32(large_penalty), path, total
        )
    check()
    del cost, path
    depth, score = unknown, unknown.copy()
    _refine_rows(
        views.gray, views.distance, pace, maps, sources, views.weight, view, intrinsics, entry, normal, total,
        step, _NOISE, top, left, 0, len(total), depth, score,
    )  # fmt: skip
    return DepthMap(depth, score)


@kernel
def _confirm_rows(depth, stride, view, maps, others, intrinsics, tolerance, start, stop, votes):
    """Count, for each pixel of `view`, the other views whose depth agrees; -1000 where there is none."""
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    height, width = depth.shape[1], depth.shape[2]
    for i in range(start, stop):
        for j in range(width):
            z = depth[view, i, j]
            if z <= 0.0:
                continue
            px, py = (stride * (j + 0.5) - cx) / fx * z, (stride * (i + 0.5) - cy) / fy * z
            for s in range(len(others)):
                n = others[s]
                if n < 0:
                    continue
                m = maps[s]
                w = m[2, 0] * px + m[2, 1] * py + m[2, 2] * z + m[2, 3]
                if w <= 0.0:
                    continue
                u = (m[0, 0] * px + m[0, 1] * py + m[0, 2] * z + m[0, 3]) / w
                v = (m[1, 0] * px + m[1, 1] * py + m[1, 2] * z + m[1, 3]) / w
                if u < 0.0 or v < 0.0:
                    continue
                column, row = int(u / stride), int(v / stride)
                if column < 1 or row < 1 or column >= width - 1 or row >= height - 1:
                    continue
                nearest = 1e30
                for y in range(row - 1, row + 2):
                    for x in range(column - 1, column + 2):
                        if depth[n, y, x] > 0.0:
                            nearest = min(nearest, abs(depth[n, y, x] - w))
                if nearest < tolerance:
                    votes[i, j] += 1


def confirmations(
    depth: np.ndarray, cameras: Cameras, view: int, others: np.ndarray, tolerance: float
) -> np.ndarray:
    """(h, w) int32: how many `others` (S,) hold a depth within `tolerance` metres of this view's points.

    depth (N, h, w) float32, 0 = unknown; cameras of the views, an even number of times as large.
    """
    votes = np.zeros(depth.shape[1:], dtype=np.int32)
    maps = relative_maps(cameras, view, others)
    intrinsics = np.ascontiguousarray(cameras.intrinsics[view])
    stride = cameras.width // depth.shape[2]
    _confirm_rows(depth, stride, view, maps, others, intrinsics, float(tolerance), 0, depth.shape[1], votes)
    return votes
