"""Projects texels into all views at once and blends what they say: visibility, angle, trust, agreement."""

from collections.abc import Callable

import numpy as np

from backend.geometry.jit import inline_kernel, kernel
from backend.geometry.parallel import for_bands
from backend.stages.texture.atlas import Texels
from backend.stages.texture.sources import DEPTH_TOLERANCE, LOW_SHRINK, NOTHING, Sources

POWERS = (2.0, 8.0)
FRONT_POWERS = (2.0, 3.0)
"""Exponents of the cosine between normal and view, for the low and the high band: colours are blended
over many views, so that no seam shows; detail comes from the view that looks most straight at it, so
that views that disagree by a pixel do not blur it. The front view keeps its detail to its silhouette.
Measured on hulls (drill, duck, monkey): against equal powers of 4, front +1.4 dB, held-out -0.05 dB."""
OUTLIER = 0.35
"""Distance from the median of the views (Euclidean, of 0..1 each) at which a view has half its say; never the
front view. So wide that only a view that shows something else is silenced: at 0.06, views that differ by what
geometry leaves lose too, which costs 0.03 dB on held-out views and makes seams 2 to 20 % stronger."""
_CHUNK = 200_000
_SHIFT = np.float32(0.5)
_LEAST_COSINE = np.float32(0.02)
_ONE, _ZERO, _BYTE = np.float32(1), np.float32(0), np.float32(1 / 255)
_LOW = np.float32(1 / LOW_SHRINK)


@inline_kernel
def _look(px, py, pz, normal, view, colors, low, depth, ranges, matrices, centres, tolerance, sample):
    """What a view says of a point: fills sample (6,) = low band, high band; returns trust and cosine."""
    height, width = colors.shape[1], colors.shape[2]
    rows, columns = depth.shape[1], depth.shape[2]
    dx, dy, dz = centres[view, 0] - px, centres[view, 1] - py, centres[view, 2] - pz
    distance = np.sqrt(dx * dx + dy * dy + dz * dz)
    cosine = (dx * normal[0] + dy * normal[1] + dz * normal[2]) / distance
    if not cosine > _LEAST_COSINE:
        return _ZERO, _ZERO
    m = matrices[view]
    z = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
    if z <= _ZERO:
        return _ZERO, _ZERO
    x = (m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]) / z
    y = (m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]) / z
    if not (_SHIFT <= x <= width - _SHIFT and _SHIFT <= y <= height - _SHIFT):
        return _ZERO, _ZERO
    # Visible: not behind the farthest of the four depth samples around.
    column = int(x * np.float32(columns / width) - _SHIFT)
    row = int(y * np.float32(rows / height) - _SHIFT)
    column1, row1 = min(column + 1, columns - 1), min(row + 1, rows - 1)
    farthest = max(
        max(depth[view, row, column], depth[view, row, column1]),
        max(depth[view, row1, column], depth[view, row1, column1]),
    )
    if farthest < NOTHING and z > ranges[view, 0] + ranges[view, 1] * farthest + tolerance:
        return _ZERO, _ZERO
    s, t = x - _SHIFT, y - _SHIFT
    s0, t0 = min(int(s), width - 2), min(int(t), height - 2)
    fs, ft = s - s0, t - t0
    w00, w01, w10, w11 = (_ONE - fs) * (_ONE - ft), fs * (_ONE - ft), (_ONE - fs) * ft, fs * ft
    a, b = colors[view, t0, s0], colors[view, t0, s0 + 1]
    c, d = colors[view, t0 + 1, s0], colors[view, t0 + 1, s0 + 1]
    trust = (w00 * a[3] + w01 * b[3] + w10 * c[3] + w11 * d[3]) * _BYTE
    if trust <= _ZERO:
        return _ZERO, _ZERO
    low_height, low_width = low.shape[1], low.shape[2]
    s = min(max(x * _LOW - _SHIFT, _ZERO), np.float32(low_width - 1))
    t = min(max(y * _LOW - _SHIFT, _ZERO), np.float32(low_height - 1))
    s0, t0 = int(s), int(t)
    s1, t1 = min(s0 + 1, low_width - 1), min(t0 + 1, low_height - 1)
    fs, ft = s - s0, t - t0
    for k in range(3):
        blurred = (_ONE - ft) * ((_ONE - fs) * low[view, t0, s0, k] + fs * low[view, t0, s1, k]) + ft * (
            (_ONE - fs) * low[view, t1, s0, k] + fs * low[view, t1, s1, k]
        )
        sample[k] = blurred
        sample[3 + k] = (w00 * a[k] + w01 * b[k] + w10 * c[k] + w11 * d[k]) * _BYTE - blurred
    return trust, cosine


@inline_kernel
def _mean(n, sample, weight, say, mean):
    """mean (6,) <- the first n samples (n, 6) by their weights (n, 2) for the bands and their say (n,)."""
    smooth, sharp = _ZERO, _ZERO
    mean[:] = _ZERO
    for j in range(n):
        u, v = say[j] * weight[j, 0], say[j] * weight[j, 1]
        smooth += u
        sharp += v
        for k in range(3):
            mean[k] += u * sample[j, k]
            mean[3 + k] += v * sample[j, 3 + k]
    for k in range(3):
        mean[k] /= max(smooth, np.float32(1e-30))
        mean[3 + k] /= max(sharp, np.float32(1e-30))


