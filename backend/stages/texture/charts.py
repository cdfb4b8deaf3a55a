"""Cuts a surface into few charts that lie flat with little stretch.

Regions grow from seeds around proxy normals, seeds move to the middles of their regions (variational shape
approximation, Cohen-Steiner et al. 2004), until few turn far away from their normal. Handles and tubes are
cut open to discs. What still lies badly, or over itself, is split in two, the worst first.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.geometry.face_graph import (
    Surface,
    corner_groups,
    cut_to_discs,
    face_groups,
    grow,
    topology,
)
from backend.geometry.flatten import Discs, crossings, flatten
from backend.geometry.smoothing import taubin

MOST_CHARTS = 90
"""Splitting for less stretch ends here; only what could not be used otherwise is split further."""
TURN = 0.8
"""Regions are parted until |normal - proxy|^2 is at most this in the mean (a half sphere has 1, a half
cylinder .73)."""
ENERGY = 1.1
"""Charts of more symmetric Dirichlet energy than this are split (a half sphere has 1.03)."""
WORTH = 1e-3
"""... if that can better the mean energy of the surface by this much."""
FLAT = 0.1
"""What a way over plane surface costs beside one that turns: larger is rounder, smaller follows creases."""
ROUND = 1e3
"""The same for regions that follow distances alone."""
SMOOTHING_ROUNDS = 15
LONGEST = 1.1
"""Charts longer than this many sides of a square of the whole surface's area are split: they would keep the
atlas from being filled."""
_LLOYD_ROUNDS = 3
_SPLIT_ROUNDS = 8
_BATCH_FACES = 12_000
_SMALL = 1e-3
"""Fragments below this share of the surface join a neighbour."""


@dataclass(frozen=True)
class Charts:
    """Charts laid flat, not yet packed.

    label (F,) int64: the chart of each face, 0 .. count - 1
    corner (F, 3) int64: the row in `points` of each corner
    points (P, 2) float64 metres, counter-clockwise faces, each chart somewhere around the origin
    energy (count,) float64: symmetric Dirichlet energy, 1 for an isometry
    """

    label: np.ndarray
    corner: np.ndarray
    points: np.ndarray
    energy: np.ndarray

    @property
    def count(self) -> int:
        return len(self.energy)


def _means(label: np.ndarray, values: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    total = np.bincount(label, weight, count)
    sums = np.stack(
        [np.bincount(label, weight * values[:, i], count) for i in range(values.shape[1])], axis=1
    )
    return sums / np.where(total > 0, total, 1)[:, None]


def _proxies(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    mean = _means(label, surface.normals, surface.areas, count)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def _first_of_each(label: np.ndarray, key: np.ndarray, count: int) -> np.ndarray:
    """(count,): of each label the face of the smallest key, the lower index first."""
    order = np.lexsort((np.arange(len(label)), key, label))
    first = np.searchsorted(label[order], np.arange(count))
    return order[np.minimum(first, len(order) - 1)]


def _central_faces(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    """A seed of each region: near its middle, facing as it does."""
    middle = _means(label, surface.middles, surface.areas, count)
    proxy = _proxies(surface, label, count)
    radius = np.bincount(label, surface.areas, count)[label]
    away = np.sum((surface.middles - middle[label]) ** 2, axis=1) / np.where(radius > 0, radius, 1)
    turned = np.sum((surface.normals - proxy[label]) ** 2, axis=1)
    return _first_of_each(label, away + 0.5 * turned, count)


def _turn(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    proxy = _proxies(surface, label, count)
    return np.sum((surface.normals - proxy[label]) ** 2, axis=1)


def _ends(surface: Surface, label: np.ndarray, which: np.ndarray, count: int, check) -> np.ndarray:
    """(len(which), 2): two faces of each region, far apart along the surface."""
    chosen = np.full(count, len(which), dtype=np.int64)
    chosen[which] = np.arange(len(which))
    local = chosen[label]
    seeds = _first_of_each(local, -_turn(surface, label, count), len(which))
    other = seeds
    for _ in range(2):
        check()
        away = grow(surface, label, seeds, surface.normals[seeds], flat=1.0).cost
        seeds, other = _first_of_each(local, -np.where(local < len(which), away, -1), len(which)), seeds
    return np.stack([other, seeds], axis=1)


def _halves(
    surface: Surface, label: np.ndarray, ends: np.ndarray, count: int, rounds: int, check
) -> np.ndarray:
    """Labels with regions parted in two, each between the two faces of a row of `ends` (K, 2).

    New regions are numbered from `count` on. Seeds move to the middles of the halves `rounds` times.
    """
    for row in np.flatnonzero(ends[:, 0] == ends[:, 1]):
        region = np.flatnonzero(label == label[ends[row, 0]])
        ends[row, 1] = region[region != ends[row, 0]][0]
    both = ends.T.ravel()
    proxies, flat = surface.normals[both], FLAT if rounds else ROUND
    for turn in range(rounds + 1):
        check()
        half = grow(surface, label, both, proxies, flat=flat).label.astype(np.int64)
        if turn < rounds:
            index = np.where(half >= 0, half, len(both))
            proxies = _proxies(surface, index, len(both) + 1)[:-1]
            both = _central_faces(surface, index, len(both) + 1)[:-1]
    return np.where(half >= len(ends), count + half - len(ends), label)


def segment(surface: Surface, check: Callable[[], None], most: int) -> np.ndarray:
    """Labels (F,) int64 of connected regions that turn little."""
    label = face_groups(surface.neighbour)
    parts = int(label.max()) + 1
    total = surface.areas.sum()
    count = parts
    while True:
        check()
        turn = _turn(surface, label, count)
        area = np.bincount(label, surface.areas, count)
        error = np.bincount(label, surface.areas * turn, count)
        wide = np.flatnonzero((error > TURN * area) & (area > 4 * _SMALL * total))
        room = most - count
        if not len(wide) or room <= 0:
            break
        wide = wide[np.argsort(-error[wide], kind="stable")][:room]
        label = _halves(
            surface, label, _ends(surface, label, wide, count, check), count, _LLOYD_ROUNDS, check
        )
        count += len(wide)
    group = face_groups(surface.neighbour)
    for _ in range(_LLOYD_ROUNDS if count > parts else 0):
        check()
        seeds = _central_faces(surface, label, count)
        label = grow(surface, group, seeds, _proxies(surface, label, count), flat=FLAT).label.astype(np.int64)
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


def _joined(surface: Surface, label: np.ndarray) -> np.ndarray:
    """(F, 3) bool: edges within a region."""
    return (surface.neighbour >= 0) & (label[np.maximum(surface.neighbour, 0)] == label[:, None])


def _without_handles(surface: Surface, label: np.ndarray, check: Callable[[], None]) -> np.ndarray:
    """Regions parted until all have a border and none a handle."""
    while True:
        check()
        count = int(label.max()) + 1
        joined = _joined(surface, label)
        handles, loops = topology(label, corner_groups(surface, joined), joined, count)
        bad = np.flatnonzero((handles > 0) | (loops == 0))
        if not len(bad):
            return label
        ends = _ends(surface, label, bad, count, check)
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
        label = face_groups(surface.neighbour, _halves(surface, label, ends, count, 0, check))


def _open(surface: Surface, label: np.ndarray, count: int) -> np.ndarray:
    """Corners (F, 3) of the regions, cut to discs."""
    joined = _joined(surface, label)
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


class _Layout:
    """Charts laid flat so far: of each corner its place, of each chart its energy and faces that cross."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._corners = vertices[faces]
        self.places = np.zeros((*faces.shape, 2))
        self.energy = np.zeros(0)
        self.crossing = np.zeros((0, 2), dtype=np.int64)
        self._label = np.zeros(0, dtype=np.int64)

    def update(
        self, label: np.ndarray, changed: np.ndarray, corner: np.ndarray, check: Callable[[], None]
    ) -> None:
        """Lay the charts flat whose faces have `changed` (F,) bool; the others stay as they are.

        label (F,), corner (F, 3) as `_open` gives.
        """
        count = int(label.max()) + 1
        first = _first_of_each(label, np.zeros(len(label)), count)
        new = changed[first]
        energy, crossing = np.full(count, np.inf), np.full((count, 2), -1)
        if len(self.energy):
            before = self._label[first]
            energy[~new], crossing[~new] = self.energy[before[~new]], self.crossing[before[~new]]
        self.energy, self.crossing, self._label = energy, crossing, label
        sizes = np.bincount(label, minlength=count)
        batch: list[int] = []
        filled = 0
        for chart in np.flatnonzero(new).tolist():
            if batch and filled + sizes[chart] > _BATCH_FACES:
                self._lay(batch, corner, check)
                batch, filled = [], 0
            batch.append(chart)
            filled += int(sizes[chart])
        if batch:
            self._lay(batch, corner, check)

    def _lay(self, batch: list[int], corner: np.ndarray, check: Callable[[], None]) -> None:
        index = np.full(len(self.energy), -1, dtype=np.int64)
        index[batch] = np.arange(len(batch))
        chosen = np.flatnonzero(index[self._label] >= 0)
        rows, local = np.unique(corner[chosen], return_inverse=True)
        local = local.reshape(-1, 3)
        owner = np.empty(len(rows), dtype=np.int64)
        owner[local.ravel()] = np.repeat(index[self._label[chosen]], 3)
        points = np.empty((len(rows), 3))
        points[local.ravel()] = self._corners[chosen].reshape(-1, 3)
        discs = Discs(points, local, owner, len(batch))
        uv, energy = flatten(discs, check)
        tails = crossings(discs, uv)
        crossed = tails[:, 0] >= 0
        self.places[chosen] = uv[local]
        self.energy[batch] = np.where(crossed, np.inf, energy)
        at = np.zeros(len(rows), dtype=np.int64)
        at[local.ravel()] = np.repeat(chosen, 3)
        self.crossing[batch] = np.where(crossed[:, None], at[tails], -1)

    def too_long(self, areas: np.ndarray) -> np.ndarray:
        """(C,) bool; areas (F,) of the surface."""
        count = len(self.energy)
        middle = _means(self._label, self.places.mean(axis=1), np.ones(len(areas)), count)
        reach = np.zeros(count)
        away = np.linalg.norm(self.places.mean(axis=1) - middle[self._label], axis=1)
        np.maximum.at(reach, self._label, away)
        return 2 * reach > LONGEST * np.sqrt(areas.sum())


