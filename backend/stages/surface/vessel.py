"""Hollow things: what the views see of the inside of a cup is carved, and the rest continued.

No silhouette shows a hollow, and from a level orbit most of the inside of a cup hides behind its rim: the
hull, and matching with it, closes the mouth with a lid. Whether there is a lid is tested by looking: if
there is none and the wall goes on inward of the outer surface by some thickness, then the pixels that
seemed to show the lid show the far inner wall, and the views agree on its colours. The thickness on which
they agree best, if they agree far better than on the lid, is the wall's; it may change with depth as far
as the views look in. Where they do not, wall and floor keep the last thickness: that part is a guess,
and reported as one. A floor that lies higher is found where the views see it.

All lengths are in cells of the grid, the last axis is up.
"""

from dataclasses import dataclass, replace

import numpy as np

from backend.geometry.carving import Grid
from backend.geometry.field_rays import Photographs, SightLines, agreement
from backend.geometry.jit import kernel
from backend.geometry.parallel import for_bands
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.surface.lids import (
    REACH,
    Top,
    Upright,
    levelled,
    lines_onto,
    photographs_of,
    tops,
    walls_without,
)

_PIXELS, _LEAST_PIXELS = 6_000, 300
_THINNEST = 1.5
_RAISED, _EVEN = (-0.3, 0.0, 0.3, 0.6), 1.05
_KNOTS = (0.0, 3.0, 8.0, 16.0, 28.0, 44.0)
"""Depths under the lid between which the wall's thickness is interpolated."""
_SEEN_SHARE = 0.03
"""Of the pixels: a knot with fewer of them near it keeps the thickness of the one above."""
_FLOORS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0, 20.0, 26.0, 34.0, 44.0)
_SHALLOW = 4.0

_CHANGED, _AGREES, _LID_WRONG = 0.2, 0.75, 0.02
_BETTER, _FOR_ONE_WORSE, _MOST_HIDDEN = 0.4, 3.0, 0.25
"""What makes a vessel, of the pixels that see past the lid: their share of all, their error in that of
the lid, the lid's own error, the share that clearly gains, gains for one clear loss, the share that no
other view sees. Cups measure .55, .1 to .33, .09, .84 to .95, 8 to 90, .02; the best of fourteen other
objects fails at least two."""
_CLEAR = 0.01
_FLOOR_THICKER = 1.5
"""Than the wall: both mugs of the measurements and what lies under a shoe's insole."""
_ROOM = 12.0
_WIDENING = 1.5
"""Below the mouth, a hollow widens by so much a cell of depth at most (and the room for the wall itself)."""
_AS_GOOD, _FLOOR_SHARE = 1.05, 0.25
"""A floor is there if, of the pixels that would see it, the views agree on it nearly as well as on what
lies behind: what is not proven empty stays solid."""
_NO_FLOOR = 1e6


@kernel
def carve_points(spots, side, base, below, beside, table, floor, start, stop, field):
    """Lower the points start..stop of `spots` in the flat field; see `_Scene` and `_Cavity.table`."""
    last = len(table) - 1
    for i in range(start, stop):
        place = min(max(2.0 * below[i], 0.0), float(last))
        low = min(int(place), last - 1)
        thickness = np.float32(table[low] + (table[low + 1] - table[low]) * (place - low))
        if np.isfinite(floor):
            inside = min(floor - below[i], base[i] - np.float32(1.0))
        else:
            inside = base[i] - np.float32(_FLOOR_THICKER) * thickness
        inside = min(inside, side[i] - thickness, np.float32(_WIDENING) * below[i] + thickness - beside[i])
        reach = np.float32(REACH)
        field[spots[i]] = min(field[spots[i]], min(max(-inside, -reach), reach))


@dataclass(frozen=True)
class _Scene:
    """A top that may be a lid, what lies under it, and the pixels that see it.

    field  (X, Y, Z) float32: the solid
    spots  (S,) int64: the points, as flat indices, that a cavity may reach; the next four belong to them
    side, base   (S,) float32: distance from the outer surface without the lid, and from what faces down
    below, beside (S,) float32: depth under the lid, distance in plan from it
    wrong, lid   (P,) float32, float64: how badly the views agree on the lid, and how far away it is
    """

    field: np.ndarray
    top: Top
    spots: np.ndarray
    side: np.ndarray
    base: np.ndarray
    below: np.ndarray
    beside: np.ndarray
    photographs: Photographs
    lines: SightLines
    wrong: np.ndarray
    lid: np.ndarray

    def every(self, stride: int) -> "_Scene":
        """The same with only every `stride`-th pixel."""
        chosen = np.arange(0, len(self.lines), stride)
        return replace(self, lines=self.lines.take(chosen), wrong=self.wrong[chosen], lid=self.lid[chosen])

    def levelled(self, raised: float) -> "_Scene":
        """The same with the lid lowered to `raised` above its border."""
        field, top = levelled(self.field, self.top, raised)
        x, y, _ = np.unravel_index(self.spots, field.shape)
        below = self.below - (self.top.height - top.height)[x, y].astype(np.float32)
        return replace(self, field=field, top=top, below=below)


