"""Which point of a mesh belongs to a point in space: the nearest one, or the one straight along a normal.

Triangles are sorted into the cells of a uniform grid about as large as they are; a query looks at few
cells. Used to carry colours and normals from one mesh of an object to another.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.parallel import for_bands

_MOST_CELLS = 128
"""Along the longest side."""
_POINTS_PER_CALL = 40_000


@dataclass(frozen=True)
class SurfacePoints:
    """Points on a mesh.

    face         (P,) int32, -1 where there is none
    barycentric  (P, 3) float32, weights of the face's corners
    distance     (P,) float32, metres from the point that was asked for; along a normal: positive outward
    """

    face: np.ndarray
    barycentric: np.ndarray
    distance: np.ndarray

    def interpolate(self, attribute: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Per-vertex `attribute` (V, C) at each point, (P, C) float32; of face 0 where there is none."""
        corners = np.asarray(attribute, dtype=np.float32)[faces[np.maximum(self.face, 0)]]
        return np.einsum("pk,pkc->pc", self.barycentric, corners)


class SurfaceLookup:
    """A mesh made ready for queries: vertices (V, 3) metres, faces (F, 3) with F > 0."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._points = np.ascontiguousarray(vertices, dtype=np.float64)
        self._faces = np.ascontiguousarray(faces, dtype=np.int32)
        corners = self._points[self._faces]
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        extent = float((high - low).max()) or 1.0
        self._cell = max(1.2 * float(edges.mean()), extent / _MOST_CELLS)
        self._low = low - 0.5 * self._cell
        self._shape = np.ceil((high - self._low) / self._cell + 0.5).astype(np.int64).clip(min=1)
        count = np.zeros(int(self._shape.prod()) + 1, dtype=np.int64)
        nothing = np.zeros(0, dtype=np.int32)
        _sort(self._points, self._faces, self._low, self._cell, self._shape, count, nothing)
        self._start = np.concatenate([[0], np.cumsum(count)])[:-1]
        self._items = np.empty(int(count.sum()), dtype=np.int32)
        _sort(self._points, self._faces, self._low, self._cell, self._shape, self._start.copy(), self._items)

    def nearest(self, points: np.ndarray, check: Callable[[], None] = lambda: None) -> SurfacePoints:
        """The nearest point of the mesh to each of `points` (P, 3)."""
        return self._ask(points, None, 0.0, check)

    def along(
        self,
        points: np.ndarray,
        directions: np.ndarray,
        reach: float,
        check: Callable[[], None] = lambda: None,
    ) -> SurfacePoints:
        """Where the line through each point along `directions` (P, 3, unit) first meets the mesh, either way.

        At most `reach` metres away, and only faces that look the same way (their normal within 90 degrees
        of the direction). face -1 where there is none.
        """
        return self._ask(points, directions, reach, check)

    def _ask(
        self, points: np.ndarray, directions: np.ndarray | None, reach: float, check: Callable[[], None]
    ) -> SurfacePoints:
        points = np.ascontiguousarray(points, dtype=np.float64)
        face = np.full(len(points), -1, dtype=np.int32)
        weights = np.zeros((len(points), 3), dtype=np.float32)
        distance = np.full(len(points), np.inf, dtype=np.float32)
        grid = (self._points, self._faces, self._low, self._cell, self._shape, self._start, self._items)
        if directions is not None:
            directions = np.ascontiguousarray(directions, dtype=np.float64)
        for begin in range(0, len(points), _POINTS_PER_CALL):
            check()
            part = slice(begin, begin + _POINTS_PER_CALL)
            out = (face[part], weights[part], distance[part])
            if directions is None:
                for_bands(
                    lambda i, j, part=part, out=out: _nearest(*grid, points[part], i, j, *out), len(out[0])
                )
            else:
                for_bands(
                    lambda i, j, part=part, out=out: _along(
                        *grid, points[part], directions[part], reach, i, j, *out
                    ),
                    len(out[0]),
                )
        return SurfacePoints(face, weights, distance)


@kernel
def _sort(points, faces, low, cell, shape, place, items):
    """Count the triangles of each cell into `place`, or (items not empty) write them where it points."""
    half = 0.87 * cell  # of a cell's diagonal
    first, last = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for k in range(3):
            least = min(points[a, k], points[b, k], points[c, k])
            most = max(points[a, k], points[b, k], points[c, k])
            first[k] = max(0, int((least - low[k]) / cell - 1e-6))
            last[k] = min(shape[k] - 1, int((most - low[k]) / cell + 1e-6))
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        size = np.sqrt(nx * nx + ny * ny + nz * nz)
        for i in range(first[0], last[0] + 1):
            x = low[0] + (i + 0.5) * cell - points[a, 0]
            for j in range(first[1], last[1] + 1):
                y = low[1] + (j + 0.5) * cell - points[a, 1]
                for k in range(first[2], last[2] + 1):
                    z = low[2] + (k + 0.5) * cell - points[a, 2]
                    if abs(nx * x + ny * y + nz * z) > half * size:
                        continue
                    at = (i * shape[1] + j) * shape[2] + k
                    if len(items):
                        items[place[at]] = f
                    place[at] += 1


@kernel
def _nearest(points, faces, low, cell, shape, start, items, asked, begin, stop, face, weights, distance):
    """Closest point on triangles (Ericson 2005, 5.1.5), cells in growing boxes around the point."""
    here = np.zeros(3, np.int64)
    for p in range(begin, stop):
        px, py, pz = asked[p, 0], asked[p, 1], asked[p, 2]
        gap = cell  # to the nearest wall of the point's cell
        for k in range(3):
            at = (asked[p, k] - low[k]) / cell
            here[k] = min(max(int(np.floor(at)), 0), shape[k] - 1)
            gap = min(gap, (at - here[k]) * cell, (here[k] + 1.0 - at) * cell)
        gap = max(gap, 0.0)
        best, found, bu, bv = np.inf, -1, 0.0, 0.0
        farthest = max(shape[0], shape[1], shape[2])
        for r in range(farthest + 1):
            # What is in no box so far is at least this far away.
            if found >= 0 and best <= (gap + (r - 1) * cell) ** 2:
                break
            for i in range(max(here[0] - r, 0), min(here[0] + r, shape[0] - 1) + 1):
                for j in range(max(here[1] - r, 0), min(here[1] + r, shape[1] - 1) + 1):
                    rim = abs(i - here[0]) == r or abs(j - here[1]) == r
                    step = 1 if rim else max(2 * r, 1)
                    k = here[2] - r
                    while k <= here[2] + r:
                        if 0 <= k < shape[2]:
                            cell_at = (i * shape[1] + j) * shape[2] + k
                            for n in range(start[cell_at], start[cell_at + 1]):
                                f = items[n]
                                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                                abx, aby, abz = (
                                    points[b, 0] - points[a, 0],
                                    points[b, 1] - points[a, 1],
                                    points[b, 2] - points[a, 2],
                                )
                                acx, acy, acz = (
                                    points[c, 0] - points[a, 0],
                                    points[c, 1] - points[a, 1],
                                    points[c, 2] - points[a, 2],
                                )
                                apx, apy, apz = px - points[a, 0], py - points[a, 1], pz - points[a, 2]
                                bb = abx * abx + aby * aby + abz * abz
                                bc = abx * acx + aby * acy + abz * acz
                                cc = acx * acx + acy * acy + acz * acz
                                d1 = abx * apx + aby * apy + abz * apz
                                d2 = acx * apx + acy * apy + acz * apz
                                determinant = bb * cc - bc * bc
                                u, v = -1.0, -1.0
                                if determinant > 0.0:
                                    u = (cc * d1 - bc * d2) / determinant
                                    v = (bb * d2 - bc * d1) / determinant
                                if not (u >= 0.0 and v >= 0.0 and u + v <= 1.0):
                                    # On an edge: the best of the three.
                                    least = np.inf
                                    for edge in range(3):
                                        if edge == 0:
                                            t = min(max(d1 / bb, 0.0), 1.0) if bb > 0.0 else 0.0
                                            eu, ev = t, 0.0
                                        elif edge == 1:
                                            t = min(max(d2 / cc, 0.0), 1.0) if cc > 0.0 else 0.0
                                            eu, ev = 0.0, t
                                        else:
                                            side = bb + cc - 2.0 * bc
                                            t = (d2 - d1 + bb - bc) / side if side > 0.0 else 0.0
                                            t = min(max(t, 0.0), 1.0)
                                            eu, ev = 1.0 - t, t
                                        x = apx - eu * abx - ev * acx
                                        y = apy - eu * aby - ev * acy
                                        z = apz - eu * abz - ev * acz
                                        square = x * x + y * y + z * z
                                        if square < least:
                                            least, u, v = square, eu, ev
                                x = apx - u * abx - v * acx
                                y = apy - u * aby - v * acy
                                z = apz - u * abz - v * acz
                                square = x * x + y * y + z * z
                                if square < best or (square == best and f < found):
                                    best, found, bu, bv = square, f, u, v
                        k += step
        face[p] = found
        weights[p, 0], weights[p, 1], weights[p, 2] = 1.0 - bu - bv, bu, bv
        distance[p] = np.sqrt(best)


@kernel
def _along(
    points, faces, low, cell, shape, start, items, asked, directions, reach, begin, stop,
    face, weights, distance,
):  # fmt: skip
    """Möller and Trumbore's intersection, cells along the line by digital differential analysis."""
    at, step = np.zeros(3, np.int64), np.zeros(3, np.int64)
    ahead, delta = np.zeros(3), np.zeros(3)
    for p in range(begin, stop):
        best, found, bu, bv = reach, -1, 0.0, 0.0
        for side in range(2):  # outward, then inward
            sign = 1.0 if side == 0 else -1.0
            for k in range(3):
                d = sign * directions[p, k]
                q = (asked[p, k] - low[k]) / cell
                at[k] = int(np.floor(q))
                step[k] = 1 if d >= 0.0 else -1
                delta[k] = cell / abs(d) if abs(d) > 1e-12 else np.inf
                gap = at[k] + 1.0 - q if d >= 0.0 else q - at[k]
                ahead[k] = gap * delta[k] if abs(d) > 1e-12 else np.inf
            travelled = 0.0
            while travelled <= best:
                inside = True
                for k in range(3):
                    if at[k] < 0 or at[k] >= shape[k]:
                        inside = False
                if inside:
                    cell_at = (at[0] * shape[1] + at[1]) * shape[2] + at[2]
                    for n in range(start[cell_at], start[cell_at + 1]):
                        f = items[n]
                        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                        ux, uy, uz = (
                            points[b, 0] - points[a, 0],
                            points[b, 1] - points[a, 1],
                            points[b, 2] - points[a, 2],
                        )
                        vx, vy, vz = (
                            points[c, 0] - points[a, 0],
                            points[c, 1] - points[a, 1],
                            points[c, 2] - points[a, 2],
                        )
                        dx, dy, dz = directions[p, 0], directions[p, 1], directions[p, 2]
                        hx, hy, hz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
                        facing = ux * hx + uy * hy + uz * hz
                        # facing = -(normal . direction): only faces that look along the direction.
                        if facing >= 0.0:
                            continue
                        sx, sy, sz = (
                            asked[p, 0] - points[a, 0],
                            asked[p, 1] - points[a, 1],
                            asked[p, 2] - points[a, 2],
                        )
                        u = (sx * hx + sy * hy + sz * hz) / facing
                        if u < -1e-7 or u > 1.0 + 1e-7:
                            continue
                        qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
                        v = (dx * qx + dy * qy + dz * qz) / facing
                        if v < -1e-7 or u + v > 1.0 + 1e-7:
                            continue
                        t = (vx * qx + vy * qy + vz * qz) / facing
                        if abs(t) < best or (abs(t) == best and f < found):
                            best, found, bu, bv = abs(t), f, u, v
                            distance[p] = t
                axis = 0
                if ahead[1] < ahead[axis]:
                    axis = 1
                if ahead[2] < ahead[axis]:
                    axis = 2
                travelled = ahead[axis]
                ahead[axis] += delta[axis]
                at[axis] += step[axis]
        face[p] = found
        weights[p, 0], weights[p, 1], weights[p, 2] = 1.0 - bu - bv, bu, bv
