"""Laplace and Poisson problems inside a mask with a sub-pixel contour.

Five-point stencil; where a neighbour lies outside, the contour at distance theta takes its place
(Gibou 2002, symmetric second-order treatment), so heights show no stair-steps of the mask.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

_LEAST_THETA = 0.05


@dataclass(frozen=True)
class MaskProblem:
    """A factored Laplacian inside a mask.

    inside  (H, W) bool
    links   (L, 2) int64: number of the inside cell, flat index of its outside neighbour
    weight  (L,) conductivity / theta of each link
    """

    inside: np.ndarray
    links: np.ndarray
    weight: np.ndarray
    factor: object

    def inflate(self) -> np.ndarray:
        """(H, W) float64: solution of laplacian = -4, zero on the contour, per cell squared.

        On a disc of radius R it is R^2 - r^2, so that its square root is the half sphere.
        """
        result = np.zeros(self.inside.shape)
        result[self.inside] = self.factor.solve(np.full(int(self.inside.sum()), 4.0))
        return np.maximum(result, 0)

    def fill(self, contour: np.ndarray) -> np.ndarray:
        """(H, W, C) float64: the harmonic function with `contour` (L, C) values at the links."""
        count = int(self.inside.sum())
        result = np.zeros((*self.inside.shape, contour.shape[1]))
        for channel in range(contour.shape[1]):
            load = np.bincount(self.links[:, 0], self.weight * contour[:, channel], count)
            result[self.inside, channel] = self.factor.solve(load)
        return result


def mask_problem(
    alpha: np.ndarray,
    level: float = 0.5,
    *,
    vertical: float = 1.0,
    base_row: float = np.inf,
    base_depth: float = 1.0,
) -> MaskProblem:
    """Set up and factor the Laplacian inside alpha > level; alpha (H, W), its outermost pixels outside.

    vertical    conductivity between rows, relative to that between columns
    base_row    from this row on, the contour below a cell is `base_depth` cells away: the solution does
                not drop to zero there
    """
    alpha = np.pad(alpha[1:-1, 1:-1].astype(np.float64), 1)
    inside = alpha > level
    width = alpha.shape[1]
    number = np.full(alpha.shape, -1, dtype=np.int64)
    number[inside] = np.arange(int(inside.sum()))
    cells = np.flatnonzero(inside)
    flat_number, flat_alpha = number.ravel(), alpha.ravel()
    diagonal = np.zeros(len(cells))
    rows, columns, values, links, weights = [], [], [], [], []
    for step, conductivity in ((1, 1.0), (-1, 1.0), (width, vertical), (-width, vertical)):
        neighbour = cells + step
        there = flat_number[neighbour]
        within = there >= 0
        rows.append(np.flatnonzero(within))
        columns.append(there[within])
        values.append(np.full(int(within.sum()), -conductivity))
        diagonal[within] += conductivity
        out = ~within
        a, b = flat_alpha[cells[out]], flat_alpha[neighbour[out]]
        theta = np.clip((a - level) / (a - b), _LEAST_THETA, 1)
        if step == width:
            theta = np.where(cells[out] // width >= base_row, base_depth, theta)
        weight = conductivity / theta
        diagonal[out] += weight
        links.append(np.stack([np.flatnonzero(out), neighbour[out]], axis=-1))
        weights.append(weight)
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    count = len(cells)
    everything = np.arange(count)
    matrix = csc_matrix(
        (np.concatenate([*values, diagonal]),
         (np.concatenate([rows, everything]), np.concatenate([columns, everything]))),
        shape=(count, count),
    )  # fmt: skip
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0)
    return MaskProblem(inside, np.concatenate(links), np.concatenate(weights), factor)
