"""Flattens discs into the plane with little stretch and no flipped triangle, many discs at a time.

Tutte's embedding (1963), then as-rigid-as-possible steps (Liu et al. 2008), which bring it near an isometry
but may flip triangles; single points are moved until none is flipped. Then the symmetric Dirichlet energy
(Smith and Schaefer 2015, Bijective Parameterization with Free Boundaries) is lowered by L-BFGS around the
inverse Laplacian (Zhu et al. 2018, Blended Cured Quasi-Newton), each disc with its own steps, which end
before the first triangle would collapse.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csc_matrix
from scipy.sparse.linalg import SuperLU, splu

from backend.geometry.jit import kernel

_MEMORY = 6
_ITERATIONS = 60
_TOLERANCE = 5e-3
"""A disc is done when two steps in a row take less than this off its energy over that of an isometry."""
_UNTANGLING_SWEEPS = 60
_RELAXING_SWEEPS = 60
_SLENDER = 0.03
"""Triangles lower than this share of their longest side are taken as that high: their stretch is not seen."""


@dataclass(frozen=True)
class Discs:
    """C discs in one mesh, each its own connected part.

    points (V, 3) float64; faces (F, 3) int64; owner (V,) int64: the disc of each point; count: C
    """

    points: np.ndarray
    faces: np.ndarray
    owner: np.ndarray
    count: int


def rest_shapes(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse edge matrices (F, 2, 2) of the triangles laid flat, and areas (F,)."""
    corners = points[faces]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    third = second - first
    sides = np.stack([np.linalg.norm(side, axis=1) for side in (first, second, third)])
    longest = np.maximum(sides.max(axis=0), 1e-9 * max(sides.max(), 1e-30))
    base = np.maximum(sides[0], _SLENDER * longest)
    x = np.einsum("fi,fi->f", first, second) / base
    y = np.linalg.norm(np.cross(first, second), axis=1) / base
    y = np.maximum(y, _SLENDER * longest * longest / base)
    inverse = np.zeros((len(faces), 2, 2))
    # columns of the edge matrix: (base, 0), (x, y)
    inverse[:, 0, 0] = 1 / base
    inverse[:, 0, 1] = -x / (base * y)
    inverse[:, 1, 1] = 1 / y
    return inverse, base * y / 2


def border_loops(discs: Discs) -> tuple[np.ndarray, np.ndarray]:
    """Border points of all discs in order, (B,) int64, and the start of each disc's loop (C + 1,)."""
    faces = discs.faces
    tail, tip = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    size = len(discs.points)
    alone = ~np.isin(tail * size + tip, tip * size + tail)
    following = np.full(size, -1, dtype=np.int64)
    following[tail[alone]] = tip[alone]
    on_border = np.flatnonzero(following >= 0)
    first = np.full(discs.count, size, dtype=np.int64)
    np.minimum.at(first, discs.owner[on_border], on_border)
    steps = following.tolist()
    loops, start = [], [0]
    for begin in first.tolist():
        point = begin
        while True:
            loops.append(point)
            point = steps[point]
            if point == begin:
                break
        start.append(len(loops))
    return np.array(loops), np.array(start)


def _factorise(matrix: csc_matrix) -> SuperLU:
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _laplacian(faces: np.ndarray, weights: np.ndarray, count: int, shift: np.ndarray) -> csc_matrix:
    """Symmetric, weights (F, 3) of the edges opposite to each corner; shift (count,) on the diagonal."""
    tail, tip = np.roll(faces, -1, axis=1).ravel(), np.roll(faces, -2, axis=1).ravel()
    value = weights.ravel()
    diagonal = np.bincount(np.concatenate([tail, tip]), np.concatenate([value, value]), count) + shift
    index = np.arange(count)
    rows = np.concatenate([tail, tip, index])
    columns = np.concatenate([tip, tail, index])
    return coo_matrix(
        (np.concatenate([-value, -value, diagonal]), (rows, columns)), shape=(count, count)
    ).tocsc()


