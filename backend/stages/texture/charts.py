"""Lays a surface flat in few charts with little stretch.

What lies badly, or over itself, is split in two, the worst first; small charts join a neighbour where the
two lie flat as well together.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.geometry.face_graph import Surface, corner_groups, face_groups, topology
from backend.geometry.flatten import Discs, crossings, flatten
from backend.geometry.parallel import map_parallel
from backend.geometry.smoothing import taubin
from backend.stages.texture.regions import (
    far_ends,
    first_of_each,
    inner_edges,
    means,
    merge_crumbs,
    opened_corners,
    parted,
    segment,
    tidy,
    without_handles,
)

MOST_CHARTS = 80
"""Splitting for less stretch ends here; only what could not be used otherwise is split further."""
ENERGY = 1.1
"""Charts of more symmetric Dirichlet energy than this are split (a half sphere has 1.03) ..."""
WORTH = 1e-3
"""... if that can better the mean energy of the surface by this much."""
SMOOTHING_ROUNDS = 15
"""Regions are found on a smoothed copy: what is rough would fall into hundreds."""
_SPLIT_ROUNDS = 8
_JOIN_ROUNDS = 6
_JOIN_SHARE = 1e-2
"""Charts below this share of the surface are joined to others."""
_JOIN_LOSS = 3e-4
"""... where the mean energy of the surface grows by no more than this."""
_BATCH_FACES = 12_000


@dataclass(frozen=True)
class Charts:
    """Charts laid flat, not yet packed.

    label (F,) int64: the chart of each face, 0 .. count - 1
    corner (F, 3) int64: the row in `points` of each corner
    points (P, 2) float64, in extents of the mesh; faces counter-clockwise; each chart somewhere around the
           origin
    energy (count,) float64: symmetric Dirichlet energy, 1 for an isometry
    """

    label: np.ndarray
    corner: np.ndarray
    points: np.ndarray
    energy: np.ndarray

    @property
    def count(self) -> int:
        return len(self.energy)

    @property
    def owner(self) -> np.ndarray:
        """(P,) int64: the chart of each point."""
        owner = np.empty(len(self.points), dtype=np.int64)
        owner[self.corner.ravel()] = np.repeat(self.label, 3)
        return owner


@dataclass(frozen=True)
class _Layout:
    """Charts on their way.

    label (F,), corner (F, 3) as in Charts; places (F, 3, 2) of the corners; energy (C,), inf for charts that
    cover something twice; crossing (C, 2): two faces that do, -1 if there are none
    """

    label: np.ndarray
    corner: np.ndarray
    places: np.ndarray
    energy: np.ndarray
    crossing: np.ndarray

    @property
    def count(self) -> int:
        return len(self.energy)

    def shares(self, surface: Surface) -> np.ndarray:
        """(C,) of the surface's area."""
        return np.bincount(self.label, surface.areas, self.count) / max(surface.areas.sum(), 1e-30)

    def loss(self, surface: Surface) -> np.ndarray:
        """(C,): what each chart adds to the mean energy of the surface."""
        return (self.energy - 1) * self.shares(surface)

    def lengths(self) -> np.ndarray:
        """(C,): twice the distance from the middle of a chart to its farthest face."""
        places = self.places.mean(axis=1)
        middle = means(self.label, places, np.ones(len(places)), self.count)
        reach = np.zeros(self.count)
        np.maximum.at(reach, self.label, np.linalg.norm(places - middle[self.label], axis=1))
        return 2 * reach


def make_charts(
    vertices: np.ndarray, faces: np.ndarray, check: Callable[[], None], *, longest: float = 1.1
) -> Charts:
    """Charts of a mesh: vertices (V, 3) finite, faces (F, 3), at least one.

    longest  charts longer than this many sides of a square of the whole surface's area are split: they would
             keep the atlas from being filled
    `check` is called every fraction of a second.
    """
    vertices = np.asarray(vertices, dtype=np.float64)
    extent = np.ptp(vertices, axis=0).max()
    corners = ((vertices - vertices.mean(axis=0)) / (extent if extent > 0 else 1))[faces]
    surface = Surface.of(
        taubin(vertices / (extent if extent > 0 else 1), faces, rounds=SMOOTHING_ROUNDS), faces
    )
    check()
    label = merge_crumbs(surface, tidy(surface, segment(surface, check, MOST_CHARTS)))
    layout = _laid(surface, corners, None, without_handles(surface, label, check), check)
    limit = longest * np.sqrt(surface.areas.sum())
    for turn in itertools.count():
        unusable = ~np.isfinite(layout.energy)
        loss = layout.loss(surface)
        stretched = (layout.energy > ENERGY) & (loss > WORTH) | (layout.lengths() > limit)
        bad = np.flatnonzero(unusable | (stretched & (turn < _SPLIT_ROUNDS)))
        room = max(np.count_nonzero(unusable), MOST_CHARTS - layout.count)
        bad = np.sort(bad[np.argsort(-loss[bad], kind="stable")][:room])
        if not len(bad):
            break
        crossed = layout.crossing[bad, 0] != layout.crossing[bad, 1]
        ends = layout.crossing[bad]
        ends[~crossed] = far_ends(surface, layout.label, bad[~crossed], layout.count, check)
        label = face_groups(surface.neighbour, parted(surface, layout.label, ends, layout.count, check))
        layout = _laid(surface, corners, layout, without_handles(surface, label, check), check)
    layout = _with_small_ones_joined(surface, corners, layout, limit, check)
    points = np.empty((int(layout.corner.max()) + 1, 2))
    points[layout.corner.ravel()] = layout.places.reshape(-1, 2)
    return Charts(layout.label, layout.corner, points, layout.energy)


