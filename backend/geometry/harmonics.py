"""Real spherical harmonics of degree 0 to 3 in the order and signs of INRIA's 3DGS.

`fill_basis` and `fill_basis_gradient` are the kernels used by the rasteriser; `harmonics_basis` is the
numpy twin for everything else.
"""

import numpy as np

from backend.geometry.jit import kernel

SH0 = 0.28209479177387814
"""Y_0: a Gaussian's base colour is 0.5 + SH0 * c_0."""

C1 = np.float32(0.4886025119029199)
C2 = tuple(np.float32(c) for c in (1.0925484305920792, 0.31539156525252005, 0.5462742152960396))
C3 = tuple(
    np.float32(c)
    for c in (
        0.5900435899266435,
        2.890611442640554,
        0.4570457994644658,
        0.3731763325901154,
        1.445305721320277,
    )
)
_C20, _C21, _C22 = C2
_C30, _C31, _C32, _C33, _C34 = C3
_Y0 = np.float32(SH0)
_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _EIGHT, _FIFTEEN, _ZERO = (
    np.float32(n) for n in (1, 2, 3, 4, 5, 6, 8, 15, 0)
)


def harmonics_from_color(color: np.ndarray) -> np.ndarray:
    """(..., 3) colour -> the coefficient c_0 that shows it from everywhere."""
    return ((np.asarray(color) - 0.5) / SH0).astype(np.float32)


def harmonics_basis(directions: np.ndarray, count: int) -> np.ndarray:
    """Unit directions (P, 3) -> the first `count` basis values (P, count), count 1, 4, 9 or 16."""
    x, y, z = (np.asarray(directions, dtype=np.float64)[:, i] for i in range(3))
    values = [np.full_like(x, SH0)]
    if count > 1:
        values += [-C1 * y, C1 * z, -C1 * x]
    if count > 4:
        values += [_C20 * x * y, -_C20 * y * z, _C21 * (3 * z * z - 1), -_C20 * x * z, _C22 * (x * x - y * y)]
    if count > 9:
        values += [
            -_C30 * y * (3 * x * x - y * y),
            _C31 * x * y * z,
            -_C32 * y * (5 * z * z - 1),
            _C33 * z * (5 * z * z - 3),
            -_C32 * x * (5 * z * z - 1),
            _C34 * z * (x * x - y * y),
            -_C30 * x * (x * x - 3 * y * y),
        ]
    return np.stack(values, axis=1)


@kernel
def fill_basis(x, y, z, count, out):
    """Unit direction, float32 -> out[:count] (16,) float32."""
    out[0] = _Y0
    if count > 1:
        out[1] = -C1 * y
        out[2] = C1 * z
        out[3] = -C1 * x
    if count > 4:
        out[4] = _C20 * x * y
        out[5] = -_C20 * y * z
        out[6] = _C21 * (_THREE * z * z - _ONE)
        out[7] = -_C20 * x * z
        out[8] = _C22 * (x * x - y * y)
    if count > 9:
        out[9] = -_C30 * y * (_THREE * x * x - y * y)
        out[10] = _C31 * x * y * z
        out[11] = -_C32 * y * (_FIVE * z * z - _ONE)
        out[12] = _C33 * z * (_FIVE * z * z - _THREE)
        out[13] = -_C32 * x * (_FIVE * z * z - _ONE)
        out[14] = _C34 * z * (x * x - y * y)
        out[15] = -_C30 * x * (x * x - _THREE * y * y)


@kernel
def fill_basis_gradient(x, y, z, count, out):
    """Unit direction, float32 -> out[:count] (16, 3) float32, derivatives to x, y, z as free variables."""
    out[0, 0] = out[0, 1] = out[0, 2] = _ZERO
    if count > 1:
        out[1, 0], out[1, 1], out[1, 2] = _ZERO, -C1, _ZERO
        out[2, 0], out[2, 1], out[2, 2] = _ZERO, _ZERO, C1
        out[3, 0], out[3, 1], out[3, 2] = -C1, _ZERO, _ZERO
    if count > 4:
        out[4, 0], out[4, 1], out[4, 2] = _C20 * y, _C20 * x, _ZERO
        out[5, 0], out[5, 1], out[5, 2] = _ZERO, -_C20 * z, -_C20 * y
        out[6, 0], out[6, 1], out[6, 2] = _ZERO, _ZERO, _SIX * _C21 * z
        out[7, 0], out[7, 1], out[7, 2] = -_C20 * z, _ZERO, -_C20 * x
        out[8, 0], out[8, 1], out[8, 2] = _TWO * _C22 * x, -_TWO * _C22 * y, _ZERO
    if count > 9:
        out[9, 0], out[9, 1], out[9, 2] = -_SIX * _C30 * x * y, -_THREE * _C30 * (x * x - y * y), _ZERO
        out[10, 0], out[10, 1], out[10, 2] = _C31 * y * z, _C31 * x * z, _C31 * x * y
        fives = _FIVE * z * z
        out[11, 0], out[11, 1], out[11, 2] = _ZERO, -_C32 * (fives - _ONE), -_TWO * _C32 * _FIVE * y * z
        out[12, 0], out[12, 1], out[12, 2] = _ZERO, _ZERO, _C33 * (_FIFTEEN * z * z - _THREE)
        out[13, 0], out[13, 1], out[13, 2] = -_C32 * (fives - _ONE), _ZERO, -_TWO * _C32 * _FIVE * x * z
        out[14, 0], out[14, 1] = _TWO * _C34 * x * z, -_TWO * _C34 * y * z
        out[14, 2] = _C34 * (x * x - y * y)
        out[15, 0], out[15, 1], out[15, 2] = -_THREE * _C30 * (x * x - y * y), _SIX * _C30 * x * y, _ZERO
