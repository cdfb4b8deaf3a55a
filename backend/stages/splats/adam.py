"""Adam (Kingma 2015), fused, on flat float32 arrays."""

import numpy as np

from backend.geometry.jit import kernel

_BETA1, _BETA2 = 0.9, 0.999
_EPSILON = 1e-15
"""As 3DGS: gradients are tiny, so the usual 1e-8 would drown them."""


@kernel
def _step(values, gradient, first, second, rate, keep1, keep2, root, epsilon):
    one = np.float32(1)
    for i in range(len(values)):
        g = gradient[i]
        first[i] = keep1 * first[i] + (one - keep1) * g
        second[i] = keep2 * second[i] + (one - keep2) * g * g
        values[i] -= rate * first[i] / (np.sqrt(second[i]) * root + epsilon)


class Adam:
    """Moments of one array; `step` changes the array in place."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values.reshape(-1)
        self._first = np.zeros_like(self._values)
        self._second = np.zeros_like(self._values)
        self._steps = 0

    def step(self, gradient: np.ndarray, rate: float) -> None:
        """gradient: same shape as the values, float32; rate: learning rate."""
        self._steps += 1
        unbiased = rate / (1 - _BETA1**self._steps)
        root = 1 / np.sqrt(1 - _BETA2**self._steps)
        _step(
            self._values, gradient.reshape(-1), self._first, self._second, np.float32(unbiased),
            np.float32(_BETA1), np.float32(_BETA2), np.float32(root), np.float32(_EPSILON),
        )  # fmt: skip
