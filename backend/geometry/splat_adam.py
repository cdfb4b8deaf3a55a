"""Adam (Kingma 2015), fused, over the rows that a step has seen."""

import numpy as np

from backend.geometry.jit import kernel

_BETA1, _BETA2 = 0.9, 0.999
_EPSILON = np.float32(1e-15)
"""As 3DGS: gradients are tiny, so the usual 1e-8 would drown them."""
_KEEP1, _KEEP2, _ONE = np.float32(_BETA1), np.float32(_BETA2), np.float32(1)


@kernel
def _step(values, gradient, first, second, rates, steps, seen, unbias1, unbias2):
    """values, gradient, first, second (G, C); rates (C,); steps (G,) taken so far; seen (G,) bool.

    unbias1, unbias2: 1 / (1 - beta1^n) and 1 / sqrt(1 - beta2^n) by number of steps n.
    """
    for i in range(len(values)):
        if not seen[i]:
            continue
        correct1, correct2 = unbias1[steps[i]], unbias2[steps[i]]
        for j in range(values.shape[1]):
            g = gradient[i, j]
            m = _KEEP1 * first[i, j] + (_ONE - _KEEP1) * g
            v = _KEEP2 * second[i, j] + (_ONE - _KEEP2) * g * g
            first[i, j], second[i, j] = m, v
            values[i, j] -= rates[j] * correct1 * m / (np.sqrt(v) * correct2 + _EPSILON)


class Adam:
    """Moments of named arrays of G rows each; `step` changes the arrays in place.

    A row that is not seen keeps its values, its moments and its own count of steps, so the correction of
    the bias stays right for it ("sparse" Adam; with all rows seen it is plain Adam).
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        """arrays: (G, ...) float32 C-contiguous, not copied."""
        self._values = {name: _rows(array) for name, array in arrays.items()}
        self._first = {name: np.zeros_like(array) for name, array in self._values.items()}
        self._second = {name: np.zeros_like(array) for name, array in self._values.items()}
        self._steps = np.zeros(len(next(iter(arrays.values()))), dtype=np.int32)
        self._most = 0
        self._unbias = (np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))

    def step(self, gradients: dict[str, np.ndarray], rates: dict[str, np.ndarray], seen: np.ndarray) -> None:
        """gradients of the arrays, same shapes; rates by column of the flattened rows, float32; seen (G,)."""
        self._steps += seen
        self._most += 1
        if self._most >= len(self._unbias[0]):
            n = np.arange(2 * self._most + 64, dtype=np.float64)
            n[0] = 1  # nobody asks for it
            self._unbias = (
                (1 / (1 - _BETA1**n)).astype(np.float32),
                (1 / np.sqrt(1 - _BETA2**n)).astype(np.float32),
            )
        for name, values in self._values.items():
            _step(
                values, _rows(gradients[name]), self._first[name], self._second[name], rates[name],
                self._steps, seen, *self._unbias,
            )  # fmt: skip

    @classmethod
    def resumed(
        cls, arrays: dict[str, np.ndarray], moments: dict[str, tuple[np.ndarray, np.ndarray]]
    ) -> "Adam":
        """For arrays whose first and second moments, of their shapes, come from elsewhere."""
        result = cls(arrays)
        for name, (first, second) in moments.items():
            result._first[name], result._second[name] = _rows(first), _rows(second)
        return result

    def moments(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """First and second moments of an array, (G, C)."""
        return self._first[name], self._second[name]

    def forget(self, name: str) -> None:
        """Back to no moments for this array."""
        self._first[name][...] = self._second[name][...] = 0

    def rearranged(self, arrays: dict[str, np.ndarray], source: np.ndarray, fresh: np.ndarray) -> "Adam":
        """For new arrays whose row i comes from row source[i] of the old ones; fresh rows start at zero."""
        result = Adam(arrays)
        for name in arrays:
            result._first[name] = self._first[name][source]
            result._second[name] = self._second[name][source]
            result._first[name][fresh] = result._second[name][fresh] = 0
        result._steps = self._steps[source]
        result._steps[fresh] = 0
        result._most, result._unbias = self._most, self._unbias
        return result


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)
