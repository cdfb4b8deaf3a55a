"""Gaussians carried through an affine map: positions, shapes, and harmonics turned with them."""

import numpy as np

from shared_protocol.splats.arrays import StoredSplats, unit_quaternions
from shared_protocol.splats.turn import turn

_SAME = 1e-6
"""Matrices that differ by less are taken as equal: what float32 transforms leave."""


def is_identity(matrix: np.ndarray) -> bool:
    """Whether a (4, 4) matrix moves nothing."""
    return bool(np.abs(matrix - np.eye(4)).max() < _SAME)


def transformed(stored: StoredSplats, matrix: np.ndarray) -> StoredSplats:
    """The Gaussians after x -> matrix x, (4, 4) affine.

    An identity changes no bit. Positions and covariances are exact for every matrix. Harmonics are
    functions of the direction of sight: a rotation, a mirroring and an even scale turn them exactly; for
    an uneven one they follow the nearest rotation, since a stretched function of that kind is none.
    """
    if is_identity(matrix):
        return stored
    linear, shift = np.asarray(matrix, np.float64)[:3, :3], np.asarray(matrix, np.float64)[:3, 3]
    left, stretch, right = np.linalg.svd(linear)
    nearest = left @ right
    mirrored = np.linalg.det(nearest) < 0
    # A mirroring is the point reflection after a rotation: odd functions change their sign.
    turned = turn(stored, -nearest if mirrored else nearest)
    harmonics = turned.harmonics
    if mirrored:
        harmonics = harmonics.copy()
        for band in range(1, round(harmonics.shape[1] ** 0.5), 2):
            harmonics[:, band * band : (band + 1) ** 2] *= -1
    positions = stored.positions @ linear.T.astype(np.float32) + shift.astype(np.float32)
    if np.ptp(stretch) < _SAME * stretch[0]:
        scales, rotations = stored.log_scales + np.float32(np.log(stretch.mean())), turned.rotations
    else:
        scales, rotations = _stretched(stored, linear)
    return stored._replace(
        positions=positions, log_scales=scales, rotations=rotations, harmonics=np.ascontiguousarray(harmonics)
    )


def _stretched(stored: StoredSplats, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, 3) logarithms of the scales and (G, 4) rotations: axes of the covariance carried through."""
    axes = linear @ matrices(unit_quaternions(stored.rotations)).astype(np.float64)
    axes *= np.exp(stored.log_scales.astype(np.float64))[:, None, :]
    left, scales, _ = np.linalg.svd(axes)
    left[:, :, 2] *= np.sign(np.linalg.det(left))[:, None]
    with np.errstate(divide="ignore"):
        return np.log(scales).astype(np.float32), quaternions(left).astype(np.float32)


def matrices(rotations: np.ndarray) -> np.ndarray:
    """(G, 4) unit quaternions wxyz -> (G, 3, 3)."""
    w, x, y, z = rotations.T
    result = np.empty((len(rotations), 3, 3), rotations.dtype)
    result[:, 0, 0] = 1 - 2 * (y * y + z * z)
    result[:, 0, 1] = 2 * (x * y - w * z)
    result[:, 0, 2] = 2 * (x * z + w * y)
    result[:, 1, 0] = 2 * (x * y + w * z)
    result[:, 1, 1] = 1 - 2 * (x * x + z * z)
    result[:, 1, 2] = 2 * (y * z - w * x)
    result[:, 2, 0] = 2 * (x * z - w * y)
    result[:, 2, 1] = 2 * (y * z + w * x)
    result[:, 2, 2] = 1 - 2 * (x * x + y * y)
    return result


def quaternions(rotations: np.ndarray) -> np.ndarray:
    """(G, 3, 3) -> (G, 4) wxyz: the row of q q^T with the largest diagonal (Shepperd 1978)."""
    m = rotations
    diagonal = m[:, (0, 1, 2), (0, 1, 2)]
    squares = np.empty((len(m), 4))  # 4 w^2, 4 x^2, ...
    squares[:, 0] = 1 + diagonal.sum(axis=1)
    squares[:, 1:] = 1 + 2 * diagonal - diagonal.sum(axis=1, keepdims=True)
    outer = np.empty((len(m), 4, 4))
    outer[:, range(4), range(4)] = squares
    for i, j, value in (
        (0, 1, m[:, 2, 1] - m[:, 1, 2]),
        (0, 2, m[:, 0, 2] - m[:, 2, 0]),
        (0, 3, m[:, 1, 0] - m[:, 0, 1]),
        (1, 2, m[:, 1, 0] + m[:, 0, 1]),
        (1, 3, m[:, 0, 2] + m[:, 2, 0]),
        (2, 3, m[:, 2, 1] + m[:, 1, 2]),
    ):
        outer[:, i, j] = outer[:, j, i] = value
    chosen = outer[np.arange(len(m)), squares.argmax(axis=1)]
    return chosen / np.linalg.norm(chosen, axis=1, keepdims=True)


def joined(parts: list[StoredSplats]) -> StoredSplats:
    """All of them, one after another; missing harmonics are zero."""
    if len(parts) == 1:
        return parts[0]
    most = max(part.harmonics.shape[1] for part in parts)
    harmonics = [np.zeros((part.count, most, 3), np.float32) for part in parts]
    for into, part in zip(harmonics, parts, strict=True):
        into[:, : part.harmonics.shape[1]] = part.harmonics
    whole = [part._replace(harmonics=h) for part, h in zip(parts, harmonics, strict=True)]
    return StoredSplats(*(np.concatenate(columns) for columns in zip(*whole, strict=True)))
