"""Do triangles of a UV layout overlap: separating axes on every pair that could. None of our own code."""

import numpy as np


def overlapping_pairs(uvs: np.ndarray, depth: float = 1e-6) -> np.ndarray:
    """(P, 2) pairs of triangles (F, 3, 2) whose insides meet deeper than `depth` in UV units.

    Two triangles are apart when some edge of one has the other wholly beyond it; neighbours that share an
    edge or a corner are, up to rounding. Triangles thinner than `depth` cover nothing and are left out.
    """
    corners = np.asarray(uvs, dtype=np.float64)
    edge = np.roll(corners, -1, axis=1) - corners
    twice = edge[:, 0, 0] * -edge[:, 2, 1] + edge[:, 0, 1] * edge[:, 2, 0]
    longest = np.linalg.norm(edge, axis=2).max(axis=1)
    kept = np.flatnonzero(np.abs(twice) > depth * np.maximum(longest, 1e-12))
    first, second = _near(corners[kept])
    first, second = kept[first], kept[second]
    apart = np.zeros(len(first), dtype=bool)
    for one, other in ((first, second), (second, first)):
        for k in range(3):
            start, along = corners[one, k], edge[one, k]
            normal = np.stack([along[:, 1], -along[:, 0]], axis=1) * np.sign(twice[one])[:, None]
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            beyond = np.einsum("pkc,pc->pk", corners[other] - start[:, None], normal).min(axis=1)
            apart |= beyond > -depth
    return np.stack([first, second], axis=1)[~apart]


def _near(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs of triangles whose boxes meet, by a grid over the unit square."""
    low, high = corners.min(axis=1), corners.max(axis=1)
    cells = int(np.clip(np.sqrt(len(corners)), 1, 256))
    start = np.clip((low * cells).astype(int), 0, cells - 1)
    span = np.clip((high * cells).astype(int), 0, cells - 1) - start + 1
    count = span.prod(axis=1)
    owner = np.repeat(np.arange(len(corners)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    cell = (start[owner, 1] + within // span[owner, 0]) * cells + start[owner, 0] + within % span[owner, 0]
    order = np.argsort(cell, kind="stable")
    cell, owner = cell[order], owner[order]
    pairs = []
    for shift in range(1, len(cell)):  # the k-th next triangle of the same cell
        same = np.flatnonzero(cell[shift:] == cell[:-shift])
        if not len(same):
            break
        a, b = owner[same], owner[same + shift]
        meet = ((low[a] < high[b]) & (low[b] < high[a])).all(axis=1)
        pairs.append(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)[meet])
    found = np.unique(np.concatenate(pairs), axis=0) if pairs else np.zeros((0, 2), dtype=int)
    return found[:, 0], found[:, 1]