def make_charts(vertices: np.ndarray, faces: np.ndarray, check: Callable[[], None]) -> Charts:
    """Charts of a mesh: vertices (V, 3) finite, faces (F, 3), at least one.

    `check` is called every fraction of a second.
    """
    vertices = np.asarray(vertices, dtype=np.float64)
    extent = np.ptp(vertices, axis=0).max()
    vertices = (vertices - vertices.mean(axis=0)) / (extent if extent > 0 else 1)
    surface = Surface.of(taubin(vertices, faces, rounds=SMOOTHING_ROUNDS), faces)
    check()
    label = merge_crumbs(surface, tidy(surface, segment(surface, check, MOST_CHARTS)))
    layout = _Layout(vertices, faces)
    changed = np.ones(len(faces), dtype=bool)
    for turn in itertools.count():
        parted = _without_handles(surface, label, check)
        count = int(parted.max()) + 1
        corner = _open(surface, parted, count)
        layout.update(parted, changed | _regrouped(label, parted), corner, check)
        label = parted
        unusable = ~np.isfinite(layout.energy)
        share = np.bincount(label, surface.areas, count) / max(surface.areas.sum(), 1e-30)
        loss = (layout.energy - 1) * share
        stretched = (layout.energy > ENERGY) & (loss > WORTH) | layout.too_long(surface.areas)
        bad = np.flatnonzero(unusable | (stretched & (turn < _SPLIT_ROUNDS)))
        room = max(np.count_nonzero(unusable), MOST_CHARTS - count)
        bad = np.sort(bad[np.argsort(-loss[bad], kind="stable")][:room])
        if not len(bad):
            break
        crossed = layout.crossing[bad, 0] != layout.crossing[bad, 1]
        ends = layout.crossing[bad]
        ends[~crossed] = _ends(surface, label, bad[~crossed], count, check)
        changed = np.isin(label, bad)
        label = face_groups(surface.neighbour, _halves(surface, label, ends, count, 0, check))
    points = np.empty((int(corner.max()) + 1, 2))
    points[corner.ravel()] = layout.places.reshape(-1, 2)
    return Charts(label, corner, points, layout.energy)


def _regrouped(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(F,) bool: faces of those groups of `before` that fall into several of `after`."""
    pairs = np.unique(np.stack([before, after], axis=1), axis=0)
    return np.bincount(pairs[:, 0])[before] > 1