def _laid(
    surface: Surface,
    corners: np.ndarray,
    before: _Layout | None,
    label: np.ndarray,
    check: Callable[[], None],
) -> _Layout:
    """The layout of other regions: those that are as they were keep their places, others are laid flat.

    corners (F, 3, 3); label (F,) of regions without handles, numbered without gaps
    """
    count = int(label.max()) + 1
    sizes = np.bincount(label, minlength=count)
    places = np.zeros((*label.shape, 3, 2)) if before is None else before.places.copy()
    energy, crossing = np.full(count, np.inf), np.full((count, 2), -1)
    new = np.ones(count, dtype=bool)
    if before is not None:
        old = before.label[first_of_each(label, np.zeros(len(label)), count)]
        whole = np.bincount(label, old[label] == before.label, count) == sizes
        new = ~(whole & (np.bincount(before.label)[old] == sizes))
        energy[~new], crossing[~new] = before.energy[old[~new]], before.crossing[old[~new]]
    layout = _Layout(label, opened_corners(surface, label, count), places, energy, crossing)
    batches: list[list[int]] = []
    filled = _BATCH_FACES
    for chart in np.flatnonzero(new).tolist():
        if filled + sizes[chart] > _BATCH_FACES:
            batches.append([])
            filled = 0
        batches[-1].append(chart)
        filled += int(sizes[chart])
    map_parallel(lambda batch: _lay(layout, batch, corners, check), batches)
    return layout


def _lay(layout: _Layout, batch: list[int], corners: np.ndarray, check: Callable[[], None]) -> None:
    """Fill in places, energy and crossing of the charts of one batch."""
    index = np.full(layout.count, -1, dtype=np.int64)
    index[batch] = np.arange(len(batch))
    chosen = np.flatnonzero(index[layout.label] >= 0)
    rows, local = np.unique(layout.corner[chosen], return_inverse=True)
    local = local.reshape(-1, 3)
    owner = np.empty(len(rows), dtype=np.int64)
    owner[local.ravel()] = np.repeat(index[layout.label[chosen]], 3)
    points = np.empty((len(rows), 3))
    points[local.ravel()] = corners[chosen].reshape(-1, 3)
    discs = Discs(points, local, owner, len(batch))
    uv, energy = flatten(discs, check)
    tails = crossings(discs, uv)
    crossed = tails[:, 0] >= 0
    layout.places[chosen] = uv[local]
    layout.energy[batch] = np.where(crossed, np.inf, energy)
    at = np.zeros(len(rows), dtype=np.int64)
    at[local.ravel()] = np.repeat(chosen, 3)
    layout.crossing[batch] = np.where(crossed[:, None], at[tails], -1)


def _with_small_ones_joined(
    surface: Surface, corners: np.ndarray, layout: _Layout, limit: float, check: Callable[[], None]
) -> _Layout:
    """Small charts joined to a neighbour, that of the longest common border first, where both lie flat."""
    tried: set[tuple[int, int]] = set()
    for _ in range(_JOIN_ROUNDS):
        check()
        first = _first_faces(layout)
        # Each chart takes part in one joining a round.
        into, free = np.arange(layout.count), np.ones(layout.count, dtype=bool)
        for small, large in _candidates(surface, corners, layout):
            name = (int(first[small]), int(first[large]))
            if free[small] and free[large] and name not in tried:
                into[small] = large
                free[[small, large]] = False
                tried.add(name)
        joined = into[layout.label]
        inner = inner_edges(surface, joined)
        handles, loops = topology(joined, corner_groups(surface, inner), inner, layout.count)
        # Two halves of a closed part have no border together.
        unfit = (handles > 0) | (loops == 0)
        joined = face_groups(surface.neighbour, np.where(unfit[joined], layout.label, joined))
        if joined.max() + 1 == layout.count:
            break
        trial = _laid(surface, corners, layout, joined, check)
        before = np.bincount(trial.label[first], layout.loss(surface), trial.count)
        worse = ~(trial.loss(surface) <= before + _JOIN_LOSS) | (trial.lengths() > limit)
        # Those are taken apart again; the others keep their new places.
        apart = worse[trial.label]
        label = face_groups(surface.neighbour, np.where(apart, layout.label, layout.count + trial.label))
        count = int(label.max()) + 1
        energy = np.empty(count)
        energy[label] = np.where(apart, layout.energy[layout.label], trial.energy[trial.label])
        places = np.where(apart[:, None, None], layout.places, trial.places)
        corner = opened_corners(surface, label, count)
        layout = _Layout(label, corner, places, energy, np.full((count, 2), -1))
    return layout


def _first_faces(layout: _Layout) -> np.ndarray:
    """(C,): of each chart the face of the lowest index."""
    return first_of_each(layout.label, np.zeros(len(layout.label)), layout.count)


def _candidates(surface: Surface, corners: np.ndarray, layout: _Layout) -> list[tuple[int, int]]:
    """Small charts and their neighbours: the smallest chart first, the longest common border first."""
    face, edge = np.nonzero(surface.neighbour >= 0)
    mine, other = layout.label[face], layout.label[surface.neighbour[face, edge]]
    length = np.linalg.norm(corners[face, edge] - corners[face, (edge + 1) % 3], axis=1)
    share = layout.shares(surface)
    use = (mine != other) & (share[mine] < _JOIN_SHARE)
    pair, index = np.unique(mine[use] * layout.count + other[use], return_inverse=True)
    border = np.bincount(index, length[use], len(pair))
    small, large = pair // layout.count, pair % layout.count
    order = np.lexsort((pair, -border, share[small]))
    return list(zip(small[order].tolist(), large[order].tolist(), strict=True))
