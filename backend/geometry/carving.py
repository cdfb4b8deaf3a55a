"""Visual hulls from posed masks: a box around the object, a distance field, a closed surface.

The field is the minimum over the views of the signed pixel distance to the silhouette, scaled to
metres at the point's depth: smooth where a binary carve has steps, so that 128 cells a side do the
work of 512 (Orrery's own measurements: 1 to 3 dB against binary masks).

Where the mask touches a side of the frame the object goes on outside the picture, and what projects
beyond that side is unknown to that view and not carved. Elsewhere outside the picture is background.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.eight_bit import EightBit
from backend.geometry.jit import kernel
from backend.geometry.parallel import for_bands
from backend.geometry.silhouettes import signed_distances
from shared_protocol.errors import InvalidInput, StageFailed

_BLOCK = 4
_ATTEMPTS = 8
_SEARCH_CELLS = 64


@dataclass(frozen=True)
class Grid:
    """A scalar field on a regular grid.

    field  (X, Y, Z) float32; field[i, j, k] is at origin + cell * (i, j, k); > 0 inside
    origin (3,) float64 metres, world
    cell   metres
    """

    field: np.ndarray
    origin: np.ndarray
    cell: float


@dataclass(frozen=True)
class Silhouettes:
    """What carving needs of the views; views without any object in them are left out.

    distance   (N, H, W) float32 pixels, > 0 inside
    projection (N, 3, 4) float64, world -> homogeneous pixels; the third row gives depth in metres
    focal      (N,) float32 pixels (the geometric mean of both axes)
    open_sides (N, 4) uint8: the object leaves the frame at its left, right, top, bottom
    used       (N,) int64: which of the views given these are
    """

    distance: np.ndarray
    projection: np.ndarray
    focal: np.ndarray
    open_sides: np.ndarray
    used: np.ndarray


def silhouettes(alpha: np.ndarray | EightBit, cameras: Cameras) -> Silhouettes:
    """alpha (N, H, W) float32, straight; StageFailed when fewer than two views show anything."""
    if alpha.shape != (len(cameras), cameras.height, cameras.width):
        raise InvalidInput(
            f"masks have shape {alpha.shape}", f"({len(cameras)}, {cameras.height}, {cameras.width})"
        )
    inside = np.stack([view >= 0.5 for view in alpha])
    used = np.flatnonzero(inside.any(axis=(1, 2)))
    if len(used) < 2:
        raise StageFailed(
            f"{len(used)} of {len(alpha)} views show an object",
            "at least two views with an object cut out",
            "Check the cut-outs: their alpha channel may be empty.",
        )
    inside = inside[used]
    edge = max(1, min(alpha.shape[1:]) // 256)  # a matte often fades in the outermost pixel
    open_sides = np.stack(
        [
            inside[:, :, :edge].any(axis=(1, 2)),
            inside[:, :, -edge:].any(axis=(1, 2)),
            inside[:, :edge].any(axis=(1, 2)),
            inside[:, -edge:].any(axis=(1, 2)),
        ],
        axis=1,
    )
    chosen = cameras.take(used)
    projection = chosen.intrinsics @ chosen.camera_from_world[:, :3]
    focal = np.sqrt(np.abs(chosen.intrinsics[:, 0, 0] * chosen.intrinsics[:, 1, 1]))
    return Silhouettes(
        signed_distances(alpha, used),
        projection,
        focal.astype(np.float32),
        open_sides.astype(np.uint8),
        used,
    )


@kernel
def _point_value(distance, projection, focal, open_sides, x, y, z, floor, frame_band):
    """Minimum over the views of the signed distance in metres; stops once it is below `floor`.

    frame_band: where a view knows nothing, the share of views that see the point decides instead:
    the mean over the views of the distance to the frame's edge, clipped to this many metres.
    """
    views, height, width = distance.shape
    value = np.float32(1e30)
    unknown = False
    margin = np.float32(0.0)
    for n in range(views):
        p = projection[n]
        depth = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
        closed = open_sides[n, 0] + open_sides[n, 1] + open_sides[n, 2] + open_sides[n, 3] == 0
        if depth <= 1e-9:
            if closed:
                return -frame_band
            unknown = True
            margin -= frame_band
            continue
        u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / depth - 0.5
        v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / depth - 0.5
        scale = np.float32(depth) / focal[n]
        beyond = max(max(-u, u - (width - 1)), max(-v, v - (height - 1)))
        if beyond > 0.0:
            hidden = (
                (u >= 0.0 or open_sides[n, 0] != 0)
                and (u <= width - 1 or open_sides[n, 1] != 0)
                and (v >= 0.0 or open_sides[n, 2] != 0)
                and (v <= height - 1 or open_sides[n, 3] != 0)
            )
            if hidden:
                unknown = True
                margin += max(-frame_band, np.float32(-beyond) * scale)
                continue
        margin += min(frame_band, np.float32(-beyond) * scale)
        u_in, v_in = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
        column, row = min(int(u_in), width - 2), min(int(v_in), height - 2)
        a, b = np.float32(u_in - column), np.float32(v_in - row)
        sample = (distance[n, row, column] * (1 - a) + distance[n, row, column + 1] * a) * (1 - b) + (
            distance[n, row + 1, column] * (1 - a) + distance[n, row + 1, column + 1] * a
        ) * b
        if beyond > 0.0:
            sample = min(sample, np.float32(0.0)) - np.float32(beyond)
        value = min(value, sample * scale)
        if value < floor:
            return value
    if unknown:
        value = min(value, margin / views)
    return value


@kernel
def _coarse(distance, projection, focal, open_sides, origin, step, floor, frame_band, start, stop, out):
    """Field at the points origin + step * (i, j, k), planes start..stop of the first axis."""
    for i in range(start, stop):
        x = origin[0] + step * i
        for j in range(out.shape[1]):
            y = origin[1] + step * j
            for k in range(out.shape[2]):
                z = origin[2] + step * k
                out[i, j, k] = _point_value(
                    distance, projection, focal, open_sides, x, y, z, floor, frame_band
                )


@kernel
def _refine(
    distance, projection, focal, open_sides, origin, cell, reach, floor, frame_band, coarse, start, stop, out
):
    """Fill blocks of _BLOCK^3 points: exactly near the surface, with the centre's value elsewhere."""
    size = _BLOCK
    for bi in range(start, stop):
        for bj in range(coarse.shape[1]):
            for bk in range(coarse.shape[2]):
                centre = coarse[bi, bj, bk]
                near = abs(centre) <= reach
                for i in range(bi * size, min(bi * size + size, out.shape[0])):
                    x = origin[0] + cell * i
                    for j in range(bj * size, min(bj * size + size, out.shape[1])):
                        y = origin[1] + cell * j
                        for k in range(bk * size, min(bk * size + size, out.shape[2])):
                            if near:
                                z = origin[2] + cell * k
                                out[i, j, k] = _point_value(
                                    distance, projection, focal, open_sides, x, y, z, floor, frame_band
                                )
                            else:
                                out[i, j, k] = centre


