"""Rotation of Gaussians: positions, quaternions and the spherical harmonics that make up their colour."""

from functools import cache

import numpy as np

from shared_protocol.splats.arrays import StoredSplats

WORLD_FROM_Y_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""(x, y, z) with +Y up (glTF, SPZ's right-up-back) -> (x, -z, y) with +Z up; as
`conventions.world_from_gltf`."""
Y_UP_FROM_WORLD = WORLD_FROM_Y_UP.T

_BLOCK = 4096
"""Gaussians turned at a time, so that they stay in the cache."""
_ROUNDING = 1e-12
"""Entries of a rotation below this are zero but for rounding."""


def turn(stored: StoredSplats, rotation: np.ndarray) -> StoredSplats:
    """The Gaussians after the world is turned by `rotation`.

    rotation (3, 3) orthonormal, determinant +1; a view from a direction turned with them looks the same
    """
    w, x, y, z = _quaternion(rotation)
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return stored._replace(
        positions=_times(stored.positions, rotation),
        rotations=_times(stored.rotations, left),
        harmonics=_turn_harmonics(stored.harmonics, all_bands(rotation, stored.harmonics.shape[1])),
    )


def _times(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(G, n) float32 vectors times (n, n): written out, since a BLAS of many threads spends more time on
    such thin matrices than they take, and might add in another order on another day."""
    result = np.zeros_like(vectors)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        result[:, row] += np.float32(matrix[row, column]) * vectors[:, column]
    return result


def _turn_harmonics(harmonics: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """(G, K, 3) float32 by bands (K, K)."""
    count, coefficients = harmonics.shape[:2]
    if coefficients == 1:
        return harmonics
    entries = [
        (row, column, np.float32(bands[row, column]))
        for row, column in zip(*np.nonzero(np.abs(bands) > _ROUNDING), strict=True)
    ]
    result = np.empty((count, coefficients, 3), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        # Gaussians along the last axis, so that every sum runs over contiguous numbers.
        block = np.ascontiguousarray(harmonics[start : start + _BLOCK].transpose(1, 2, 0))
        turned = np.zeros_like(block)
        for row, column, factor in entries:
            turned[row] += factor * block[column]
        result[start : start + _BLOCK] = turned.transpose(2, 0, 1)
    return result


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) -> (4,) wxyz: the eigenvector of Bar-Itzhack's symmetric matrix (2000), stable for all."""
    m = rotation
    symmetric = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quaternion = np.linalg.eigh(symmetric, UPLO="U")[1][:, -1]
    return quaternion * (1 if quaternion[np.argmax(np.abs(quaternion))] > 0 else -1)


def all_bands(rotation: np.ndarray, coefficients: int) -> np.ndarray:
    """(K, K) float64 matrix that turns the K coefficients of INRIA's harmonics."""
    result = np.zeros((coefficients, coefficients))
    start, band = 0, np.ones((1, 1))
    for degree in range(round(coefficients**0.5)):
        if degree:
            band = _next_band(rotation, band, degree)
        # Ivanic's harmonics carry no Condon-Shortley sign, INRIA's do.
        sign = (-1.0) ** np.arange(2 * degree + 1)
        end = start + 2 * degree + 1
        result[start:end, start:end] = band * np.outer(sign, sign)
        start = end
    return result


def _next_band(rotation: np.ndarray, previous: np.ndarray, degree: int) -> np.ndarray:
    """Rotation of the real harmonics of `degree` from that of the degree below.

    Ivanic and Ruedenberg, J. Phys. Chem. 1996, 100, 6342, with the corrections of 1998, 102, 9099:
    tables 1 and 2. Rows and columns run over m = -degree..degree.
    """
    first = rotation[np.ix_((1, 2, 0), (1, 2, 0))]  # degree 1 is (y, z, x)
    if degree == 1:
        return first

    def below(a: int, b: int) -> float:
        return previous[a + degree - 1, b + degree - 1]

    def p(i: int, a: int, b: int) -> float:
        if abs(b) < degree:
            return first[i + 1, 1] * below(a, b)
        s = 1 if b > 0 else -1
        end = s * (degree - 1)
        return first[i + 1, 2] * below(a, end) - s * first[i + 1, 0] * below(a, -end)

    size = 2 * degree + 1
    band = np.zeros((size, size))
    for m in range(-degree, degree + 1):
        for n in range(-degree, degree + 1):
            u, v, w = _weights(m, n, degree)
            total = 0.0
            if u:
                total += u * p(0, m, n)
            if v:
                total += v * _second(p, m, n)
            if w:
                s = 1 if m > 0 else -1
                total += w * (p(1, m + s, n) + s * p(-1, -m - s, n))
            band[m + degree, n + degree] = total
    return band


def _second(p, m: int, n: int) -> float:
    """V of table 2."""
    if m == 0:
        return p(1, 1, n) + p(-1, -1, n)
    if m > 0:
        return p(1, m - 1, n) * (2**0.5 if m == 1 else 1) - (0 if m == 1 else p(-1, 1 - m, n))
    return p(-1, -m - 1, n) * (2**0.5 if m == -1 else 1) + (0 if m == -1 else p(1, m + 1, n))


@cache
def _weights(m: int, n: int, degree: int) -> tuple[float, float, float]:
    """u, v, w of table 1."""
    zero, a = float(m == 0), abs(m)
    below = (degree + n) * (degree - n) if abs(n) < degree else 2 * degree * (2 * degree - 1)
    u = ((degree + m) * (degree - m) / below) ** 0.5
    v = 0.5 * ((1 + zero) * (degree + a - 1) * (degree + a) / below) ** 0.5 * (1 - 2 * zero)
    w = -0.5 * ((degree - a - 1) * (degree - a) / below) ** 0.5 * (1 - zero)
    return u, v, w
