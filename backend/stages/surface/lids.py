"""Tops of a solid that may be lids: where a hull, which has no hollows, closes the mouth of a vessel.

All lengths are in cells of the grid, the last axis is up.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid
from backend.geometry.field_rays import Photographs, SightLines, entry_distance, first_hits
from backend.geometry.photo_consistency import neighbours
from backend.pipeline.values import Views

REACH = 6.0
"""Cells: fields are clipped to this."""
_WORK_SIZE = 512
_STEEPEST = 1.2
"""Cells of height a cell: a top is what slopes less."""
_LEAST_SHARE, _LEAST_CELLS, _MOST = 0.04, 80, 4
_BUMP = 4.0
_THICK = 3.0
"""What lies this deep under a top's surface still counts as its lid."""
_RIM, _RIM_SMOOTH = (1.4, 3.2), 2.5
"""How far inside the border of a top its rim is measured."""
_DOWN = -0.85
"""Vertical part of the normal of what faces down."""


@dataclass(frozen=True)
class Upright:
    """A grid turned so that its last axis is up.

    field            (X, Y, Z) float32 cells, clipped to REACH
    world_from_cells (4, 4) float64
    """

    field: np.ndarray
    world_from_cells: np.ndarray
    _order: tuple[int, ...]
    _flipped: bool

    @classmethod
    def of(cls, grid: Grid, cameras: Cameras) -> "Upright | None":
        """None where no axis of the grid is within some 25 degrees of up."""
        up = -cameras.world_from_camera[:, :3, 1].mean(axis=0)
        length, axis = float(np.linalg.norm(up)), int(np.argmax(np.abs(up)))
        if length < 0.3 or abs(up[axis]) < 0.9 * length:
            return None
        order = (*(a for a in range(3) if a != axis), axis)
        matrix = np.zeros((4, 4))
        matrix[order, range(3)] = grid.cell
        matrix[:3, 3], matrix[3, 3] = grid.origin, 1
        field = np.clip(grid.field / grid.cell, -REACH, REACH).transpose(order)
        flipped = bool(up[axis] < 0)
        if flipped:
            field = field[:, :, ::-1]
            matrix[:3, 3] += matrix[:3, 2] * (field.shape[2] - 1)
            matrix[:3, 2] *= -1
        return cls(np.ascontiguousarray(field, dtype=np.float32), matrix, order, flipped)

    def turned_back(self, field: np.ndarray) -> np.ndarray:
        """A field of this frame in the axes of the grid."""
        return (field[:, :, ::-1] if self._flipped else field).transpose(np.argsort(self._order))


@dataclass(frozen=True)
class Top:
    """A piece of the surface that faces up.

    plan    (X, Y) bool: its columns of the grid
    height  (X, Y) float64: of the surface; beside the plan that of the nearest column in it
    """

    plan: np.ndarray
    height: np.ndarray


def tops(field: np.ndarray) -> Iterator[Top]:
    """The largest tops of a solid, at most _MOST, each at least _LEAST_SHARE of the plan."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

    inside = field > 0
    solid, last = inside.any(axis=2), field.shape[2] - 1
    highest = last - np.argmax(inside[:, :, ::-1], axis=2)
    x, y = np.indices(solid.shape)
    within, above = field[x, y, highest], field[x, y, np.minimum(highest + 1, last)]
    height = np.where(solid, highest + within / np.maximum(within - above, 1e-3), -10.0)
    level = solid.copy()
    for axis in (0, 1):
        step = np.abs(np.diff(height, axis=axis)) < _STEEPEST
        ahead, behind = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        ahead[axis], behind[axis] = (0, 1), (1, 0)
        level &= np.pad(step, ahead) & np.pad(step, behind)
    labels, count = label(level)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    least = max(_LEAST_CELLS, _LEAST_SHARE * np.count_nonzero(solid))
    for one in np.argsort(-areas, kind="stable")[:_MOST]:
        if areas[one] < least:
            return
        plan = labels == one + 1
        high = height[plan].max() + _BUMP
        # A bump or a dent within it belongs to it; what stands in a ring, as a cup on its saucer, does not.
        holes, holes_count = label(binary_fill_holes(plan) & ~plan)
        for hole in range(1, holes_count + 1):
            inner = holes == hole
            if height[inner].max() < high:
                plan |= inner
        nearest = distance_transform_edt(~plan, return_distances=False, return_indices=True)
        yield Top(plan, height[tuple(nearest)])


def levelled(field: np.ndarray, top: Top, raised: float) -> tuple[np.ndarray, Top]:
    """The solid with the top made as smooth and level as its border is, `raised` above it, and that top.

    Where no texture tells better, a hull closes the mouth with a cone as steep as the views are high; where
    there is texture the lid is rough, for what it shows does not lie there.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

    inward = distance_transform_edt(top.plan)
    ring = (inward > _RIM[0]) & (inward <= _RIM[1])
    if not ring.any():
        return field, top
    nearest = distance_transform_edt(~ring, return_distances=False, return_indices=True)
    height = gaussian_filter(top.height[tuple(nearest)], _RIM_SMOOTH) + raised
    level = np.arange(field.shape[2])
    under = np.clip(height[:, :, None] - level, -REACH, REACH)
    about = binary_erosion(top.plan)[:, :, None] & (
        level > np.minimum(height, top.height)[:, :, None] - _THICK
    )
    return np.where(about, under, field).astype(np.float32), Top(top.plan, height)


@dataclass(frozen=True)
class Walls:
    """The solid's surface without a lid, (X, Y, Z) float32.

    side   distance to all of it but what faces down
    base   distance to what faces down
    """

    side: np.ndarray
    base: np.ndarray