@inline_kernel
def _disagree(n, sample, front, mean, order, say):
    """Whether some view is far from the mean; then sets say (n,) by the distance from the median colour."""
    farthest = _ZERO
    for j in range(n):
        error = _ZERO
        for k in range(3):
            difference = sample[j, k] + sample[j, 3 + k] - mean[k] - mean[3 + k]
            error += difference * difference
        say[j] = _ZERO
        farthest = max(farthest, error)
    if farthest < np.float32((OUTLIER / 2) ** 2):
        say[:n] = _ONE
        return False
    for k in range(3):
        for j in range(n):
            value = sample[j, k] + sample[j, 3 + k]
            place = j
            while place > 0 and order[place - 1] > value:
                order[place] = order[place - 1]
                place -= 1
            order[place] = value
        median = np.float32(0.5) * (order[n // 2] + order[(n - 1) // 2])
        for j in range(n):
            difference = sample[j, k] + sample[j, 3 + k] - median
            say[j] += difference * difference
    for j in range(n):
        error = say[j] * np.float32(1 / OUTLIER**2)
        say[j] = _ONE / (_ONE + error * error)
    if front:
        say[0] = _ONE
    return True


@kernel
def _blend(
    positions, normals, colors, low, depth, ranges, matrices, centres, scales, powers, levels, tolerance,
    start, stop, out,
):  # fmt: skip
    """Texels start..stop of `out` (P, 5): colour, sum of the smooth weights, view 0's share of it."""
    count = len(colors)
    sample = np.empty((count, 6), dtype=np.float32)
    weight = np.empty((count, 2), dtype=np.float32)
    say = np.empty(count, dtype=np.float32)
    mean, order = np.empty(6, dtype=np.float32), np.empty(count, dtype=np.float32)
    for i in range(start, stop):
        n = 0
        front = _ZERO
        for view in range(count):
            if scales[view] <= _ZERO:
                continue
            trust, cosine = _look(
                positions[i, 0], positions[i, 1], positions[i, 2], normals[i], view,
                colors, low, depth, ranges, matrices, centres, tolerance, sample[n],
            )  # fmt: skip
            if trust <= _ZERO:
                continue
            for k in range(3):
                sample[n, k] = levels[view, 0, k] * sample[n, k] + levels[view, 1, k]
                sample[n, 3 + k] *= levels[view, 0, k]
            weight[n, 0] = scales[view] * trust * cosine ** powers[view, 0]
            weight[n, 1] = scales[view] * trust * cosine ** powers[view, 1]
            say[n] = _ONE
            if view == 0:
                front = weight[n, 0]
            n += 1
        if n == 0:
            continue
        _mean(n, sample, weight, say, mean)
        if n > 2 and _disagree(n, sample, front > _ZERO, mean, order, say):
            _mean(n, sample, weight, say, mean)
        total = _ZERO
        for j in range(n):
            total += weight[j, 0]
        for k in range(3):
            out[i, k] = mean[k] + mean[3 + k]
        out[i, 3] = total
        out[i, 4] = front / max(total, np.float32(1e-30))


@kernel
def _sample(
    positions, normals, colors, low, depth, ranges, matrices, centres, powers, tolerance, start, stop, out
):  # fmt: skip
    """Texels start..stop of `out` (P, N, 4): each view's low band there, and its weight."""
    sample = np.empty(6, dtype=np.float32)
    for i in range(start, stop):
        for view in range(len(colors)):
            trust, cosine = _look(
                positions[i, 0], positions[i, 1], positions[i, 2], normals[i], view,
                colors, low, depth, ranges, matrices, centres, tolerance, sample,
            )  # fmt: skip
            if trust > _ZERO:
                for k in range(3):
                    out[i, view, k] = sample[k]
                out[i, view, 3] = trust * cosine ** powers[view, 0]


def blend(
    texels: Texels,
    sources: Sources,
    scales: np.ndarray,
    levels: np.ndarray,
    extent: float,
    check: Callable[[], None],
) -> np.ndarray:
    """What the views say together about every texel: (P, 5) float32.

    scales (N,) float32 weighs the views, 0 leaves one out; levels as `levelling.level_views`.
    Columns 0-2 the colour, black where no view sees the texel; 3 the sum of the weights of the low band, 0
    where no view sees it; 4 the share of view 0 in it.
    """
    out = np.zeros((len(texels), 5), dtype=np.float32)
    for first in range(0, len(texels), _CHUNK):
        check()
        for_bands(
            lambda start, stop, first=first: _blend(
                texels.positions, texels.normals, *_arrays(sources), scales, _powers(len(sources)), levels,
                np.float32(DEPTH_TOLERANCE * extent), first + start, first + stop, out,
            ),
            min(_CHUNK, len(texels) - first),
        )  # fmt: skip
    return out


def sample_views(texels: Texels, sources: Sources, extent: float) -> np.ndarray:
    """(P, N, 4) float32: the low band that each view shows at each texel, and its weight, 0 where hidden."""
    out = np.zeros((len(texels), len(sources), 4), dtype=np.float32)
    for_bands(
        lambda start, stop: _sample(
            texels.positions, texels.normals, *_arrays(sources), _powers(len(sources)),
            np.float32(DEPTH_TOLERANCE * extent), start, stop, out,
        ),
        len(texels),
    )  # fmt: skip
    return out


def _arrays(sources: Sources) -> tuple[np.ndarray, ...]:
    return (
        sources.colors, sources.low, sources.depth, sources.range, sources.matrices, sources.centres,
    )  # fmt: skip


def _powers(count: int) -> np.ndarray:
    powers = np.tile(np.array(POWERS, dtype=np.float32), (count, 1))
    powers[:1] = FRONT_POWERS
    return powers
