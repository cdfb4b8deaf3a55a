"""Layers of a convolutional network on (H, W, C) float32 pictures, and their gradients to the input.

Matrix products do the work, cut into bands of a fixed size for our own pool: BLAS runs on one thread, so
that the sums, and with them the bits, do not depend on the number of cores.
"""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from backend.geometry.parallel import map_parallel

_BAND_PIXELS = 512
"""Pixels a band: large enough for BLAS, small enough for the cache."""
_BLUR = (0.25, 0.5, 0.25)


class _OneBlasThread:
    """Context in which this process's BLAS leaves the cores to our pool; threads may enter it together.

    Left to itself it starts threads that wait by spinning: ten times the CPU time on a busy machine. What
    was set before comes back at the end, so that other stages' sums do not depend on who ran before them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limits = _blas().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limits.restore_original_limits()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


one_blas_thread = _OneBlasThread()


@dataclass(frozen=True)
class Convolution:
    """A k x k convolution with zeros beyond the border.

    forward   (k * k * C, D), rows ordered y, x, channel
    backward  (k * k * D, C), the same numbers for the gradient
    bias      (D,)
    """

    size: int
    padding: int
    stride: int
    forward: np.ndarray
    backward: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, bias: np.ndarray, padding: int, stride: int = 1) -> "Convolution":
        """weight (D, C, k, k) as PyTorch orders it."""
        size = weight.shape[2]
        forward = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
        backward = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1).reshape(-1, weight.shape[1])
        return cls(size, padding, stride, np.ascontiguousarray(forward), np.ascontiguousarray(backward), bias)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (H', W', D)."""
        result = _convolve(_pad(x, self.padding), self.forward, self.size, self.stride)
        result += self.bias
        return result

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """dL/doutput (H', W', D) -> dL/dinput (H, W, C); for stride 1."""
        return _convolve(_pad(g, self.size - 1 - self.padding), self.backward, self.size, 1)

    def gradient_to_few(self, g: np.ndarray, height: int, width: int) -> np.ndarray:
        """As `gradient`, for any stride and an input of few channels: spreads windows, gathers none."""
        k, p, s, c = self.size, self.padding, self.stride, self.backward.shape[1]
        across = g.shape[1]

        def one(band: tuple[int, int]) -> np.ndarray:
            start, stop = band
            rows = stop - start
            windows = (g[start:stop].reshape(-1, g.shape[2]) @ self.forward.T).reshape(rows, across, k, k * c)
            columns = np.zeros(((rows - 1) * s + k, across, k * c), np.float32)
            for y in range(k):
                columns[y : y + (rows - 1) * s + 1 : s] += windows[:, :, y]
            strip = np.zeros((len(columns), width + 2 * p, c), np.float32)
            for x in range(k):
                strip[:, x : x + (across - 1) * s + 1 : s] += columns[:, :, x * c : (x + 1) * c]
            return strip

        tasks = _bands(len(g), across)
        result = np.zeros((height + 2 * p, width + 2 * p, c), np.float32)
        for (start, _), strip in zip(tasks, map_parallel(one, tasks), strict=True):
            result[start * s : start * s + len(strip)] += strip
        return result[p : p + height, p : p + width]


