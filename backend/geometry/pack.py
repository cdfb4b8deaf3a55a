"""Packs flat shapes of any outline into a square, as large as they fit, with a gap between them.

Shapes are masks on a grid. Largest first, each goes to the lowest place that is free, in the one of four
turns that puts its middle lowest; places inside other shapes' bays and holes count. The scale is searched.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.parallel import map_parallel

GRID = 512
"""Cells of the packing grid along the square."""
_ORDERS = 6
_FRUITLESS = 2
"""The search for better orders ends after this many rounds of orders in vain."""


@dataclass(frozen=True)
class Packing:
    """Where shapes lie in the unit square: uv = scale * rotation[k] @ point + offset[k].

    scale     squares' sides a unit of the points
    rotation  (K, 2, 2) float64; offset (K, 2) float64
    filled    share of the square that the shapes cover
    """

    scale: float
    rotation: np.ndarray
    offset: np.ndarray
    filled: float

    def placed(self, points: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Where points (P, 2) of the shapes `owner` (P,) come to lie."""
        turned = np.einsum("pij,pj->pi", self.rotation[owner], points)
        return self.scale * turned + self.offset[owner]


def draw_mask(outline: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells (h, w) uint8 that an outline (N, 2), in cells, comes closer to than `reach`, and their corner.

    No cell is missed; some a little farther away are drawn too. The corner (2,) is in whole cells.
    """
    margin = reach + 1.5
    corner = np.floor(outline.min(axis=0) - margin)
    width, height = (np.ceil(outline.max(axis=0) + margin) - corner).astype(int)
    canvas = np.zeros((2 * height, 2 * width), dtype=np.uint8)
    fine = np.rint(((outline - corner) * 2 - 0.5) * 16).astype(np.int32)[None]
    cv2.fillPoly(canvas, fine, 1, cv2.LINE_8, 4)
    cv2.polylines(canvas, fine, True, 1, int(np.ceil(4 * reach)) + 1, cv2.LINE_8, 4)
    mask = canvas[::2, ::2] | canvas[1::2, ::2] | canvas[::2, 1::2] | canvas[1::2, 1::2]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(mask), corner + (columns[0], rows[0])


@dataclass(frozen=True)
class _Shape:
    """A shape at one scale, in four turns of 90 degrees.

    masks, probes: one a turn; heights: mean row of each; corner (2,): of the first mask, in cells
    """

    masks: list[np.ndarray]
    probes: list[np.ndarray]
    heights: list[float]
    corner: np.ndarray

    @classmethod
    def of(cls, outline: np.ndarray, reach: float) -> "_Shape":
        mask, corner = draw_mask(outline, reach)
        box = np.ones((3, 3), np.uint8)
        border = mask - cv2.erode(mask, box, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        # A net within, too, so that what lies inside is met early.
        border[::8, ::8] |= mask[::8, ::8]
        cells = np.argwhere(border).astype(np.int32)
        stride = max(1, len(cells) // 7) | 1
        cells = cells[np.argsort((np.arange(len(cells)) * stride) % len(cells), kind="stable")]
        height, width = mask.shape
        row, column = (
            np.average(np.arange(height), weights=mask.sum(axis=1)),
            np.average(np.arange(width), weights=mask.sum(axis=0)),
        )
        y, x = cells.T
        turned = [(y, x), (x, height - 1 - y), (height - 1 - y, width - 1 - x), (width - 1 - x, y)]
        return cls(
            [np.ascontiguousarray(np.rot90(mask, -turn)) for turn in range(4)],
            [np.ascontiguousarray(np.stack(pair, axis=1)) for pair in turned],
            [row, column, height - 1 - row, width - 1 - column],
            corner,
        )

    def offset(self, turn: int) -> np.ndarray:
        """(2,) cells: what the shape's points move by when its frame's turned mask lies at the origin."""
        height, width = self.masks[0].shape
        frame = -self.corner
        for size in (height, width, height)[:turn]:
            # (x, y) goes to (height - y, x): rows point along +y.
            frame = np.array([size - frame[1], frame[0]])
        return frame


@kernel
def _lowest_place(run, mask, probes):
    """Row and column of the lowest, then leftmost place for `mask`; -1, -1 if there is none.

    run (H, W) int16: how many cells from here to the right are taken, 0 where free. probes (P, 2): cells
    of the mask that are looked at first, all others only where these are free.
    """
    height, width = mask.shape
    for row in range(run.shape[0] - height + 1):
        column = 0
        while column <= run.shape[1] - width:
            jump = 0
            for k in range(probes.shape[0]):
                jump = run[row + probes[k, 0], column + probes[k, 1]]
                if jump > 0:
                    # This very cell is free again only beyond what it has run into.
                    break
            if jump == 0:
                for y in range(height):
                    for x in range(width):
                        if mask[y, x] and run[row + y, column + x] > 0:
                            jump = run[row + y, column + x]
                            break
                    if jump > 0:
                        break
                if jump == 0:
                    return row, column
            column += jump
    return -1, -1


@kernel
def _take(run, mask, row, column):
    """Mark the cells of `mask` as taken."""
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                run[row + y, column + x] = 1
        ahead = 0
        for x in range(run.shape[1] - 1, -1, -1):
            ahead = ahead + 1 if run[row + y, x] > 0 else 0
            run[row + y, x] = ahead


def _place_all(
    shapes: list[_Shape], order: np.ndarray, check: Callable[[], None]
) -> list[tuple[int, np.ndarray]] | None:
    """Turns and offsets in cells of all shapes; None where they do not fit."""
    run = np.zeros((GRID, GRID), dtype=np.int16)
    placed: list[tuple[int, np.ndarray]] = [(0, np.zeros(2))] * len(shapes)
    for index in order:
        check()
        shape = shapes[index]
        best = (np.inf, 0, 0, 0)
        for turn in range(4):
            row, column = _lowest_place(run, shape.masks[turn], shape.probes[turn])
            if row >= 0:
                # The lowest middle; at the same height the leftmost, then the least turned.
                best = min(best, (row + shape.heights[turn] + 1e-4 * column, turn, row, column))
        middle, turn, row, column = best
        if middle == np.inf:
            return None
        _take(run, shape.masks[turn], row, column)
        placed[index] = (turn, shape.offset(turn) + (column, row))
    return placed


def pack(
    outlines: list[np.ndarray], gap: float, check: Callable[[], None], *, filled: float = 0.75
) -> Packing | None:
    """Pack simple polygons (N, 2) into the unit square, `gap` (of its side) apart and half that from its rim.

    None where the gaps alone leave no room.

    filled  the share of the square, gaps included, to try first
    """
    upright_turns = [_upright(outline) for outline in outlines]
    laid = [outline @ turn.T for outline, turn in zip(outlines, upright_turns, strict=True)]
    areas = np.array([_area(outline) for outline in laid])
    # Two points nearer than the gap have a cell in common that is this near to both.
    reach = gap * GRID / 2 + np.sqrt(0.5)

    def place(scale: float, orders: list[np.ndarray]) -> list[tuple[int, np.ndarray]] | None:
        shapes = map_parallel(lambda outline: _Shape.of(outline * scale, reach), laid)
        if sum(int(np.count_nonzero(shape.masks[0])) for shape in shapes) > GRID**2:
            return None
        tries = map_parallel(lambda order: _place_all(shapes, order, check), orders)
        return next((found for found in tries if found is not None), None)

    # Each shape takes its area, a strip of `reach` along its outline, and a disc at its corners.
    rims = reach * sum(np.linalg.norm(np.roll(o, -1, axis=0) - o, axis=1).sum() for o in laid)
    room = filled * GRID**2 - len(laid) * np.pi * reach**2
    if len(laid) * np.pi * reach**2 > GRID**2:
        return None
    scale = 2 * max(room, 1.0) / (rims + np.sqrt(rims**2 + 4 * max(room, 1.0) * areas.sum()))
    smallest = scale
    sizes = np.log(np.maximum(areas, 1e-6 * areas.sum()))
    low, high, step, best = 0.0, np.inf, 1.05, None
    while not (low and high < 1.015 * low):
        check()
        if scale < 1e-2 * smallest:
            return None
        found = place(scale, [np.argsort(-sizes, kind="stable")])
        if found is None:
            high = scale
            scale = (low + high) / 2 if low else scale / step
            step *= 1.1
        else:
            low, best = scale, found
            scale = (low + high) / 2 if high < np.inf else scale * step
    # Other orders may do a little better.
    shuffle = np.random.default_rng(0)
    failures = 0
    while failures < _FRUITLESS:
        check()
        orders = [
            np.argsort(-(sizes + shuffle.normal(0, 0.6, len(sizes))), kind="stable") for _ in range(_ORDERS)
        ]
        found = place(1.01 * low, orders)
        if found is None:
            failures += 1
        else:
            low, best = 1.01 * low, found
    quarter = np.array([[0, -1], [1, 0]])
    rotation = np.stack(
        [
            np.linalg.matrix_power(quarter, turn) @ upright
            for (turn, _), upright in zip(best, upright_turns, strict=True)
        ]
    )
    offsets = np.stack([offset for _, offset in best]) / GRID
    return Packing(low / GRID, rotation, offsets, float(areas.sum()) * (low / GRID) ** 2)


def _upright(outline: np.ndarray) -> np.ndarray:
    """(2, 2) rotation that lays the smallest box around an outline (N, 2) along the axes, wide side in x."""
    (_, (width, height), degrees) = cv2.minAreaRect(outline.astype(np.float32))
    angle = -np.radians(degrees) + (np.pi / 2 if height > width else 0)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _area(outline: np.ndarray) -> float:
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
