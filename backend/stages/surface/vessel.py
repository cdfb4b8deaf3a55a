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
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.surface.lids import REACH, Top, Upright, lines_onto, photographs_of, tops, wall_distance

_PIXELS, _LEAST_PIXELS = 12_000, 300
_THINNEST = 1.5
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
_FLOOR_SEEN = 0.97
"""A floor must explain the views so much better than walls alone."""


@dataclass(frozen=True)
class _Scene:
    """A top that may be a lid, and the pixels that see it.

    wall, below (X, Y, Z) float32: distance from the outer surface without the lid; depth under the lid
    lid_error   (P,) float32: how badly the views agree on the lid
    lid_distance (P,) float64: to the lid along each line
    """

    field: np.ndarray
    top: Top
    wall: np.ndarray
    below: np.ndarray
    photographs: Photographs
    lines: SightLines
    lid_error: np.ndarray
    lid_distance: np.ndarray


@dataclass(frozen=True)
class _Cavity:
    """A hypothesis: the wall's thickness at each of _KNOTS; the floor's depth, inf for the wall's thickness."""

    thickness: tuple[float, ...]
    floor: float = np.inf


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
    photographs, cameras, alpha = photographs_of(views, frame.world_from_cells, middle)
    walls, guessed = [], False
    for top in tops(frame.field):
        context.check()
        lines = lines_onto(frame.field, top, photographs, cameras, alpha, frame.world_from_cells, _PIXELS)
        if len(lines) < _LEAST_PIXELS:
            continue
        lid = agreement(frame.field, photographs, lines)
        known = np.flatnonzero(lid.seen > 0)
        if len(known) < _LEAST_PIXELS or lid.error[known].mean() < _LID_WRONG / 2:
            continue
        below = (top.height[:, :, None] - np.arange(field.shape[2])).astype(np.float32)
        scene = _Scene(
            frame.field, top, wall_distance(frame.field, top), below, photographs,
            lines.take(known), lid.error[known], lid.distance[known],
        )  # fmt: skip
        cavity = _cavity_of(scene, context)
        if cavity is None:
            continue
        field = np.minimum(field, -_inside(scene, cavity))
        walls.append(round(cavity.thickness[0] * grid.cell, 5))
        guessed |= not np.isfinite(cavity.floor)
    if not walls:
        return grid
    context.note(hollow_walls=walls)
    if guessed:
        context.warn(
            "The object is hollow and no view shows the bottom of the inside: there walls and floor were "
            "made as thick as they are where they are seen."
        )
    changed = frame.turned_back(field)
    near = np.clip(grid.field / grid.cell, -REACH, REACH)
    lowered = np.where(changed < near, changed * grid.cell, grid.field)
    return Grid(np.ascontiguousarray(lowered, dtype=np.float32), grid.origin, grid.cell)


def _cavity_of(scene: _Scene, context: StageContext) -> _Cavity | None:
    """The cavity on which the views agree best; None where they do not agree far better than on the lid."""
    few = _every(scene, 4)
    deepest = float(scene.wall[scene.top.plan].max())
    ladder = _THINNEST * 1.25 ** np.arange(16)
    cavities = [_Cavity((float(t),) * len(_KNOTS)) for t in ladder if t < 0.7 * deepest]
    if not cavities:
        return None
    best = min(cavities, key=lambda cavity: _cost(few, cavity, context))
    if not _convincing(few, _tested(few, best), lenient=True):
        return None
    best = _refined(scene, best, context)
    test = _tested(scene, best)
    if not _convincing(scene, test):
        return None
    floors = [replace(best, floor=floor) for floor in _FLOORS]
    costs = [_cost(scene, cavity, context) for cavity in floors]
    lowest = int(np.argmin(costs))
    if costs[lowest] > _FLOOR_SEEN * float(test.error.mean()):
        return best
    return floors[lowest] if _FLOORS[lowest] >= _SHALLOW else None


def _every(scene: _Scene, stride: int) -> _Scene:
    chosen = np.arange(0, len(scene.lines), stride)
    return replace(
        scene,
        lines=scene.lines.take(chosen),
        lid_error=scene.lid_error[chosen],
        lid_distance=scene.lid_distance[chosen],
    )


def _inside(scene: _Scene, cavity: _Cavity) -> np.ndarray:
    """(X, Y, Z) float32: distance to the cavity's surface, > 0 in it, clipped; the part under the lid only."""
    from scipy.ndimage import binary_dilation, label

    thickness = np.interp(scene.below, _KNOTS, cavity.thickness).astype(np.float32)
    inside = scene.wall - thickness
    if np.isfinite(cavity.floor):
        inside = np.minimum(inside, np.float32(cavity.floor) - scene.below)
    labels, _ = label((inside > 0) & (scene.field > -2))
    x, y = np.nonzero(scene.top.plan)
    z = np.clip(np.rint(scene.top.height[x, y]).astype(int) - 1, 0, labels.shape[2] - 1)
    joined = np.unique(labels[x, y, z])
    open_ = binary_dilation(np.isin(labels, joined[joined > 0]), iterations=2)
    return np.where(open_, np.clip(inside, -REACH, REACH), np.float32(-REACH))


def _tested(scene: _Scene, cavity: _Cavity) -> _Test:
    field = np.minimum(scene.field, -_inside(scene, cavity))
    found = agreement(field, scene.photographs, scene.lines)
    hidden = (found.seen == 0) | (found.distance < 0)
    return _Test(np.where(hidden, scene.lid_error, found.error), hidden, found.distance)


def _cost(scene: _Scene, cavity: _Cavity, context: StageContext) -> float:
    context.check()
    return float(_tested(scene, cavity).error.mean())


def _convincing(scene: _Scene, test: _Test, *, lenient: bool = False) -> bool:
    """Whether the views agree on the inside of the cavity, and not on the lid."""
    past = test.distance - scene.lid_distance > 1.5
    if past.mean() < _CHANGED / (2 if lenient else 1):
        return False
    lid, error = scene.lid_error[past], test.error[past]
    better, worse = float((lid - error > _CLEAR).mean()), float((error - lid > _CLEAR).mean())
    slack = 1.25 if lenient else 1.0
    return bool(
        lid.mean() > _LID_WRONG
        and error.mean() < _AGREES * slack * lid.mean()
        and better > _BETTER / slack
        and better > _FOR_ONE_WORSE / slack * worse
        and test.hidden[past].mean() < _MOST_HIDDEN
    )


def _refined(scene: _Scene, cavity: _Cavity, context: StageContext) -> _Cavity:
    """The wall's thickness at each knot that is seen, from the deepest up, twice; below as the last."""
    test = _tested(scene, cavity)
    hit = scene.lines.at(test.distance)
    low = np.array(scene.below.shape) - 1
    cell = np.clip(np.rint(hit).astype(int), 0, low)
    depth = scene.below[cell[:, 0], cell[:, 1], cell[:, 2]]
    past = test.distance - scene.lid_distance > 1.5
    seen = 1
    while (
        seen < len(_KNOTS) and (past & (depth > 0.5 * (_KNOTS[seen - 1] + _KNOTS[seen]))).mean() > _SEEN_SHARE
    ):
        seen += 1

    def with_knot(knot: int, value: float) -> _Cavity:
        values = list(cavity.thickness)
        values[knot] = value
        if knot == seen - 1:
            values[seen:] = [value] * (len(_KNOTS) - seen)
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