def walls_without(field: np.ndarray, top: Top) -> Walls:
    """Distances from the surface of the solid, the lid `top` left out."""
    from scipy.ndimage import binary_dilation, binary_erosion

    inside = field > 0
    shell = inside & ~binary_erosion(inside)
    x, y, z = np.nonzero(shell)
    padded = np.pad(field, 1, mode="edge")
    slope = [
        padded[x + 1 - (a == 0), y + 1 - (a == 1), z + 1 - (a == 2)]
        - padded[x + 1 + (a == 0), y + 1 + (a == 1), z + 1 + (a == 2)]
        for a in range(3)
    ]
    rising = slope[2] / np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2 + 1e-12)
    about = binary_dilation(top.plan, iterations=3)[x, y] & (z >= top.height[x, y] - _THICK)
    lid = about & (top.plan[x, y] | (rising > 0.7))
    shell[x[lid], y[lid], z[lid]] = False
    base = np.zeros_like(shell)
    down = rising < _DOWN
    base[x[down], y[down], z[down]] = True
    return Walls(_distance(field, shell & ~base), _distance(field, base))


def _distance(field: np.ndarray, shell: np.ndarray) -> np.ndarray:
    """Distance to the surface, of which `shell` are the outermost points inside."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    if not shell.any():
        return np.full(field.shape, np.inf, np.float32)
    distance, nearest = distance_transform_edt(~shell, return_indices=True)
    # The surface lies as far outside those points as the field says there.
    return gaussian_filter((distance + field[tuple(nearest)]).astype(np.float32), 0.7)


def photographs_of(views: Views, world_from_cells: np.ndarray, middle: np.ndarray) -> tuple:
    """(Photographs, cameras, alpha): the views over mid-grey, at most _WORK_SIZE, a little blurred.

    middle (3,) metres: what the views look at
    """
    height, width = views.rgba.shape[1:3]
    scale = min(1.0, _WORK_SIZE / max(height, width))
    size = round(width * scale), round(height * scale)
    cameras = views.cameras.resized(*size)
    images = np.empty((len(views), size[1], size[0], 3), dtype=np.float32)
    alphas = np.empty(images.shape[:3], dtype=np.float32)
    for view, rgba in enumerate(views.rgba):
        alpha = rgba[..., 3:]
        both = np.concatenate([(rgba[..., :3] - 0.5) * alpha + 0.5, alpha], axis=-1)
        if size != (width, height):
            both = cv2.resize(both, size, interpolation=cv2.INTER_AREA)
        cv2.GaussianBlur(np.ascontiguousarray(both[..., :3]), (0, 0), 0.7, dst=images[view])
        alphas[view] = both[..., 3]
    cells_from_world = np.linalg.inv(world_from_cells)
    centres = cameras.centres @ cells_from_world[:3, :3].T + cells_from_world[:3, 3]
    projection = (cameras.intrinsics @ cameras.camera_from_world[:, :3]) @ world_from_cells
    photographs = Photographs(
        images,
        np.ascontiguousarray(projection),
        np.ascontiguousarray(centres),
        neighbours(cameras, middle),
    )
    return photographs, cameras, alphas


def lines_onto(
    field: np.ndarray,
    top: Top,
    photographs: Photographs,
    cameras: Cameras,
    alpha: np.ndarray,
    world_from_cells: np.ndarray,
    most: int,
) -> SightLines:
    """Lines of sight of the pixels that see a top, about `most` at most, starting shortly before it.

    cameras, alpha (N, H, W) of the photographs
    """
    x, y = np.nonzero(top.plan)
    points = np.stack([x, y, top.height[x, y], np.ones(len(x))], axis=1)
    rotation = np.linalg.inv(world_from_cells)[:3, :3]
    boxes, total = [], 0
    for projection in photographs.projection:
        image = points @ projection.T
        pixels = image[:, :2] / np.maximum(image[:, 2:], 1e-9)
        low = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 1, (cameras.width, cameras.height))
        boxes.append((low, high))
        total += int(np.prod(np.maximum(high - low, 0)))
    # Rows are few where the view is level: columns are left out.
    stride = max(1, int(np.ceil(0.7 * total / most)))
    parts = []
    for view, (low, high) in enumerate(boxes):
        rows, columns = np.meshgrid(
            np.arange(low[1], high[1]), np.arange(low[0], high[0], stride), indexing="ij"
        )
        rows, columns = rows.ravel(), columns.ravel()
        inside = alpha[view, rows, columns] > 0.9
        rows, columns = rows[inside], columns[inside]
        k = cameras.intrinsics[view]
        rays = np.stack(
            [(columns + 0.5 - k[0, 2]) / k[0, 0], (rows + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(rows))],
            axis=1,
        )
        rays = rays @ (rotation @ cameras.world_from_camera[view, :3, :3]).T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        origin = np.repeat(photographs.centres[view][None], len(rows), axis=0)
        parts.append(
            SightLines(
                np.full(len(rows), view),
                origin,
                rays,
                entry_distance(origin, rays, field.shape),
                photographs.images[view, rows, columns],
            )
        )
    lines = SightLines(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in SightLines.__dataclass_fields__)
    )
    distance = first_hits(field, lines.origin, lines.direction, lines.start)
    hit = lines.at(distance)
    column = np.clip(np.rint(hit[:, :2]).astype(int), 0, np.array(top.plan.shape) - 1)
    from scipy.ndimage import binary_dilation

    plan = binary_dilation(top.plan)[column[:, 0], column[:, 1]]
    near = np.abs(hit[:, 2] - top.height[column[:, 0], column[:, 1]]) < 2.5
    chosen = (distance >= 0) & plan & near
    begun = SightLines(lines.view, lines.origin, lines.direction, np.maximum(distance - 3, 0), lines.colour)
    return begun.take(np.flatnonzero(chosen))
