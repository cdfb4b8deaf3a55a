"""Parts a surface into regions that turn little, straightens their borders, cuts them open to discs.

Regions grow from seeds around proxy normals, and seeds move to the middles of their regions (variational
shape approximation, Cohen-Steiner et al. 2004).
"""

from collections.abc import Callable

import numpy as np

from backend.geometry.face_graph import Surface, corner_groups, cut_to_discs, face_groups, grow, topology

TURN = 0.8
"""Regions are parted until |normal - proxy|^2 is at most this in the mean (a half sphere has 1, a half
cylinder .73)."""
FLAT = 0.1
"""What a way over plane surface costs beside one that turns: larger is rounder, smaller follows creases."""
ROUND = 1e3
"""The same for regions that follow distances alone."""
_LLOYD_ROUNDS = 3
_SMALL = 1e-3
"""Regions below this share of the surface join a neighbour."""


def means(label: np.ndarray, values: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    total = np.bincount(label, weight, count)
    sums = np.stack(
        [np.bincount(label, weight * values[:, i], count) for i in range(values.shape[1])], axis=1
    )
    return sums / np.where(total > 0, total, 1)[:, None]


def _proxies(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    mean = means(label, surface.normals, surface.areas, count)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def first_of_each(label: np.ndarray, key: np.ndarray, count: int) -> np.ndarray:
    """(count,): of each label the face of the smallest key, the lower index first; 0 for labels without."""
    lowest = np.full(count, np.inf)
    np.minimum.at(lowest, label, key)
    found = np.flatnonzero(key <= lowest[label])[::-1]
    first = np.zeros(count, dtype=np.int64)
    first[label[found]] = found  # the last written, the lowest, stays
    return first


def _central_faces(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    """A seed of each region: near its middle, facing as it does."""
    middle = means(label, surface.middles, surface.areas, count)
    proxy = _proxies(surface, label, count)
    radius = np.bincount(label, surface.areas, count)[label]
    away = np.sum((surface.middles - middle[label]) ** 2, axis=1) / np.where(radius > 0, radius, 1)
    turned = np.sum((surface.normals - proxy[label]) ** 2, axis=1)
    return first_of_each(label, away + 0.5 * turned, count)


def _turn(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    proxy = _proxies(surface, label, count)
    return np.sum((surface.normals - proxy[label]) ** 2, axis=1)


def far_ends(
    surface: Surface, label: np.ndarray, which: np.ndarray, count: int, check: Callable[[], None]
) -> np.ndarray:
    """(len(which), 2): two faces of each region, far apart along the surface."""
    chosen = np.full(count, len(which), dtype=np.int64)
    chosen[which] = np.arange(len(which))
    local = chosen[label]
    seeds = first_of_each(local, -_turn(surface, label, count), len(which) + 1)[:-1]
    other = seeds
    for _ in range(2):
        check()
        away = grow(surface, label, seeds, surface.normals[seeds], flat=1.0).cost
        far = first_of_each(local, -np.where(local < len(which), away, -1), len(which) + 1)[:-1]
        seeds, other = far, seeds
    return np.stack([other, seeds], axis=1)


def parted(
    surface: Surface, label: np.ndarray, ends: np.ndarray, count: int, check: Callable[[], None]
) -> np.ndarray:
    """Labels with regions parted in two, each between the two faces of a row of `ends` (K, 2).

    New regions are numbered from `count` on.
    """
    for row in np.flatnonzero(ends[:, 0] == ends[:, 1]):
        region = np.flatnonzero(label == label[ends[row, 0]])
        ends[row, 1] = region[region != ends[row, 0]][0]
    seeds = ends.T.ravel()
    half = grow(surface, label, seeds, surface.normals[seeds], flat=ROUND).label.astype(np.int64)
    check()
    return np.where(half >= len(ends), count + half - len(ends), label)


def segment(surface: Surface, check: Callable[[], None], most: int) -> np.ndarray:
    """Labels (F,) int64 of connected regions that turn little.

    Seeds are added where regions turn away most from their normal.
    """
    group = face_groups(surface.neighbour)
    label = group
    total = surface.areas.sum()
    while True:
        check()
        count = int(label.max()) + 1
        turn = _turn(surface, label, count)
        area = np.bincount(label, surface.areas, count)
        error = np.bincount(label, surface.areas * turn, count)
        wide = np.flatnonzero((error > TURN * area) & (area > 4 * _SMALL * total))
        room = most - count
        if not len(wide) or room <= 0:
            return label
        wide = wide[np.argsort(-error[wide], kind="stable")][:room]
        added = first_of_each(label, -turn, count)[np.sort(wide)]
        # Straightest as seen from the new seeds, too, before all move to the middles of their regions.
        seeds = np.concatenate([_central_faces(surface, label, count), added])
        proxies = np.concatenate([_proxies(surface, label, count), surface.normals[added]])
        for _ in range(_LLOYD_ROUNDS):
            check()
            label = grow(surface, group, seeds, proxies, flat=FLAT).label.astype(np.int64)
            seeds = _central_faces(surface, label, len(seeds))
            proxies = _proxies(surface, label, len(seeds))
        label = np.unique(label, return_inverse=True)[1]
        if label.max() + 1 == count:
            # Where the new seeds are the old ones, nothing is gained by trying again.
            return label


def tidy(surface: Surface, label: np.ndarray, rounds: int = 6) -> np.ndarray:
    """Straighter borders: faces with two neighbours in one other region join it; crumbs join a neighbour."""
    neighbour = surface.neighbour
    for turn in range(rounds):
        around = np.where(neighbour >= 0, label[np.maximum(neighbour, 0)], -1)
        a, b, c = around.T
        twin = np.where((a == b) | (a == c), a, np.where(b == c, b, -1))
        # Every second face at a time: two neighbours would swap for ever.
        change = (twin >= 0) & (twin != label) & ((np.arange(len(label)) + turn) % 2 == 0)
        if not change.any() and turn % 2:
            break
        label = np.where(change, twin, label)
    return face_groups(neighbour, label)


def merge_crumbs(surface: Surface, label: np.ndarray) -> np.ndarray:
    """Labels without regions below _SMALL of the surface, where there is a neighbour to join."""
    neighbour = surface.neighbour
    face, edge = np.nonzero(neighbour >= 0)
    for _ in range(4):
        count = int(label.max()) + 1
        area = np.bincount(label, surface.areas, count)
        mine, other = label[face], label[neighbour[face, edge]]
        between = (mine != other) & (area[mine] < _SMALL * surface.areas.sum())
        if not between.any():
            break
        pair, touching = np.unique(mine[between] * count + other[between], return_counts=True)
        order = np.lexsort((pair, -touching, pair // count))
        small, best = np.unique(pair[order] // count, return_index=True)
        into = np.arange(count)
        into[small] = pair[order][best] % count
        # Of two crumbs that point at each other the lower one stays.
        mutual = (into[into] == np.arange(count)) & (np.arange(count) < into)
        into[mutual] = np.flatnonzero(mutual)
        label = face_groups(neighbour, into[label])
    return label


def inner_edges(surface: Surface, label: np.ndarray) -> np.ndarray:
    """(F, 3) bool: edges within a region."""
    return (surface.neighbour >= 0) & (label[np.maximum(surface.neighbour, 0)] == label[:, None])


def without_handles(surface: Surface, label: np.ndarray, check: Callable[[], None]) -> np.ndarray:
    """Regions parted until all have a border and none a handle."""
    while True:
        check()
        count = int(label.max()) + 1
        joined = inner_edges(surface, label)
        handles, loops = topology(label, corner_groups(surface, joined), joined, count)
        bad = np.flatnonzero((handles > 0) | (loops == 0))
        if not len(bad):
            return label
        ends = far_ends(surface, label, bad, count, check)
        seeds = _central_faces(surface, label, count)
        spread = grow(surface, label, seeds, surface.normals[seeds], flat=ROUND)
        opened = cut_to_discs(surface, label, spread, joined & np.isin(label, bad)[:, None])
        # Where ways around the shortest loop meet: parted there and at its seed, the loop is gone.
        face, edge = np.nonzero(joined & np.isin(label, bad)[:, None] & ~opened)
        length = spread.cost[face] + spread.cost[surface.neighbour[face, edge]]
        order = np.lexsort((face, length, label[face]))
        looped, first = np.unique(label[face[order]], return_index=True)
        meets = np.full(count, -1, dtype=np.int64)
        meets[looped] = face[order][first]
        by_loop = (handles[bad] > 0) & (meets[bad] >= 0)
        ends[by_loop] = np.stack([seeds[bad], meets[bad]], axis=1)[by_loop]
        label = face_groups(surface.neighbour, parted(surface, label, ends, count, check))


def opened_corners(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    """Corners (F, 3) of the regions, cut to discs."""
    joined = inner_edges(surface, label)
    corner = corner_groups(surface, joined)
    loops = topology(label, corner, joined, count)[1]
    if (loops == 1).all():
        return corner
    seeds = _central_faces(surface, label, count)
    spread = grow(surface, label, seeds, surface.normals[seeds], flat=ROUND)
    ringed = (loops != 1)[label][:, None]
    return corner_groups(
        surface, np.where(ringed, cut_to_discs(surface, label, spread, joined & ringed), joined)
    )