def tutte(discs: Discs, loops: np.ndarray, start: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(V, 2): borders on circles by length, of the discs' own areas; inside, positive weights (F, 3)."""
    count = len(discs.points)
    owner = np.repeat(np.arange(discs.count), np.diff(start))
    ahead = np.r_[loops[1:], loops[:1]]
    ahead[start[1:] - 1] = loops[start[:-1]]
    length = np.linalg.norm(discs.points[ahead] - discs.points[loops], axis=1)
    perimeter = np.bincount(owner, length, discs.count)
    # Points that coincide stay apart.
    length = length + np.where(perimeter > 0, 1e-3 * perimeter / np.diff(start), 1)[owner]
    perimeter = np.bincount(owner, length, discs.count)
    walked = np.cumsum(length) - length
    walked -= walked[start[:-1]][owner]
    angle = 2 * np.pi * walked / perimeter[owner]
    uv = np.zeros((count, 2))
    uv[loops] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inside = np.ones(count, dtype=bool)
    inside[loops] = False
    if inside.any():
        matrix = _laplacian(discs.faces, weights, count, np.zeros(count)).tocsr()
        system = matrix[inside][:, inside].tocsc()
        uv[inside] = _factorise(system).solve(-(matrix[inside][:, ~inside] @ uv[~inside]))
    return uv


class _Energy:
    """Symmetric Dirichlet energy of all discs, each over its own area: 4 for an isometry."""

    def __init__(self, discs: Discs) -> None:
        self.inverse, area = rest_shapes(discs.points, discs.faces)
        self.faces, self.owner, self.count = discs.faces, discs.owner[discs.faces[:, 0]], discs.count
        self.points = len(discs.points)
        self.disc_area = np.bincount(self.owner, area, self.count)
        self.share = area / self.disc_area[self.owner]
        self.area = area
        b = self.inverse
        gradient = np.stack([-b[:, 0] - b[:, 1], b[:, 0], b[:, 1]], axis=1)  # (F, corner, 2)
        rows = 2 * np.repeat(np.arange(len(self.faces)), 3)
        columns = self.faces.ravel()
        shape = (2 * len(self.faces), self.points)
        self.operator = coo_matrix(
            (
                np.concatenate([gradient[..., 0].ravel(), gradient[..., 1].ravel()]),
                (np.concatenate([rows, rows + 1]), np.concatenate([columns, columns])),
            ),
            shape=shape,
        ).tocsr()
        self.adjoint = self.operator.T.tocsr()

    def jacobians(self, uv: np.ndarray) -> np.ndarray:
        """(F, 2, 2): [f, j, i] is the derivative of coordinate i along rest axis j."""
        return (self.operator @ uv).reshape(-1, 2, 2)

    def values(self, jacobian: np.ndarray) -> np.ndarray:
        """(C,), infinite for discs with a flipped triangle."""
        determinant = _determinant(jacobian)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # a collapsed one: 0 * inf
            each = np.einsum("fij,fij->f", jacobian, jacobian) * (1 + determinant**-2)
        each[determinant <= 0] = np.inf
        return np.bincount(self.owner, self.share * each, self.count)

    def gradient(self, jacobian: np.ndarray) -> np.ndarray:
        """(V, 2), without the discs that have a flipped triangle."""
        determinant = _determinant(jacobian)
        inverse = np.where(determinant > 0, 1 / np.where(determinant > 0, determinant, 1), 0)
        squares = np.einsum("fij,fij->f", jacobian, jacobian)
        cofactor = np.empty_like(jacobian)
        cofactor[:, 0, 0], cofactor[:, 1, 1] = jacobian[:, 1, 1], jacobian[:, 0, 0]
        cofactor[:, 0, 1], cofactor[:, 1, 0] = -jacobian[:, 1, 0], -jacobian[:, 0, 1]
        inner = (2 * self.share * (1 + inverse**2))[:, None, None] * jacobian
        inner -= (2 * self.share * squares * inverse**3)[:, None, None] * cofactor
        return self.adjoint @ inner.reshape(-1, 2)


def _determinant(jacobian: np.ndarray) -> np.ndarray:
    return jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]