@dataclass(frozen=True)
class BlurredConvolution:
    """A convolution of few channels and the blur-pool behind it.

    Both are linear: together they are one convolution of stride 2 with a kernel two pixels wider, a third of
    the work. Only the reflected border differs. Where the convolution's output has an odd length, its first
    and last blurred places equal their neighbours; even lengths take the two steps one by one.
    """

    plain: Convolution
    merged: Convolution

    @classmethod
    def of(cls, weight: np.ndarray, bias: np.ndarray, padding: int) -> "BlurredConvolution":
        """weight (D, C, k, k) as PyTorch orders it."""
        size = weight.shape[2]
        wide = np.zeros((*weight.shape[:2], size + 2, size + 2), np.float32)
        for y, row in enumerate(_BLUR):
            for x, column in enumerate(_BLUR):
                wide[:, :, y : y + size, x : x + size] += np.float32(row * column) * weight
        return cls(Convolution.of(weight, bias, padding), Convolution.of(wide, bias, padding + 2, stride=2))

    def _mergeable(self, height: int, width: int) -> bool:
        reach = 2 * self.plain.padding - self.plain.size + 1
        return (height + reach) % 2 == 1 and (width + reach) % 2 == 1

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (H', W', D)."""
        if not self._mergeable(*x.shape[:2]):
            return blur_pool(self.plain(x))
        result = self.merged(x)
        result[0], result[-1] = result[1], result[-2]
        result[:, 0], result[:, -1] = result[:, 1], result[:, -2]
        return result

    def gradient(self, g: np.ndarray, height: int, width: int) -> np.ndarray:
        """dL/doutput (H', W', D) -> dL/dinput (height, width, C)."""
        if not self._mergeable(height, width):
            reach = 2 * self.plain.padding - self.plain.size + 1
            g = blur_pool_gradient(g, height + reach, width + reach)
            return self.plain.gradient_to_few(g, height, width)
        g = g.copy()
        for lines in (g, g.swapaxes(0, 1)):
            lines[1] += lines[0]
            lines[-2] += lines[-1]
            lines[0] = lines[-1] = 0
        return self.merged.gradient_to_few(g, height, width)


def _pad(x: np.ndarray, border: int) -> np.ndarray:
    padded = np.zeros((x.shape[0] + 2 * border, x.shape[1] + 2 * border, x.shape[2]), np.float32)
    padded[border : border + x.shape[0], border : border + x.shape[1]] = x
    return padded


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    rows = max(1, _BAND_PIXELS // width)
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]


def _convolve(padded: np.ndarray, weight: np.ndarray, size: int, stride: int) -> np.ndarray:
    """(H, W, C) and (k * k * C, D) -> windows that lie inside, each `stride` pixels: (H', W', D)."""
    height, width = ((n - size) // stride + 1 for n in padded.shape[:2])
    channels = padded.shape[2]
    result = np.empty((height, width, weight.shape[1]), np.float32)
    row, column, item = padded.strides
    windows = np.lib.stride_tricks.as_strided(
        padded,
        (height, width, size, size * channels),
        (stride * row, stride * column, row, item),
        writeable=False,
    )

    def one(band: tuple[int, int]) -> None:
        start, stop = band
        columns = windows[start:stop].reshape((stop - start) * width, -1)
        np.matmul(columns, weight, out=result[start:stop].reshape(len(columns), -1))

    map_parallel(one, _bands(height, width))
    return result


@cache
def blur_matrix(length: int) -> np.ndarray:
    """(n, length): the filter 1 2 1 / 4 at every second place, two reflected places added at each end.

    The blur-pool of Zhang 2019 along one axis, with the padding of ST-LPIPS; n = length // 2 + 1 or,
    for odd lengths, one more.
    """
    places = np.arange(0, length + 2, 2)[:, None] + np.arange(-2, 1)
    places = np.abs(places)
    places = np.where(places >= length, 2 * (length - 1) - places, places)
    matrix = np.zeros((len(places), length), np.float32)
    for tap, weight in enumerate(_BLUR):
        np.add.at(matrix, (np.arange(len(places)), places[:, tap]), np.float32(weight))
    return matrix


def blur_pool(x: np.ndarray) -> np.ndarray:
    """(H, W, C) -> about half of H and W."""
    rows, columns = blur_matrix(x.shape[0]), blur_matrix(x.shape[1])
    return columns @ (rows @ x.reshape(len(x), -1)).reshape(len(rows), *x.shape[1:])


def blur_pool_gradient(g: np.ndarray, height: int, width: int) -> np.ndarray:
    """dL/doutput -> dL/dinput (height, width, C)."""
    rows, columns = blur_matrix(height), blur_matrix(width)
    return (rows.T @ (columns.T @ g).reshape(len(g), -1)).reshape(height, width, g.shape[2])


def max3(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum over 3 x 3, no border: (H, W, C) -> (H - 2, W - 2, C), and that of the rows alone."""
    along = np.maximum(np.maximum(x[:, :-2], x[:, 1:-1]), x[:, 2:])
    return np.maximum(np.maximum(along[:-2], along[1:-1]), along[2:]), along


def max3_gradient(g: np.ndarray, x: np.ndarray, along: np.ndarray, result: np.ndarray) -> np.ndarray:
    """dL/doutput -> dL/dinput: all of it to the first of equal places, rows first, as PyTorch."""
    back = np.zeros_like(along)
    _to_first(g, [along[i : len(along) - 2 + i] for i in range(3)], result,
              [back[i : len(along) - 2 + i] for i in range(3)])  # fmt: skip
    width = x.shape[1]
    gradient = np.zeros_like(x)
    _to_first(back, [x[:, i : width - 2 + i] for i in range(3)], along,
              [gradient[:, i : width - 2 + i] for i in range(3)])  # fmt: skip
    return gradient


def _to_first(
    g: np.ndarray, values: list[np.ndarray], maximum: np.ndarray, targets: list[np.ndarray]
) -> None:
    left = g
    for value, target in zip(values, targets, strict=True):
        here = left * (value == maximum)
        target += here
        left = left - here