@dataclass(frozen=True)
class _Cavity:
    """A hypothesis: the wall's thickness at each of _KNOTS, and the floor's depth: inf when not seen."""

    thickness: tuple[float, ...]
    floor: float = np.inf

    def table(self) -> np.ndarray:
        """(D,) float64: the wall's thickness at every half cell of depth under the lid, to the last knot."""
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(_KNOTS, self.thickness)(np.arange(0.0, _KNOTS[-1] + 0.5, 0.5))


@dataclass(frozen=True)
class _Test:
    """error (P,): how badly the views agree on a cavity; hidden (P,) bool; distance (P,)."""

    error: np.ndarray
    hidden: np.ndarray
    distance: np.ndarray


def hollow_vessels(grid: Grid, views: Views, context: StageContext) -> Grid:
    """The solid with the hollows that the views look into; the very same grid where there are none."""

    frame = Upright.of(grid, views.cameras)
    if frame is None:
        return grid
    field, middle = frame.field, grid.origin + grid.cell * np.array(grid.field.shape) / 2
    candidates = list(tops(frame.field))
    if not candidates:
        return grid
    photographs, cameras, alpha = photographs_of(views, frame.world_from_cells, middle)
    walls, guessed = [], False
    for top in candidates:
        context.check()
        lines = lines_onto(frame.field, top, photographs, cameras, alpha, frame.world_from_cells, _PIXELS)
        scene = _scene_of(frame.field, top, photographs, lines)
        found = None if scene is None else _cavity_of(scene, context)
        if found is not None:
            scene, cavity = found
            field = np.minimum(field, _carved(scene, cavity))
            walls.append(round(cavity.thickness[0] * grid.cell, 5))
            guessed |= not np.isfinite(cavity.floor)
    if not walls:
        return grid
    context.note(hollow_walls=walls)
    if guessed:
        context.warn(
            "The object is hollow and no view shows the bottom of the inside: there walls and floor were "
            "made about as thick as where they are seen (--surface.hollow false leaves it solid)."
        )
    changed = frame.turned_back(field)
    near = np.clip(grid.field / grid.cell, -REACH, REACH)
    lowered = np.where(changed < near, changed * grid.cell, grid.field)
    return Grid(np.ascontiguousarray(lowered, dtype=np.float32), grid.origin, grid.cell)


def _scene_of(field: np.ndarray, top: Top, photographs: Photographs, lines: SightLines) -> _Scene | None:
    """None where the views do not see the top, or see nothing wrong with it."""
    from scipy.ndimage import distance_transform_edt

    if len(lines) < _LEAST_PIXELS:
        return None
    lid = agreement(field, photographs, lines)
    level = agreement(levelled(field, top, 0.0)[0], photographs, lines)
    both = (lid.seen > 0) & (level.seen > 0)
    lid = level if level.error[both].sum() < lid.error[both].sum() else lid
    known = np.flatnonzero((lid.seen > 0) & (lid.distance >= 0))
    if len(known) < _LEAST_PIXELS or np.quantile(lid.error[known], 1 - _CHANGED) < _LID_WRONG:
        return None
    walls = walls_without(field, top)
    below = (top.height[:, :, None] - np.arange(field.shape[2])).astype(np.float32)
    beside = np.broadcast_to(distance_transform_edt(~top.plan).astype(np.float32)[:, :, None], field.shape)
    spots = np.flatnonzero((walls.side > 0.5) & (field > -2) & (_WIDENING * below + _ROOM > beside))
    return _Scene(
        field,
        top,
        spots,
        *(a.ravel()[spots] for a in (walls.side, walls.base, below, beside)),
        photographs,
        lines.take(known),
        lid.error[known],
        lid.distance[known],
    )


def _cavity_of(scene: _Scene, context: StageContext) -> tuple[_Scene, _Cavity] | None:
    """The cavity on which the views agree best, and the scene with its rim as high as they agree best on.

    None where they do not agree far better than on the lid.
    """
    few = scene.every(3)
    deepest = float(scene.side.max(initial=0))
    ladder = _THINNEST * 1.25 ** np.arange(16)
    cavities = [_Cavity((float(t),) * len(_KNOTS)) for t in ladder if t < 0.7 * deepest]
    if not cavities:
        return None
    best = min(cavities, key=lambda cavity: _cost(few, cavity, context))
    if not _convincing(few, _tested(few, best), lenient=True):
        return None
    # The rim's height matters: where it is half a cell too high, the wall behind seems two cells nearer.
    even = min((scene.levelled(raised) for raised in _RAISED), key=lambda s: _cost(s.every(2), best, context))
    if _cost(even.every(2), best, context) < _EVEN * _cost(scene.every(2), best, context):
        scene = even
    best = _refined(scene.every(2), best, context)
    best = _with_floor(scene, best, context)
    if best is None or not _convincing(scene, _tested(scene, best)):
        return None
    return scene, best