def _longest_step(jacobian: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(F,): the smallest t > 0 at which det(jacobian + t change) = 0, inf if none."""
    a = _determinant(change)
    c = _determinant(jacobian)
    b = (
        jacobian[:, 0, 0] * change[:, 1, 1] + change[:, 0, 0] * jacobian[:, 1, 1]
        - jacobian[:, 0, 1] * change[:, 1, 0] - change[:, 0, 1] * jacobian[:, 1, 0]
    )  # fmt: skip
    square = b * b - 4 * a * c
    # c > 0: the smallest positive root is 2c / (-b + root) where that is positive and real.
    bottom = np.sqrt(np.maximum(square, 0)) - b
    real = (square >= 0) & (bottom > 0)
    return np.where(real, 2 * c / np.where(bottom > 0, bottom, 1), np.inf)


def flatten(discs: Discs, check: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
    """UVs (V, 2) in the unit of the points, and the energy of each disc (C,): 1 for an isometry.

    The energy is the area-weighted mean of (s1^2 + s2^2 + s1^-2 + s2^-2) / 4; inf for discs that could not
    be laid without flipped triangles.
    """
    energy = _Energy(discs)
    loops, start = border_loops(discs)
    weights = _cotangents(energy)
    check()
    uv = tutte(discs, loops, start, np.maximum(weights, 0.05))
    check()
    uv *= np.sqrt(energy.disc_area / np.pi)[discs.owner, None]
    # In units of each disc's energy (mean over its area), whose Hessian at an isometry is about 4 L.
    shared = np.maximum(weights, 1e-3) / energy.disc_area[energy.owner][:, None]
    mass = np.bincount(discs.faces.ravel(), np.repeat(energy.share / 3, 3), len(discs.points))
    solver = _factorise(
        _laplacian(discs.faces, 4 * shared, len(discs.points), 1e-4 * mass / energy.disc_area[discs.owner])
    )
    check()
    start_uv = uv
    uv = _as_rigid_as_possible(energy, solver, uv, check)
    single = _SinglePoints(discs, energy)
    everywhere = np.arange(len(uv))
    single.relax(uv, everywhere, 0.1, _UNTANGLING_SWEEPS, check)
    folded = ~np.isfinite(energy.values(energy.jacobians(uv)))
    if folded.any():
        # Folded over for good: back to the start without flips and on from there without any.
        again = folded[discs.owner]
        uv[again] = start_uv[again]
        single.relax(uv, np.flatnonzero(again), np.inf, _RELAXING_SWEEPS, check)
    return _descend(discs, energy, solver, uv, check)


def _as_rigid_as_possible(
    energy: _Energy, solver: SuperLU, uv: np.ndarray, check: Callable[[], None], rounds: int = 20
) -> np.ndarray:
    """Liu et al. 2008, A Local/Global Approach to Mesh Parameterization, with the clamped Laplacian."""
    for _ in range(rounds):
        check()
        jacobian = energy.jacobians(uv)
        turn = np.stack(
            [jacobian[:, 0, 0] + jacobian[:, 1, 1], jacobian[:, 0, 1] - jacobian[:, 1, 0]], axis=1
        )
        turn /= np.maximum(np.linalg.norm(turn, axis=1, keepdims=True), 1e-12)
        rotation = np.empty_like(jacobian)
        rotation[:, 0, 0] = rotation[:, 1, 1] = turn[:, 0]
        rotation[:, 0, 1], rotation[:, 1, 0] = turn[:, 1], -turn[:, 1]
        pull = 4 * energy.share[:, None, None] * (rotation - jacobian)
        uv = uv + solver.solve(energy.adjoint @ pull.reshape(-1, 2))
    return uv


class _SinglePoints:
    """Newton steps of one point at a time."""

    def __init__(self, discs: Discs, energy: _Energy) -> None:
        corners = discs.faces.ravel()
        self.order = np.argsort(corners, kind="stable")
        self.start = np.searchsorted(corners[self.order], np.arange(len(discs.points) + 1))
        self.faces, self.inverse, self.share = discs.faces, energy.inverse, energy.share

    def relax(
        self, uv: np.ndarray, points: np.ndarray, limit: float, sweeps: int, check: Callable[[], None]
    ) -> None:
        """Move the `points` that have a triangle of determinant below `limit`, in place; at most `sweeps`
        times, for a finite limit only until no triangle is flipped."""
        for _ in range(0, sweeps, 10):
            check()
            if not _relax(
                uv, points, self.faces, self.inverse, self.share, self.order, self.start, limit, 10
            ) and np.isfinite(limit):
                break


@kernel
def _local_energy(x, y, point, uv, faces, inverse, share, order, start, soft):
    """Energy of the triangles around one point at (x, y), determinants softened; its derivatives; the
    lowest determinant."""
    value, gx, gy, hxx, hxy, hyy, lowest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.inf
    for k in range(start[point], start[point + 1]):
        f, corner = order[k] // 3, order[k] % 3
        p, q = faces[f, (corner + 1) % 3], faces[f, (corner + 2) % 3]
        # Derivatives of the three corners' basis functions along the two rest axes.
        if corner == 0:
            b0, b1 = -inverse[f, 0, 0] - inverse[f, 1, 0], -inverse[f, 0, 1] - inverse[f, 1, 1]
            c0, c1 = inverse[f, 0, 0], inverse[f, 0, 1]
        elif corner == 1:
            b0, b1 = inverse[f, 0, 0], inverse[f, 0, 1]
            c0, c1 = inverse[f, 1, 0], inverse[f, 1, 1]
        else:
            b0, b1 = inverse[f, 1, 0], inverse[f, 1, 1]
            c0, c1 = -inverse[f, 0, 0] - inverse[f, 1, 0], -inverse[f, 0, 1] - inverse[f, 1, 1]
        px, py, qx, qy = uv[p, 0] - x, uv[p, 1] - y, uv[q, 0] - x, uv[q, 1] - y
        # The three basis functions sum to one: the third's derivative is -(b + c).
        a0, a1 = -b0 - c0, -b1 - c1
        j00, j01 = c0 * px + a0 * qx, c0 * py + a0 * qy
        j10, j11 = c1 * px + a1 * qx, c1 * py + a1 * qy
        determinant = j00 * j11 - j01 * j10
        lowest = min(lowest, determinant)
        root = np.sqrt(determinant * determinant + soft * soft)
        # Garanzha et al. 2021, Foldover-free Maps in 50 Lines of Code, equation 4.
        positive = (determinant + root) / 2
        if positive <= 0.0:
            return np.inf, gx, gy, hxx, hxy, hyy, lowest
        slope = positive / root
        squares = j00 * j00 + j01 * j01 + j10 * j10 + j11 * j11
        inverse_square = 1.0 / (positive * positive)
        first = -2.0 * inverse_square / positive * slope
        second = 6.0 * inverse_square * inverse_square * slope * slope
        nx, ny = 2.0 * (b0 * j00 + b1 * j10), 2.0 * (b0 * j01 + b1 * j11)
        dx, dy = b0 * j11 - b1 * j01, b1 * j00 - b0 * j10
        factor, size = 1.0 + inverse_square, b0 * b0 + b1 * b1
        value += share[f] * squares * factor
        gx += share[f] * (factor * nx + squares * first * dx)
        gy += share[f] * (factor * ny + squares * first * dy)
        hxx += share[f] * (2.0 * size * factor + squares * second * dx * dx)
        hxy += share[f] * squares * second * dx * dy
        hyy += share[f] * (2.0 * size * factor + squares * second * dy * dy)
    return value, gx, gy, hxx, hxy, hyy, lowest


@kernel
def _relax(uv, points, faces, inverse, share, order, start, limit, sweeps):
    """Returns whether a triangle was still flipped in the last sweep."""
    flipped = False
    for _ in range(sweeps):
        flipped = False
        for point in points:
            x, y = uv[point, 0], uv[point, 1]
            lowest = _local_energy(x, y, point, uv, faces, inverse, share, order, start, 1.0)[6]
            if lowest > limit:
                continue
            flipped = flipped or lowest <= 0.0
            soft = 0.0 if lowest > 0.0 else np.sqrt(1e-4 + 0.04 * lowest * lowest)
            value, gx, gy, hxx, hxy, hyy, _ = _local_energy(
                x, y, point, uv, faces, inverse, share, order, start, soft
            )
            bottom = hxx * hyy - hxy * hxy
            if not bottom > 0.0:
                continue
            dx, dy = (hxy * gy - hyy * gx) / bottom, (hxy * gx - hxx * gy) / bottom
            for _ in range(12):
                trial = _local_energy(x + dx, y + dy, point, uv, faces, inverse, share, order, start, soft)
                if trial[0] < value:
                    uv[point, 0], uv[point, 1] = x + dx, y + dy
                    break
                dx, dy = 0.5 * dx, 0.5 * dy
        if not flipped and limit < 1e30:
            break
    return flipped


def _descend(
    discs: Discs, energy: _Energy, solver: SuperLU, uv: np.ndarray, check: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """L-BFGS, every disc by itself. Returns UVs and energies over 4."""
    owner, count = discs.owner, discs.count

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.bincount(owner, a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1], count)

    jacobian = energy.jacobians(uv)
    value = energy.values(jacobian)
    gradient = energy.gradient(jacobian)
    busy = np.isfinite(value)
    slow = np.zeros(count, dtype=np.int64)
    past: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(_ITERATIONS):
        check()
        if not busy.any():
            break
        direction = -_quasi_newton(gradient, past, solver, owner, dot)
        slope = dot(gradient, direction)
        uphill = slope >= 0
        if uphill.any():
            direction = np.where(uphill[owner, None], -solver.solve(gradient), direction)
            slope = dot(gradient, direction)
        direction[~busy[owner]] = 0
        change = energy.jacobians(direction)
        step = np.full(count, np.inf)
        np.minimum.at(step, energy.owner, _longest_step(jacobian, change))
        step = np.minimum(1.0, 0.9 * step)
        new = value
        for _ in range(14):
            new = energy.values(jacobian + step[energy.owner, None, None] * change)
            worse = busy & ~(new <= value + 1e-4 * step * slope)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        stuck = busy & ~(new <= value)
        step[stuck] = 0
        moved = step[owner, None] * direction
        uv = uv + moved
        jacobian = energy.jacobians(uv)
        fresh = energy.gradient(jacobian)
        turned = fresh - gradient
        curvature = dot(moved, turned)
        sound = curvature > 1e-12
        past = [*past[1 - _MEMORY :], (moved, turned, np.where(sound, 1 / np.where(sound, curvature, 1), 0))]
        gradient = fresh
        new = np.where(stuck, value, new)
        with np.errstate(invalid="ignore"):
            slow = np.where(value - new > _TOLERANCE * (new - 4) + 1e-6, 0, slow + 1)
        busy &= ~stuck & (slow < 2)
        value = new
    return uv, value / 4


def _quasi_newton(
    gradient: np.ndarray, past: list[tuple[np.ndarray, np.ndarray, np.ndarray]], solver: SuperLU,
    owner: np.ndarray, dot: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """The two-loop recursion (Nocedal 1980), the inverse Laplacian in its middle."""
    q = gradient.copy()
    used = []
    for moved, turned, rho in reversed(past):
        alpha = rho * dot(moved, q)
        q -= alpha[owner, None] * turned
        used.append(alpha)
    q = solver.solve(q)
    for (moved, turned, rho), alpha in zip(past, reversed(used), strict=True):
        beta = rho * dot(turned, q)
        q += (alpha - beta)[owner, None] * moved
    return q


def _cotangents(energy: _Energy) -> np.ndarray:
    """(F, 3) half cotangents at the corners, of the rest shapes."""
    edges = np.linalg.inv(energy.inverse)  # columns are the edges from corner 0
    first, second = edges[:, :, 0], edges[:, :, 1]
    third = second - first

    def cotangent(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("fi,fi->f", a, b) / (2 * energy.area)

    return (
        np.stack([cotangent(first, second), cotangent(-first, third), cotangent(-second, -third)], axis=1) / 2
    )


@kernel
def _crosses(points):
    """Two sides of a closed polygon (N, 2) that touch and are not neighbours; -1, -1 if there are none."""
    count = points.shape[0]
    for i in range(count):
        ax, ay = points[i, 0], points[i, 1]
        bx, by = points[(i + 1) % count, 0], points[(i + 1) % count, 1]
        left, right, low, high = min(ax, bx), max(ax, bx), min(ay, by), max(ay, by)
        for j in range(i + 2, count):
            if i == 0 and j == count - 1:
                continue
            cx, cy = points[j, 0], points[j, 1]
            dx, dy = points[(j + 1) % count, 0], points[(j + 1) % count, 1]
            if max(cx, dx) < left or min(cx, dx) > right or max(cy, dy) < low or min(cy, dy) > high:
                continue
            c_side = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            d_side = (bx - ax) * (dy - ay) - (by - ay) * (dx - ax)
            a_side = (dx - cx) * (ay - cy) - (dy - cy) * (ax - cx)
            b_side = (dx - cx) * (by - cy) - (dy - cy) * (bx - cx)
            if c_side * d_side <= 0.0 and a_side * b_side <= 0.0:
                return i, j
    return -1, -1


def crossings(discs: Discs, uv: np.ndarray) -> np.ndarray:
    """(C, 2) int64: tails of two border edges of each disc that cross, -1 if none do.

    A disc without flipped triangles whose border does not cross itself covers nothing twice.
    """
    loops, start = border_loops(discs)
    border = np.ascontiguousarray(uv[loops])
    found = [_crosses(border[a:b]) for a, b in itertools.pairwise(start.tolist())]
    return np.array(
        [
            (loops[a + i], loops[a + j]) if i >= 0 else (-1, -1)
            for a, (i, j) in zip(start, found, strict=False)
        ]
    )
