"""Quads and triangles: which diagonal halves a quad, which triangles make a good quad together."""

import numpy as np

_FLATTEST = 0.2
"""Least cosine between the normals of two triangles that may become one quad."""
_WORST_CORNER = 0.97
"""Largest |cosine| of a corner of such a quad."""


def without_doublets(quads: np.ndarray) -> np.ndarray:
    """Quads (Q, 4) of a closed surface without vertices in which only two of them meet.

    Such two quads (v, a, x, b) and (v, b, y, a) share two sides; they become (a, x, b, y). Vertices that
    are no longer used stay in the count.
    """
    quads = np.array(quads, dtype=np.int32)
    while True:
        flat = quads.ravel()
        lone = np.flatnonzero(np.bincount(flat) == 2)
        # The two places of each lone vertex; a quad takes part in one merger a round.
        order = np.argsort(flat, kind="stable")
        first = np.searchsorted(flat[order], lone)
        places = np.column_stack([order[first], order[first + 1]])
        taken, gone = np.zeros(len(quads), dtype=bool), np.zeros(len(quads), dtype=bool)
        for one, two in places.tolist():
            p, q = one // 4, two // 4
            v_a_x_b, v_b_y_a = (np.roll(quads[n // 4], -(n % 4)) for n in (one, two))
            if taken[p] or taken[q] or v_a_x_b[2] == v_b_y_a[2]:
                continue
            taken[p] = taken[q] = gone[q] = True
            quads[p] = v_a_x_b[1], v_a_x_b[2], v_a_x_b[3], v_b_y_a[2]
        if not gone.any():
            return quads
        quads = quads[~gone]


def diagonal_split(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """(2 Q, 3) int32: each quad (Q, 4) as triangles (a, b, c) and (a, c, d), along its better diagonal.

    Better is one that is no edge yet, then the one whose halves bend less, none of them turned over.
    """
    count = int(quads.max()) + 1
    turned = np.roll(quads, -1, axis=1)

    def key(tail: np.ndarray, tip: np.ndarray) -> np.ndarray:
        return np.minimum(tail, tip).astype(np.int64) * count + np.maximum(tail, tip)

    sides = key(quads, turned).ravel()
    diagonals = np.stack([key(quads[:, 0], quads[:, 2]), key(quads[:, 1], quads[:, 3])])
    bend = np.stack([_bend(vertices, quads), _bend(vertices, turned)])
    bend[np.isin(diagonals, sides)] = -np.inf
    other = bend[1] > bend[0] + 1e-6
    # Two quads with the same diagonal: the later one takes its other one.
    taken = np.where(other, diagonals[1], diagonals[0])
    order = np.argsort(taken, kind="stable")
    again = np.zeros(len(quads), dtype=bool)
    again[order[1:]] = taken[order[1:]] == taken[order[:-1]]
    chosen = np.where((other ^ again)[:, None], turned, quads)
    return np.ascontiguousarray(chosen[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3), dtype=np.int32)


def _bend(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Cosine between the halves of each quad; -1 where one of them has nearly no area."""
    a, b, c, d = (np.asarray(vertices, dtype=np.float64)[quads[:, k]] for k in range(4))
    first, second = np.cross(b - a, c - a), np.cross(c - a, d - a)
    sizes = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    whole = np.maximum(sizes[0] + sizes[1], 1e-300)
    cosine = (first * second).sum(axis=1) / np.maximum(sizes[0] * sizes[1], 1e-300)
    return np.where(np.minimum(*sizes) > 0.02 * whole, cosine, -1.0)


def pair_triangles(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair neighbours of a closed manifold to quads: faces (F, 3), their corners turned, and quads (Q, 2).

    The best pairs first; then single triangles take a neighbour from a pair whose other half finds a
    single one too. Pairs that would bend or be no convex quad are left out.
    """
    faces = np.array(faces, dtype=np.int32)
    pairs, corners, quality = _candidates(np.asarray(vertices, dtype=np.float64), faces)
    mate = np.full(len(faces), -1, dtype=np.int64)  # number of the candidate that a face is part of
    around: list[list[int]] = [[] for _ in range(len(faces))]
    for number in np.argsort(-quality, kind="stable").tolist():
        first, second = pairs[number].tolist()
        around[first].append(number)
        around[second].append(number)
        if mate[first] < 0 and mate[second] < 0:
            mate[first] = mate[second] = number
    for _ in range(3):
        for single in np.flatnonzero(mate < 0).tolist():
            if mate[single] < 0:
                _take(single, mate, pairs, around)
    chosen = np.unique(mate[mate >= 0])
    first, second = pairs[chosen].T
    a, b, c, d = corners[chosen].T
    faces[first], faces[second] = np.column_stack([a, b, c]), np.column_stack([a, c, d])
    return faces, np.column_stack([first, second]).astype(np.int32)


def _take(single: int, mate: np.ndarray, pairs: np.ndarray, around: list[list[int]]) -> None:
    """An augmenting path of three pairs from a single face, if there is one."""
    for wanted in around[single]:
        other = int(pairs[wanted].sum()) - single
        if mate[other] < 0:
            mate[single] = mate[other] = wanted
            return
        left = int(pairs[mate[other]].sum()) - other
        for offered in around[left]:
            free = int(pairs[offered].sum()) - left
            if free != single and mate[free] < 0:
                mate[single] = mate[other] = wanted
                mate[left] = mate[free] = offered
                return


def _candidates(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring pairs (E, 2), corners (E, 4) of their quads as in `Mesh.quads`, how good each is."""
    tail, tip = faces, np.roll(faces, -1, axis=1)
    count = int(faces.max()) + 1
    forward = (tail.astype(np.int64) * count + tip).ravel()
    backward = (tip.astype(np.int64) * count + tail).ravel()
    order = np.argsort(forward)
    opposite = order[np.searchsorted(forward[order], backward)]  # the half-edge on the other side
    half = np.flatnonzero(np.arange(len(forward)) < opposite)
    other = opposite[half]
    flat = faces.ravel()
    first, second = half // 3, other // 3

    def corner(edge: np.ndarray, step: int) -> np.ndarray:
        return flat[3 * (edge // 3) + (edge + step) % 3]

    # The common edge runs from c to a in the first face: (a, b, c) and (a, c, d).
    c, a = corner(half, 0), corner(half, 1)
    corners = np.column_stack([a, corner(half, 2), c, corner(other, 2)])
    bend = _bend(points, corners)
    ring = points[corners]
    ahead, behind = np.roll(ring, -1, axis=1) - ring, np.roll(ring, 1, axis=1) - ring
    cosine = (ahead * behind).sum(axis=2) / np.maximum(
        np.linalg.norm(ahead, axis=2) * np.linalg.norm(behind, axis=2), 1e-300
    )
    convex = _bend(points, np.roll(corners, -1, axis=1)) > _FLATTEST
    worst = np.abs(cosine).max(axis=1)
    good = (bend > _FLATTEST) & convex & (worst < _WORST_CORNER)
    quality = bend - np.abs(cosine).mean(axis=1) - 0.5 * worst
    return np.column_stack([first, second])[good], corners[good], quality[good]