def _with_floor(scene: _Scene, cavity: _Cavity, context: StageContext) -> _Cavity | None:
    """The same with the shallowest floor that the views do not speak against; None if that is no depth."""
    none = _tested(scene, replace(cavity, floor=_NO_FLOOR))
    for floor in _FLOORS:
        context.check()
        with_floor = _tested(scene, replace(cavity, floor=floor))
        other = none.distance - with_floor.distance > 1.5
        if np.count_nonzero(other) < _FLOOR_SHARE * np.count_nonzero(none.distance - scene.lid > 1.5):
            return cavity  # too little of it would be seen to tell
        if with_floor.error[other].mean() < _AS_GOOD * none.error[other].mean() + 5e-4:
            for spread in (0.15, 0.05):
                near = [floor * (1 + spread * n) for n in (-1, 0, 1, 2)]
                floor = min(near, key=lambda f: _cost(scene, replace(cavity, floor=f), context))
            return replace(cavity, floor=floor) if floor >= _SHALLOW else None
    return cavity


def _carved(scene: _Scene, cavity: _Cavity) -> np.ndarray:
    """(X, Y, Z) float32: the solid without the cavity."""
    field, table = scene.field.copy(), cavity.table()
    for_bands(
        lambda start, stop: carve_points(
            scene.spots, scene.side, scene.base, scene.below, scene.beside, table, np.float32(cavity.floor),
            start, stop, field.reshape(-1),
        ),
        len(scene.spots),
    )  # fmt: skip
    return field


def _tested(scene: _Scene, cavity: _Cavity) -> _Test:
    found = agreement(_carved(scene, cavity), scene.photographs, scene.lines)
    hidden = (found.seen == 0) | (found.distance < 0)
    return _Test(np.where(hidden, scene.wrong, found.error), hidden, found.distance)


def _cost(scene: _Scene, cavity: _Cavity, context: StageContext) -> float:
    context.check()
    return float(_tested(scene, cavity).error.mean())


def _convincing(scene: _Scene, test: _Test, *, lenient: bool = False) -> bool:
    """Whether the views agree on the inside of the cavity, and not on the lid."""
    past = test.distance - scene.lid > 1.5
    if past.mean() < _CHANGED / (2 if lenient else 1):
        return False
    lid, error = scene.wrong[past], test.error[past]
    better, worse = float((lid - error > _CLEAR).mean()), float((error - lid > _CLEAR).mean())
    slack = 1.25 if lenient else 1.0
    return bool(
        lid.mean() > _LID_WRONG
        and error.mean() < _AGREES * slack * lid.mean()
        and better > _BETTER / slack
        and better > _FOR_ONE_WORSE / slack * worse
        and test.hidden[past].mean() < _MOST_HIDDEN
    )


def _depths(scene: _Scene, test: _Test) -> np.ndarray:
    """(P,) how deep under the lid the point that each pixel shows lies."""
    hit = scene.lines.at(test.distance)
    column = np.clip(np.rint(hit[:, :2]).astype(int), 0, np.array(scene.field.shape[:2]) - 1)
    return scene.top.height[column[:, 0], column[:, 1]] - hit[:, 2]


def _refined(scene: _Scene, cavity: _Cavity, context: StageContext) -> _Cavity:
    """The wall's thickness at each knot that is seen, from the deepest up, twice; below as the last."""
    test = _tested(scene, cavity)
    depth = _depths(scene, test)
    past = test.distance - scene.lid > 1.5
    seen = 1
    while (
        seen < len(_KNOTS) and (past & (depth > 0.5 * (_KNOTS[seen - 1] + _KNOTS[seen]))).mean() > _SEEN_SHARE
    ):
        seen += 1

    def with_knot(knot: int, value: float) -> _Cavity:
        values = list(cavity.thickness)
        values[knot] = value
        values[seen:] = [float(np.mean(values[:seen]))] * (len(_KNOTS) - seen)
        return replace(cavity, thickness=tuple(values))

    for step in (0.18, 0.09):
        for knot in reversed(range(seen)):
            middle = cavity.thickness[knot]
            values = middle * (1 + step * np.arange(-2, 3))
            costs = [_cost(scene, with_knot(knot, float(v)), context) for v in values]
            best = int(np.argmin(costs))
            value = values[best]
            if 0 < best < len(values) - 1:
                bend = costs[best - 1] + costs[best + 1] - 2 * costs[best]
                if bend > 0:
                    value += 0.5 * (costs[best - 1] - costs[best + 1]) / bend * (values[1] - values[0])
            cavity = with_knot(knot, max(float(value), 1.0))
    return cavity
