"""Pictures kept as 8 bits a channel: a quarter of float32, which they become one by one as they are used."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np


class EightBit(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of float32 from 0 to 1 that is kept as uint8 steps of 1/255, as a picture file holds them.

    What is taken out of it (`stack[3]`, `stack[..., 3]`) is a float32 array of its own; numpy's functions
    take the whole of it as one. It cannot be written to.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, levels: np.ndarray) -> None:
        """levels: uint8, any shape; not copied."""
        self.levels = levels

    @classmethod
    def of(cls, values: "np.ndarray | EightBit") -> Self:
        """Rounded to the nearest steps."""
        return cls(levels_of(values))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.levels.shape

    @property
    def ndim(self) -> int:
        return self.levels.ndim

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> np.ndarray:
        values = self.levels[key].astype(np.float32)
        values /= 255
        return values

    def take(self, key: Any) -> Self:
        """As `stack[key]`, still 8 bits."""
        return type(self)(self.levels[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[...]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        plain = [value[...] if isinstance(value, EightBit) else value for value in inputs]
        return getattr(ufunc, method)(*plain, **keywords)


def levels_of(values: np.ndarray | EightBit) -> np.ndarray:
    """float 0..1 -> uint8, rounded; any shape."""
    if isinstance(values, EightBit):
        return values.levels
    steps = np.clip(values, 0.0, 1.0)
    steps *= 255
    return np.rint(steps, out=steps).astype(np.uint8)
