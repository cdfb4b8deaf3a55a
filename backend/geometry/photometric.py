"""The loss between a rendered and a true picture, MSE or L1 and D-SSIM, weighted by pixel, with its gradient.

SSIM is Wang 2004 with the window of 3DGS and GSplat: 11x11 Gaussian, sigma 1.5, zeros beyond the
border, C1 = 0.01^2, C2 = 0.03^2; D-SSIM = 1 - SSIM. The window is separable, so one strip of rows is
blurred along x, then along y; its gradient goes the same way back. A pixel's weight multiplies its colour
error, its SSIM and its alpha error (the confidence of ReconX's equation 7).
"""

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.parallel import map_parallel

STRIP = 64
"""Rows a task: fixed, so that the sums do not depend on the number of cores."""
_REACH = 5
_weights = np.exp(-(np.arange(_REACH + 1) ** 2) / (2 * 1.5**2))
_weights /= _weights[0] + 2 * _weights[1:].sum()
_W0, _W1, _W2, _W3, _W4, _W5 = (np.float32(w) for w in _weights)
_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@kernel
def _blur_row(p, out):
    """p (W + 10,) padded row -> out (W,)."""
    for j in range(len(out)):
        out[j] = (
            _W0 * p[j + 5]
            + _W1 * (p[j + 4] + p[j + 6])
            + _W2 * (p[j + 3] + p[j + 7])
            + _W3 * (p[j + 2] + p[j + 8])
            + _W4 * (p[j + 1] + p[j + 9])
            + _W5 * (p[j] + p[j + 10])
        )


@kernel
def _blur_column(rows, r, out):
    """rows (R, W), the window centred on row r + 5 -> out (W,)."""
    for j in range(len(out)):
        out[j] = (
            _W0 * rows[r + 5, j]
            + _W1 * (rows[r + 4, j] + rows[r + 6, j])
            + _W2 * (rows[r + 3, j] + rows[r + 7, j])
            + _W3 * (rows[r + 2, j] + rows[r + 8, j])
            + _W4 * (rows[r + 1, j] + rows[r + 9, j])
            + _W5 * (rows[r, j] + rows[r + 10, j])
        )


@kernel
def _errors_strip(x, y, weights, start, stop, scale, absolute, gradient):
    """Planes x, y, weights (H, W): sum of (x - y)^2 over rows start..stop, not weighted.

    Sets gradient there to that of scale * weights * (x - y)^2, or of |x - y| when `absolute`.
    """
    total = 0.0
    for i in range(start, stop):
        row = _ZERO
        for j in range(x.shape[1]):
            difference = x[i, j] - y[i, j]
            slope = np.sign(difference) if absolute else _TWO * difference
            gradient[i, j] = scale * weights[i, j] * slope
            row += difference * difference
        total += row
    return total


@kernel
def _ssim_strip(x, y, weights, start, stop, scale, gradient):
    """Planes x, y, weights (H, W): sum of weights * SSIM over rows start..stop.

    Adds scale * d(sum over all rows)/dx to gradient there.
    """
    height, width = x.shape
    rows = stop - start
    padded = np.zeros((5, width + 2 * _REACH), dtype=np.float32)
    blurred = np.zeros((5, rows + 4 * _REACH, width), dtype=np.float32)
    for r in range(rows + 4 * _REACH):
        i = start - 2 * _REACH + r
        if i < 0 or i >= height:
            continue
        for j in range(width):
            a, b = x[i, j], y[i, j]
            padded[0, j + 5] = a
            padded[1, j + 5] = b
            padded[2, j + 5] = a * a
            padded[3, j + 5] = b * b
            padded[4, j + 5] = a * b
        for m in range(5):
            _blur_row(padded[m], blurred[m, r])
    # Slopes of SSIM to the blurred x, x^2 and xy, blurred along x in turn.
    slopes = np.zeros((3, width + 2 * _REACH), dtype=np.float32)
    back = np.zeros((3, rows + 2 * _REACH, width), dtype=np.float32)
    window = np.empty((5, width), dtype=np.float32)
    total = 0.0
    for r in range(rows + 2 * _REACH):
        i = start - _REACH + r
        if i < 0 or i >= height:
            continue
        for m in range(5):
            _blur_column(blurred[m], r, window[m])
        row = _ZERO
        for j in range(width):
            mean_x, mean_y = window[0, j], window[1, j]
            product = _TWO * mean_x * mean_y + _C1
            squares = mean_x * mean_x + mean_y * mean_y + _C1
            covariance = _TWO * (window[4, j] - mean_x * mean_y) + _C2
            variances = window[2, j] + window[3, j] - mean_x * mean_x - mean_y * mean_y + _C2
            inverse = _ONE / (squares * variances)
            weight = weights[i, j]
            inverse *= weight
            ssim = product * covariance * inverse
            row += ssim
            slopes[0, j + 5] = (
                _TWO * mean_y * (covariance - product) * inverse
                - _TWO * mean_x * ssim / squares
                + _TWO * mean_x * ssim / variances
            )
            slopes[1, j + 5] = -_TWO * ssim / variances
            slopes[2, j + 5] = _TWO * product * inverse
        if start <= i < stop:
            total += row
        for m in range(3):
            _blur_row(slopes[m], back[m, r])
    for r in range(rows):
        for m in range(3):
            _blur_column(back[m], r, window[m])
        for j in range(width):
            gradient[start + r, j] += scale * (
                window[0, j] + window[1, j] * x[start + r, j] + window[2, j] * y[start + r, j]
            )
    return total


def photometric_loss(
    image: np.ndarray,
    target: np.ndarray,
    ssim_weight: float,
    alpha_weight: float,
    weights: np.ndarray | None = None,
    *,
    absolute: bool = False,
) -> tuple[float, float, np.ndarray]:
    """Loss of a rendering against the truth: MSE + ssim_weight * D-SSIM + alpha_weight * MSE of alpha.

    image, target (4, H, W) float32 C-contiguous: R, G, B over one background, alpha. Every term is a mean
    over pixels (and channels), as V3D's equation 1, with each pixel times its weight; weights (H, W)
    float32, None for 1. `absolute` takes L1 in place of the colours' MSE (3DGS, ReconX).
    Returns the sum of squared colour errors, not weighted; the weighted mean SSIM (1 where ssim_weight is
    0); and dL/dimage (4, H, W).
    """
    height, width = image.shape[1:]
    if weights is None:
        weights = np.ones((height, width), dtype=np.float32)
    gradient = np.empty_like(image)
    colors = np.float32(1 / (3 * height * width))
    scales = (colors, colors, colors, np.float32(alpha_weight / (height * width)))

    def one(task: tuple[int, int]) -> tuple[float, float]:
        plane, start = task
        stop = min(start + STRIP, height)
        x, y, out = image[plane], target[plane], gradient[plane]
        squares = _errors_strip(x, y, weights, start, stop, scales[plane], absolute and plane < 3, out)
        if plane == 3 or not ssim_weight:
            return squares, 0.0
        return squares, _ssim_strip(x, y, weights, start, stop, np.float32(-ssim_weight * colors), out)

    tasks = [(plane, start) for plane in range(4) for start in range(0, height, STRIP)]
    sums = map_parallel(one, tasks)
    squares = sum(value[0] for task, value in zip(tasks, sums, strict=True) if task[0] < 3)
    ssim = sum(value[1] for value in sums) * float(colors) if ssim_weight else 1.0
    return float(squares), float(ssim), gradient


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of 0..1, any shape; at most 100."""
    error = float(np.mean((image.astype(np.float64) - target) ** 2))
    return float(-10 * np.log10(max(error, 1e-10)))
