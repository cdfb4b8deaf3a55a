"""Random Gaussians and their comparison."""

import numpy as np

from shared_protocol.splats.arrays import StoredSplats


def random_splats(count: int, coefficients: int, seed: int = 3) -> StoredSplats:
    """Gaussians over all that the packed formats can hold: colours about 0..1, scales 0.1 mm to 2.7 m."""
    random = np.random.default_rng(seed)
    rotations = random.normal(size=(count, 4))
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    harmonics = random.normal(0, 0.3, (count, coefficients, 3))
    harmonics[:, 0] = random.uniform(-1.7, 1.7, (count, 3))
    return StoredSplats(
        random.normal(size=(count, 3)).astype(np.float32),
        random.uniform(-9, 1, (count, 3)).astype(np.float32),
        rotations.astype(np.float32),
        random.uniform(-6, 6, count).astype(np.float32),
        harmonics.astype(np.float32),
    )


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quaternions (G, 4), any length -> radians between the rotations."""
    a, b = (
        q.astype(np.float64) / np.linalg.norm(q.astype(np.float64), axis=1, keepdims=True) for q in (a, b)
    )
    return 4 * np.arcsin(
        np.minimum(np.minimum(np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)) / 2, 1)
    )
