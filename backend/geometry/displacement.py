"""A smooth displacement of one picture, fitted to what is known of it here and there: cubic B-splines.

On a lattice of knots far apart (Rueckert 1999, "Nonrigid registration using free-form deformations"), bent as
little as the observations allow, and held near zero, so that what nothing was observed of stays in place.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.jit import kernel

_BENDING, _HELD = 2.0, 0.05
"""Precision (1 / length^2) of second differences between knots, and of their values: those of fields of
standard deviation 1 that are smooth over one spacing of knots."""


@dataclass(frozen=True)
class Observed:
    """Components of the displacement: along . u(at) = amount.

    at, along (P, 2) float64: pixel indices x, y (0 in the middle of the first pixel); directions
    amount    (P,) float64, in the unit of length that the field is to have
    weight    (P,) float64, 1 / length^2
    """

    at: np.ndarray
    along: np.ndarray
    amount: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Equations:
    """form @ x = right, of coefficients x (2 K,): both components of the first knot, of the second, ..."""

    form: np.ndarray
    right: np.ndarray


@kernel
def _solve_banded(form, right, reach):
    """Cholesky's solution in place of `right`; `form` (n, n), zero beyond `reach` diagonals, is used up.

    LAPACK's would do, but its threads wait for one another on machines that have other work.
    """
    for i in range(len(form)):
        first = max(0, i - reach)
        for j in range(first, i + 1):
            total = form[i, j]
            for k in range(max(first, j - reach), j):
                total -= form[i, k] * form[j, k]
            form[i, j] = total / form[j, j] if j < i else np.sqrt(total)
        total = right[i]
        for k in range(first, i):
            total -= form[i, k] * right[k]
        right[i] = total / form[i, i]
    for i in range(len(form) - 1, -1, -1):
        right[i] /= form[i, i]
        for k in range(max(0, i - reach), i):
            right[k] -= form[i, k] * right[i]


def _basis(position: np.ndarray, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, 4) int64 knots and (P, 4) float64 their weights, at positions (P,) in knot spacings."""
    first = np.clip(np.floor(position).astype(np.int64), 0, knots - 4)
    t = position - first
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    return first[:, None] + np.arange(4), weights / 6


class SmoothDisplacement:
    """Displacements of a picture of `width` x `height` pixels; knots every `spacing` pixels.

    In a unit of length of which displacements are about one.
    """

    def __init__(self, width: int, height: int, spacing: float) -> None:
        self._picture, self._spacing = (width, height), spacing
        self._knots = tuple(int(np.ceil((n - 1) / spacing)) + 3 for n in (width, height))
        self._stiffness = self._energy()

    @property
    def size(self) -> int:
        """How many coefficients the field has, of two components each."""
        return len(self._stiffness)

    def _energy(self) -> np.ndarray:
        """(K, K): the quadratic form of bending and of size."""
        across, down = (np.eye(n) for n in self._knots)
        first = [np.diff(m, axis=0) for m in (across, down)]
        second = [np.diff(m, axis=0) for m in first]
        form = _HELD * np.eye(len(across) * len(down))
        for times, (y, x) in ((1, (down, second[0])), (1, (second[1], across)), (2, (first[1], first[0]))):
            form += times * _BENDING * np.kron(y.T @ y, x.T @ x)
        return form

    def _rows(self, at: np.ndarray):
        """Sparse (P, K): the value at points `at` (P, 2) for coefficients (K,)."""
        from scipy.sparse import csr_matrix

        columns, across = _basis(at[:, 0] / self._spacing, self._knots[0])
        rows, down = _basis(at[:, 1] / self._spacing, self._knots[1])
        index = rows[:, :, None] * self._knots[0] + columns[:, None, :]
        weight = down[:, :, None] * across[:, None, :]
        ends = 16 * np.arange(len(at) + 1)
        return csr_matrix((weight.ravel(), index.ravel(), ends), shape=(len(at), len(self._stiffness)))

    def asked(self, *observed: Observed) -> Equations:
        """The normal equations of the observations."""
        form, right = np.zeros((2 * self.size, 2 * self.size)), np.zeros(2 * self.size)
        for part in observed:
            rows = self._rows(part.at)
            used = [axis for axis in range(2) if part.along[:, axis].any()]
            for i in used:
                heavy = rows.T.multiply(part.weight * part.along[:, i]).tocsr()
                right[i::2] += heavy @ part.amount
                for j in used:
                    form[i::2, j::2] += (heavy @ rows.multiply(part.along[:, j, None]).tocsr()).toarray()
        return Equations(form, right)

    def fit(self, *asked: Equations) -> np.ndarray:
        """(K, 2) coefficients: the least squares of all that is asked and of the field's own energy."""
        form, right = (sum(parts) for parts in zip(*((e.form, e.right) for e in asked), strict=True))
        for axis in range(2):
            form[axis::2, axis::2] += self._stiffness
        # Splines that share a patch are at most three rows and three columns of knots apart.
        _solve_banded(form, right, 2 * (3 * self._knots[0] + 3) + 1)
        return right.reshape(self.size, 2)

    def at(self, coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(P, 2) float64: the displacement at points (P, 2)."""
        return self._rows(points) @ coefficients

    def everywhere(self, coefficients: np.ndarray, width: int, height: int) -> np.ndarray:
        """(height, width, 2) float32: the displacement at every pixel of the picture in another size."""
        tables = []
        for own, size, knots in zip(self._picture, (width, height), self._knots, strict=True):
            position = ((np.arange(size) + 0.5) * own / size - 0.5).clip(0, own - 1) / self._spacing
            index, weight = _basis(position, knots)
            table = np.zeros((size, knots))
            np.put_along_axis(table, index, weight, axis=1)
            tables.append(table)
        lattice = coefficients.reshape(self._knots[1], self._knots[0], 2)
        return np.einsum("yr,rcd,xc->yxd", tables[1], lattice, tables[0], optimize=True).astype(np.float32)
