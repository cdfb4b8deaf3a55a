"""Quaternions (wxyz) and rotation matrices, in numpy."""

import numpy as np


def rotation_matrices(quaternions: np.ndarray) -> np.ndarray:
    """Quaternions (G, 4) wxyz of any length -> (G, 3, 3) float64; columns are the local axes."""
    q = np.asarray(quaternions, dtype=np.float64)
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )


def quaternions_to_axis_z(normals: np.ndarray) -> np.ndarray:
    """Unit vectors (G, 3) -> the shortest rotations (G, 4) float32 that carry +Z onto them."""
    n = np.asarray(normals, dtype=np.float64)
    # Half-way formula: q = (1 + z.n, z x n); at n = -Z turn by 180 degrees about X.
    quaternions = np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))], axis=1)
    opposite = quaternions[:, 0] < 1e-9
    quaternions[opposite] = (0, 1, 0, 0)
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    return quaternions.astype(np.float32)