def _shifted(projection: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The same projections for coordinates relative to `centre` (scans may lie kilometres off)."""
    moved = projection.copy()
    moved[:, :, 3] += projection[:, :, :3] @ centre
    return np.ascontiguousarray(moved)


def _evaluate(views: Silhouettes, origin: np.ndarray, step: float, shape, floor, band) -> np.ndarray:
    out = np.empty(shape, dtype=np.float32)
    projection = _shifted(views.projection, origin)
    zero = np.zeros(3)
    for_bands(
        lambda start, stop: _coarse(
            views.distance, projection, views.focal, views.open_sides,
            zero, float(step), np.float32(floor), np.float32(band), start, stop, out,
        ),
        shape[0],
    )  # fmt: skip
    return out


def looked_at(cameras: Cameras) -> tuple[np.ndarray, float]:
    """The point nearest to all optical axes (3,), metres, and the largest camera distance from it."""
    centres, axes = cameras.centres, cameras.world_from_camera[:, :3, 2]
    mean = centres.mean(axis=0)
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    weight = 1e-4 * len(cameras)  # parallel axes meet nowhere: stay near the cameras' mean
    system = across.sum(axis=0) + weight * np.eye(3)
    offset = np.einsum("nij,nj->i", across, centres - mean)
    point = mean + np.linalg.solve(system, offset)
    return point, float(np.linalg.norm(centres - point, axis=1).max())


def bounds_of(views: Silhouettes, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """As `object_bounds`, for silhouettes already made."""
    point, reach = looked_at(cameras)
    if reach <= 0:
        raise StageFailed("all cameras stand at one point", "cameras around the object")
    low, high = point - reach, point + reach
    for zoom in range(6):
        extent = high - low
        step = float(extent.max()) / _SEARCH_CELLS
        shape = tuple(int(n) + 2 for n in np.ceil(extent / step))
        # Half a cell's diagonal: a cell that the surface touches is never missed (a margin for depth).
        radius = 0.9 * step
        field = _evaluate(views, low, step, shape, -4 * radius, 2 * step)
        found = field > -radius
        if not found.any():
            raise StageFailed(
                "no point in space lies inside all silhouettes",
                "views of one object with the cameras they were taken from",
                "Check that pictures and cameras are in the same order and follow the same convention.",
            )
        before = extent
        lows, highs = [], []
        for axis in range(3):
            hit = np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis)))
            lows.append(low[axis] + step * (hit[0] - 0.5))
            highs.append(low[axis] + step * (hit[-1] + 0.5))
        low, high = np.maximum(low, lows), np.minimum(high, highs)
        if zoom and np.all(high - low > 0.9 * before):
            break
    return low, high


def object_bounds(alpha: np.ndarray, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """World box (low (3,), high (3,)), metres, around the visual hull of the masks, about a cell loose.

    alpha (N, H, W) float32, straight. Any scale, any place. StageFailed when there is no such point.
    """
    return bounds_of(silhouettes(alpha, cameras), cameras)


def field_of(views: Silhouettes, low: np.ndarray, high: np.ndarray, cells: int) -> Grid:
    """As `hull_field`, for silhouettes already made."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    cell = float((high - low).max()) / cells
    origin = low - 2 * cell
    shape = tuple(int(n) + 5 for n in np.ceil((high - low) / cell))
    step = cell * _BLOCK
    reach = 1.3 * step  # half a block's diagonal is 0.65 steps; the rest for the change of depth
    blocks = tuple(-(-n // _BLOCK) for n in shape)
    centre = origin + cell * (_BLOCK - 1) / 2
    coarse = _evaluate(views, centre, step, blocks, -reach * 1.01, step)
    out = np.empty(shape, dtype=np.float32)
    projection = _shifted(views.projection, origin)
    zero = np.zeros(3)
    floor = np.float32(-4 * cell)
    for_bands(
        lambda start, stop: _refine(
            views.distance, projection, views.focal, views.open_sides,
            zero, cell, np.float32(reach), floor, np.float32(step), coarse, start, stop, out,
        ),
        blocks[0],
    )  # fmt: skip
    close_border(out, cell)
    return Grid(out, origin, cell)


def hull_field(alpha: np.ndarray, cameras: Cameras, low: np.ndarray, high: np.ndarray, cells: int) -> Grid:
    """Signed-distance visual hull of the box low..high (3,), `cells` cells along its longest side.

    alpha (N, H, W) float32, straight. The grid has two cells of margin and is negative at its border.
    The field is exact within some five cells of the surface and keeps its sign elsewhere.
    """
    return field_of(silhouettes(alpha, cameras), low, high, cells)


def close_border(field: np.ndarray, cell: float) -> None:
    """Make the outermost layer of `field` negative, in place, so that its surface is closed."""
    for axis in range(3):
        layers = np.moveaxis(field, axis, 0)
        for layer in (layers[0], layers[-1]):
            np.minimum(layer, -0.5 * cell, out=layer)


def _touching(faces: np.ndarray) -> np.ndarray:
    """(E, 2) directed edges that more than one face runs along: where two sheets of a surface touch."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    count = int(faces.max()) + 1
    keys = np.sort(edges[:, 0] * count + edges[:, 1])
    repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
    return np.stack([repeated // count, repeated % count], axis=1)


def extract_surface(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Closed zero surface: vertices (V, 3) float32 world metres, faces (F, 3) int32, outward normals.

    Vertices are welded; no face is degenerate in its indices. Empty arrays when nothing is inside. Where the
    field is as rough as its cells, marching cubes may let two sheets touch along an edge of four faces: there
    a point is taken from the inside.
    """
    from skimage.measure import marching_cubes

    field = grid.field.astype(np.float32, copy=True)
    close_border(field, grid.cell)
    if not (field > 0).any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    # A value of exactly zero would put several vertices on one grid point.
    tiny = np.float32(1e-3 * grid.cell)
    small = np.abs(field) < tiny
    field[small] = np.where(field[small] >= 0, tiny, -tiny)
    for _ in range(_ATTEMPTS):
        vertices, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="ascent", allow_degenerate=True)
        touching = _touching(faces)
        if not len(touching):
            break
        # Each end lies between a point inside and one outside; of the two inside the flatter is given up.
        ends = vertices[touching]
        points = np.stack([np.floor(ends), np.ceil(ends)], axis=2).astype(np.int64)  # (E, 2, 2, 3)
        values = field[tuple(np.moveaxis(points, -1, 0))]
        values = np.where(values > 0, values, np.inf).reshape(len(ends), 4)
        given_up = points.reshape(len(ends), 4, 3)[np.arange(len(ends)), values.argmin(axis=1)]
        field[tuple(given_up.T)] = -tiny
    world = grid.origin + grid.cell * vertices.astype(np.float64)
    return world.astype(np.float32), np.ascontiguousarray(faces, dtype=np.int32)
