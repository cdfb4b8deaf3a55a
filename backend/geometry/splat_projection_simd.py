"""The loops of `splat_projection` with explicit vector registers: sixteen Gaussians at a time.

The same formulas in the same order, with masks for branches; see there for their reasons. A Gaussian that is
not drawn is computed along with the others, and what comes out, perhaps NaN, is not written.
"""

import numpy as np

from backend.geometry import harmonics as sh
from backend.geometry.jit import kernel
from backend.geometry.simd import LANES, larger, logarithm, root, smaller, some, splat, where
from backend.geometry.simd_moves import (
    aligned,
    load,
    load_quads,
    load_triples,
    store,
    store_quads,
    store_triples,
    store_whole,
    totals,
    transpose,
)
from backend.geometry.splat_projection import (
    ALPHA_MAX_RATIO,
    BAND_BITS,
    BRIGHTEST,
    CAMERA_GRADIENT,
    DILATION,
    FAR,
    LOG2_255,
    LOG2_E,
    MARGIN,
    NEAR,
    NOT_DRAWN,
    SCREEN,
    SCREEN_GRADIENT,
    TINY,
    WIDEST,
)

_u = np.uint64
_ZERO, _HALF, _ONE, _TWO, _THREE, _FIVE, _SIX, _TEN, _FIFTEEN = (
    np.float32(n) for n in (0, 0.5, 1, 2, 3, 5, 6, 10, 15)
)
_Y0, _C1 = np.float32(sh.SH0), sh.C1
_C20, _C21, _C22 = sh.C2
_C30, _C31, _C32, _C33, _C34 = sh.C3
_TWO_LN_2 = np.float32(2 * np.log(2))
_BANDS_A_PIXEL = np.float32(1 / (1 << BAND_BITS))
_ROW = _u(LANES)


@kernel
def _stage(rows, first, width, staged):
    """Sixteen rows of `width` floats of the flat array -> columns of sixteen."""
    done = _u(0)
    while done + _ROW <= width:
        transpose(rows, first + done, width, staged, done * _ROW, _ROW)
        done += _ROW
    for j in range(done, width):
        for lane in range(LANES):
            staged[_u(j) * _ROW + _u(lane)] = rows[first + _u(lane) * width + _u(j)]


@kernel
def _unstage(staged, rows, first, width):
    """The way back."""
    done = _u(0)
    while done + _ROW <= width:
        transpose(staged, done * _ROW, _ROW, rows, first + done, width)
        done += _ROW
    for j in range(done, width):
        for lane in range(LANES):
            rows[first + _u(lane) * width + _u(j)] = staged[_u(j) * _ROW + _u(lane)]


@kernel
def _fill_basis(x, y, z, count, out):
    """`harmonics.fill_basis` for sixteen directions; value k stands at 16 k."""
    store(out, _u(0), splat(_Y0))
    store(out, _u(16), -_C1 * y)
    store(out, _u(32), _C1 * z)
    store(out, _u(48), -_C1 * x)
    if count > 4:
        store(out, _u(64), _C20 * x * y)
        store(out, _u(80), -_C20 * y * z)
        store(out, _u(96), _C21 * (_THREE * z * z - _ONE))
        store(out, _u(112), -_C20 * x * z)
        store(out, _u(128), _C22 * (x * x - y * y))
    if count > 9:
        store(out, _u(144), -_C30 * y * (_THREE * x * x - y * y))
        store(out, _u(160), _C31 * x * y * z)
        store(out, _u(176), -_C32 * y * (_FIVE * z * z - _ONE))
        store(out, _u(192), _C33 * z * (_FIVE * z * z - _THREE))
        store(out, _u(208), -_C32 * x * (_FIVE * z * z - _ONE))
        store(out, _u(224), _C34 * z * (x * x - y * y))
        store(out, _u(240), -_C30 * x * (x * x - _THREE * y * y))


@kernel
def _basis_gradient(x, y, z, count, w):
    """Sum over k of w_k (at 16 k) times the derivatives of the k-th value to x, y, z as free variables."""
    gx, gy, gz = -_C1 * load(w, _u(48)), -_C1 * load(w, _u(16)), _C1 * load(w, _u(32))
    if count > 4:
        w4, w5, w6, w7, w8 = (
            load(w, _u(64)), load(w, _u(80)), load(w, _u(96)), load(w, _u(112)), load(w, _u(128)),
        )  # fmt: skip
        gx += _C20 * (y * w4 - z * w7) + _TWO * _C22 * x * w8
        gy += _C20 * (x * w4 - z * w5) - _TWO * _C22 * y * w8
        gz += _SIX * _C21 * z * w6 - _C20 * (y * w5 + x * w7)
    if count > 9:
        w9, w10, w11, w12 = load(w, _u(144)), load(w, _u(160)), load(w, _u(176)), load(w, _u(192))
        w13, w14, w15 = load(w, _u(208)), load(w, _u(224)), load(w, _u(240))
        fives, difference, product = _FIVE * z * z - _ONE, x * x - y * y, x * y
        gx += _C31 * y * z * w10 - _SIX * _C30 * product * w9 - _C32 * fives * w13
        gx += _TWO * _C34 * x * z * w14 - _THREE * _C30 * difference * w15
        gy += _C31 * x * z * w10 - _THREE * _C30 * difference * w9 - _C32 * fives * w11
        gy += _SIX * _C30 * product * w15 - _TWO * _C34 * y * z * w14
        gz += _C31 * product * w10 + _C33 * (_FIFTEEN * z * z - _THREE) * w12 + _C34 * difference * w14
        gz += -_TEN * _C32 * z * (y * w11 + x * w13)
    return gx, gy, gz


@kernel
def project(
    camera, antialiased, positions, scales, rotations, opacities, harmonics,
    screen, depth, first_band, last_band,
):  # fmt: skip
    """As `splat_projection.project`; the number of Gaussians is a multiple of sixteen."""
    count = harmonics.shape[1]
    w = camera
    fx, fy, cx, cy, width, height = w[12], w[13], w[14], w[15], w[16], w[17]
    limit_right, limit_left = (width - cx + MARGIN * width) / fx, (cx + MARGIN * width) / fx
    limit_down, limit_up = (height - cy + MARGIN * height) / fy, (cy + MARGIN * height) / fy
    basis, staged, rows = aligned(LANES * LANES), aligned(3 * LANES * LANES), aligned(LANES * LANES)
    coefficients, out = harmonics.reshape(-1), screen.reshape(-1)
    for batch in range(len(opacities) // LANES):
        i = _u(batch) * _ROW
        x, y, z = load_triples(positions, _u(3) * i)
        tx = w[0] * x + w[1] * y + w[2] * z + w[9]
        ty = w[3] * x + w[4] * y + w[5] * z + w[10]
        tz = w[6] * x + w[7] * y + w[8] * z + w[11]
        opacity = load(opacities, i)
        reach = _TWO_LN_2 * logarithm(ALPHA_MAX_RATIO * opacity)
        qw, qx, qy, qz = load_quads(rotations, _u(4) * i)
        norm = qw * qw + qx * qx + qy * qy + qz * qz
        drawn = (
            (tz > NEAR) & (tz < FAR) & (ALPHA_MAX_RATIO * opacity > _ONE) & (reach > _ZERO) & (norm >= _ZERO)
        )
        norm = _TWO / larger(norm, TINY)
        sx, sy, sz = load_triples(scales, _u(3) * i)
        m00, m10, m20 = (
            sx * (_ONE - norm * (qy * qy + qz * qz)),
            sx * norm * (qx * qy + qw * qz),
            sx * norm * (qx * qz - qw * qy),
        )
        m01, m11, m21 = (
            sy * norm * (qx * qy - qw * qz),
            sy * (_ONE - norm * (qx * qx + qz * qz)),
            sy * norm * (qy * qz + qw * qx),
        )
        m02, m12, m22 = (
            sz * norm * (qx * qz + qw * qy),
            sz * norm * (qy * qz - qw * qx),
            sz * (_ONE - norm * (qx * qx + qy * qy)),
        )
        inverse = _ONE / tz
        jx, jy = fx * inverse, fy * inverse
        jxz = -jx * smaller(larger(tx * inverse, -limit_left), limit_right)
        jyz = -jy * smaller(larger(ty * inverse, -limit_up), limit_down)
        t00, t01, t02 = jx * w[0] + jxz * w[6], jx * w[1] + jxz * w[7], jx * w[2] + jxz * w[8]
        t10, t11, t12 = jy * w[3] + jyz * w[6], jy * w[4] + jyz * w[7], jy * w[5] + jyz * w[8]
        u00, u01, u02 = (
            t00 * m00 + t01 * m10 + t02 * m20,
            t00 * m01 + t01 * m11 + t02 * m21,
            t00 * m02 + t01 * m12 + t02 * m22,
        )
        u10, u11, u12 = (
            t10 * m00 + t11 * m10 + t12 * m20,
            t10 * m01 + t11 * m11 + t12 * m21,
            t10 * m02 + t11 * m12 + t12 * m22,
        )
        cov_xx = u00 * u00 + u01 * u01 + u02 * u02 + DILATION
        cov_xy = u00 * u10 + u01 * u11 + u02 * u12
        cov_yy = u10 * u10 + u11 * u11 + u12 * u12 + DILATION
        minor_a, minor_b, minor_c = u00 * u11 - u01 * u10, u00 * u12 - u02 * u10, u01 * u12 - u02 * u11
        undilated = minor_a * minor_a + minor_b * minor_b + minor_c * minor_c
        determinant = undilated + DILATION * (cov_xx + cov_yy - DILATION)
        drawn = drawn & (determinant < WIDEST)
        if antialiased:
            opacity = opacity * root(undilated / determinant)
            reach = _TWO_LN_2 * logarithm(ALPHA_MAX_RATIO * opacity)
            drawn = drawn & (ALPHA_MAX_RATIO * opacity > _ONE) & (reach > _ZERO)
        px, py = fx * tx * inverse + cx, fy * ty * inverse + cy
        half_width, half_height = root(reach * cov_xx), root(reach * cov_yy)
        drawn = drawn & (px + half_width > _ZERO) & (px - half_width < width)
        drawn = drawn & (py + half_height > _ZERO) & (py - half_height < height)
        if not some(drawn):
            store(depth, i, splat(NOT_DRAWN))
            for lane in range(LANES):
                screen[i + _u(lane), 10] = NOT_DRAWN
            continue
        if count == 1:
            red, green, blue = load_triples(harmonics, _u(3) * i)
            red, green, blue = _HALF + _Y0 * red, _HALF + _Y0 * green, _HALF + _Y0 * blue
        else:
            dx, dy, dz = x - w[18], y - w[19], z - w[20]
            norm = _ONE / root(dx * dx + dy * dy + dz * dz)
            _fill_basis(dx * norm, dy * norm, dz * norm, count, basis)
            _stage(coefficients, i * _u(3 * count), _u(3 * count), staged)
            red = green = blue = splat(_HALF)
            for k in range(count):
                value, at = load(basis, _u(k) * _ROW), _u(3 * k) * _ROW
                red += value * load(staged, at)
                green += value * load(staged, at + _ROW)
                blue += value * load(staged, at + _u(2) * _ROW)
        drawn = drawn & (red < BRIGHTEST) & (green < BRIGHTEST) & (blue < BRIGHTEST)
        drawn = drawn & (red > -BRIGHTEST) & (green > -BRIGHTEST) & (blue > -BRIGHTEST)
        inverse, inverse_variance = _ONE / determinant, _ONE / cov_xx
        c, away = cov_xx * inverse, where(drawn, tz, NOT_DRAWN)
        store(rows, _u(0), px)
        store(rows, _u(16), py)
        store(rows, _u(32), cov_yy * inverse)
        store(rows, _u(48), -cov_xy * inverse)
        store(rows, _u(64), c)
        store(rows, _u(80), opacity)
        store(rows, _u(96), larger(red, _ZERO))
        store(rows, _u(112), larger(green, _ZERO))
        store(rows, _u(128), larger(blue, _ZERO))
        store(rows, _u(144), half_height)
        store(rows, _u(160), away)
        store(rows, _u(176), half_width)
        store(rows, _u(192), LOG2_E * _HALF * reach - LOG2_255)
        store(rows, _u(208), -cov_xy * inverse_variance)
        store(rows, _u(224), -LOG2_E * _HALF * inverse_variance)
        store(rows, _u(240), -LOG2_E * _HALF * c)
        transpose(rows, _u(0), _ROW, out, i * _u(SCREEN), _u(SCREEN))
        first, last = larger(px - half_width, _ZERO), smaller(px + half_width, width - _HALF)
        store_whole(first_band, i, where(drawn, first * _BANDS_A_PIXEL, _ZERO))
        store_whole(last_band, i, where(drawn, last * _BANDS_A_PIXEL, _ZERO))
        store(depth, i, away)


@kernel
def project_back(
    camera, antialiased, moving, positions, scales, rotations, opacities, harmonics, screen, grad_screen,
    grad_positions, grad_scales, grad_rotations, grad_opacities, grad_harmonics, grad_camera,
):  # fmt: skip
    """As `splat_projection.project_back`; the number of Gaussians is a multiple of sixteen."""
    count = harmonics.shape[1]
    w = camera
    fx, fy, cx, cy, width, height = w[12], w[13], w[14], w[15], w[16], w[17]
    limit_right, limit_left = (width - cx + MARGIN * width) / fx, (cx + MARGIN * width) / fx
    limit_down, limit_up = (height - cy + MARGIN * height) / fy, (cy + MARGIN * height) / fy
    basis, staged, rows = aligned(LANES * LANES), aligned(3 * LANES * LANES), aligned(LANES * LANES)
    coefficients, given, upstream = harmonics.reshape(-1), screen.reshape(-1), grad_screen.reshape(-1)
    grad_coefficients = grad_harmonics.reshape(-1)
    for batch in range(len(opacities) // LANES):
        i = _u(batch) * _ROW
        transpose(upstream, i * _u(SCREEN_GRADIENT), _u(SCREEN_GRADIENT), rows, _u(0), _ROW)
        g0, g1, g2, g3 = load(rows, _u(0)), load(rows, _u(16)), load(rows, _u(32)), load(rows, _u(48))
        g4, g5, g6, g7 = load(rows, _u(64)), load(rows, _u(80)), load(rows, _u(96)), load(rows, _u(112))
        g8, g9 = load(rows, _u(128)), load(rows, _u(144))
        transpose(given, i * _u(SCREEN), _u(SCREEN), rows, _u(0), _ROW)
        tz = load(rows, _u(160))
        used = (g0 < _ZERO) | (g0 > _ZERO)
        used = used | (g1 < _ZERO) | (g1 > _ZERO) | (g2 < _ZERO) | (g2 > _ZERO) | (g3 < _ZERO) | (g3 > _ZERO)
        used = used | (g4 < _ZERO) | (g4 > _ZERO) | (g5 < _ZERO) | (g5 > _ZERO) | (g6 < _ZERO) | (g6 > _ZERO)
        used = used | (g7 < _ZERO) | (g7 > _ZERO) | (g8 < _ZERO) | (g8 > _ZERO) | (g9 < _ZERO) | (g9 > _ZERO)
        used = used & (tz < NOT_DRAWN)
        if not some(used):
            none = splat(_ZERO)
            store_triples(grad_positions, _u(3) * i, none, none, none)
            store_triples(grad_scales, _u(3) * i, none, none, none)
            store_quads(grad_rotations, _u(4) * i, none, none, none, none)
            store(grad_opacities, i, none)
            for k in range(3 * count):
                store(grad_coefficients, _u(3 * count) * i + _u(k) * _ROW, none)
            continue
        a, b, c = load(rows, _u(32)), load(rows, _u(48)), load(rows, _u(64))
        red = where(used & (load(rows, _u(96)) > _ZERO), g6, _ZERO)
        green = where(used & (load(rows, _u(112)) > _ZERO), g7, _ZERO)
        blue = where(used & (load(rows, _u(128)) > _ZERO), g8, _ZERO)
        x, y, z = load_triples(positions, _u(3) * i)
        tx = w[0] * x + w[1] * y + w[2] * z + w[9]
        ty = w[3] * x + w[4] * y + w[5] * z + w[10]
        inverse = _ONE / tz
        gx = gy = gz = splat(_ZERO)
        if count == 1:
            store_triples(grad_harmonics, _u(3) * i, _Y0 * red, _Y0 * green, _Y0 * blue)
        else:
            dx, dy, dz = x - w[18], y - w[19], z - w[20]
            norm = _ONE / root(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx * norm, dy * norm, dz * norm
            _fill_basis(dx, dy, dz, count, basis)
            _stage(coefficients, i * _u(3 * count), _u(3 * count), staged)
            for k in range(count):
                value, at = load(basis, _u(k) * _ROW), _u(3 * k) * _ROW
                weight = red * load(staged, at) + green * load(staged, at + _ROW)
                weight += blue * load(staged, at + _u(2) * _ROW)
                store(basis, _u(k) * _ROW, weight)
                store(staged, at, where(used, value * red, _ZERO))
                store(staged, at + _ROW, where(used, value * green, _ZERO))
                store(staged, at + _u(2) * _ROW, where(used, value * blue, _ZERO))
            _unstage(staged, grad_coefficients, i * _u(3 * count), _u(3 * count))
            gx, gy, gz = _basis_gradient(dx, dy, dz, count, basis)
            along = gx * dx + gy * dy + gz * dz
            gx, gy, gz = (gx - along * dx) * norm, (gy - along * dy) * norm, (gz - along * dz) * norm

        qw, qx, qy, qz = load_quads(rotations, _u(4) * i)
        length = _ONE / root(larger(qw * qw + qx * qx + qy * qy + qz * qz, TINY))
        qw, qx, qy, qz = qw * length, qx * length, qy * length, qz * length
        r00, r01, r02 = (
            _ONE - _TWO * (qy * qy + qz * qz),
            _TWO * (qx * qy - qw * qz),
            _TWO * (qx * qz + qw * qy),
        )
        r10, r11, r12 = (
            _TWO * (qx * qy + qw * qz),
            _ONE - _TWO * (qx * qx + qz * qz),
            _TWO * (qy * qz - qw * qx),
        )
        r20, r21, r22 = (
            _TWO * (qx * qz - qw * qy),
            _TWO * (qy * qz + qw * qx),
            _ONE - _TWO * (qx * qx + qy * qy),
        )
        sx, sy, sz = load_triples(scales, _u(3) * i)

        jx, jy = fx * inverse, fy * inverse
        slope_x, slope_y = tx * inverse, ty * inverse
        held_x = smaller(larger(slope_x, -limit_left), limit_right)
        held_y = smaller(larger(slope_y, -limit_up), limit_down)
        jxz, jyz = -jx * held_x, -jy * held_y
        # B = W R, P = J B; U = P S.
        b00, b01, b02 = (
            w[0] * r00 + w[1] * r10 + w[2] * r20,
            w[0] * r01 + w[1] * r11 + w[2] * r21,
            w[0] * r02 + w[1] * r12 + w[2] * r22,
        )
        b10, b11, b12 = (
            w[3] * r00 + w[4] * r10 + w[5] * r20,
            w[3] * r01 + w[4] * r11 + w[5] * r21,
            w[3] * r02 + w[4] * r12 + w[5] * r22,
        )
        b20, b21, b22 = (
            w[6] * r00 + w[7] * r10 + w[8] * r20,
            w[6] * r01 + w[7] * r11 + w[8] * r21,
            w[6] * r02 + w[7] * r12 + w[8] * r22,
        )
        p00, p01, p02 = jx * b00 + jxz * b20, jx * b01 + jxz * b21, jx * b02 + jxz * b22
        p10, p11, p12 = jy * b10 + jyz * b20, jy * b11 + jyz * b21, jy * b12 + jyz * b22
        # With the conic K = (U U^T + 0.3 I)^-1 and the loss's gradient G to it, dL/dU = -2 K G K U. K U is
        # taken from the minors of P: for a long needle it is a small difference of large products of K and U.
        sxx, syy, szz = sx * sx, sy * sy, sz * sz
        n_a, n_b, n_c = p00 * p11 - p01 * p10, p00 * p12 - p02 * p10, p01 * p12 - p02 * p11
        undilated = n_a * n_a * sxx * syy + n_b * n_b * sxx * szz + n_c * n_c * syy * szz
        trace = sxx * (p00 * p00 + p10 * p10) + syy * (p01 * p01 + p11 * p11) + szz * (p02 * p02 + p12 * p12)
        density = _ONE / (undilated + DILATION * (trace + DILATION))
        # H = adj(U U^T) P, Q = K P.
        h00, h01, h02 = (
            n_a * syy * p11 + n_b * szz * p12,
            n_c * szz * p12 - n_a * sxx * p10,
            -n_b * sxx * p10 - n_c * syy * p11,
        )
        h10, h11, h12 = (
            -n_a * syy * p01 - n_b * szz * p02,
            n_a * sxx * p00 - n_c * szz * p02,
            n_b * sxx * p00 + n_c * syy * p01,
        )
        q00, q01, q02 = (
            density * (h00 + DILATION * p00),
            density * (h01 + DILATION * p01),
            density * (h02 + DILATION * p02),
        )
        q10, q11, q12 = (
            density * (h10 + DILATION * p10),
            density * (h11 + DILATION * p11),
            density * (h12 + DILATION * p12),
        )
        # D = -2 G Q, A = Q^T D: dL/dP = K D S^2, and P^T dL/dP = A S^2.
        ga, gb, gc = -_TWO * g2, -g3, -_TWO * g4
        d00, d01, d02 = ga * q00 + gb * q10, ga * q01 + gb * q11, ga * q02 + gb * q12
        d10, d11, d12 = gb * q00 + gc * q10, gb * q01 + gc * q11, gb * q02 + gc * q12
        a00, a11, a22 = q00 * d00 + q10 * d10, q01 * d01 + q11 * d11, q02 * d02 + q12 * d12
        a01, a02, a12 = q00 * d01 + q10 * d11, q00 * d02 + q10 * d12, q01 * d02 + q11 * d12
        d00, d10 = a * d00 + b * d10, b * d00 + c * d10
        d01, d11 = a * d01 + b * d11, b * d01 + c * d11
        d02, d12 = a * d02 + b * d12, b * d02 + c * d12
        g_opacity = g5
        if antialiased:
            # shrink = sqrt(undilated density), d shrink / dU = shrink (adj(U U^T) U / undilated - K U).
            shrink = root(undilated * density)
            g_opacity = g5 * shrink
            g = g_opacity * load(opacities, i)
            h = g / undilated
            d00, d01, d02 = d00 + h * h00 - g * q00, d01 + h * h01 - g * q01, d02 + h * h02 - g * q02
            d10, d11, d12 = d10 + h * h10 - g * q10, d11 + h * h11 - g * q11, d12 + h * h12 - g * q12
            # P^T H, and P^T Q = density (P^T H + 0.3 P^T P).
            g *= density
            h -= g
            g *= DILATION
            a00 += h * (n_a * n_a * syy + n_b * n_b * szz) - g * (p00 * p00 + p10 * p10)
            a11 += h * (n_a * n_a * sxx + n_c * n_c * szz) - g * (p01 * p01 + p11 * p11)
            a22 += h * (n_b * n_b * sxx + n_c * n_c * syy) - g * (p02 * p02 + p12 * p12)
            a01 += h * n_b * n_c * szz - g * (p00 * p01 + p10 * p11)
            a02 -= h * n_a * n_c * syy + g * (p00 * p02 + p10 * p12)
            a12 += h * n_a * n_b * sxx - g * (p01 * p02 + p11 * p12)
        store(grad_opacities, i, where(used, g_opacity, _ZERO))
        store_triples(
            grad_scales, _u(3) * i,
            where(used, a00 * sx, _ZERO), where(used, a11 * sy, _ZERO), where(used, a22 * sz, _ZERO),
        )  # fmt: skip
        # A small turn about the Gaussian's own axes changes U by P Omega S: the antisymmetric part of A S^2.
        turn_x, turn_y, turn_z = a12 * (syy - szz), a02 * (szz - sxx), a01 * (sxx - syy)
        length *= _TWO
        store_quads(
            grad_rotations, _u(4) * i,
            where(used, -length * (qx * turn_x + qy * turn_y + qz * turn_z), _ZERO),
            where(used, length * (qw * turn_x + qy * turn_z - qz * turn_y), _ZERO),
            where(used, length * (qw * turn_y + qz * turn_x - qx * turn_z), _ZERO),
            where(used, length * (qw * turn_z + qx * turn_y - qy * turn_x), _ZERO),
        )  # fmt: skip
        # dL/dJ = dL/dP B^T.
        d00, d01, d02 = d00 * sxx, d01 * syy, d02 * szz
        d10, d11, d12 = d10 * sxx, d11 * syy, d12 * szz
        gjx, gjxz = d00 * b00 + d01 * b01 + d02 * b02, d00 * b20 + d01 * b21 + d02 * b22
        gjy, gjyz = d10 * b10 + d11 * b11 + d12 * b12, d10 * b20 + d11 * b21 + d12 * b22
        # px = fx tx / tz + cx; jx = fx / tz; jxz = -fx held / tz (held = tx / tz inside the limits).
        gtx, gty = g0 * jx, g1 * jy
        gtz = g9
        gtz -= inverse * (gtx * tx + gty * ty + gjx * jx + gjy * jy + gjxz * jxz + gjyz * jyz)
        inside_x, inside_y = (
            (held_x <= slope_x) & (held_x >= slope_x),
            (held_y <= slope_y) & (held_y >= slope_y),
        )
        along_x, along_y = (
            where(inside_x, gjxz * jx * inverse, _ZERO),
            where(inside_y, gjyz * jy * inverse, _ZERO),
        )
        gtx, gty = gtx - along_x, gty - along_y
        gtz += along_x * slope_x + along_y * slope_y
        store_triples(
            grad_positions, _u(3) * i,
            where(used, gx + w[0] * gtx + w[3] * gty + w[6] * gtz, _ZERO),
            where(used, gy + w[1] * gtx + w[4] * gty + w[7] * gtz, _ZERO),
            where(used, gz + w[2] * gtx + w[5] * gty + w[8] * gtz, _ZERO),
        )  # fmt: skip
        if moving:
            g01, g10 = d00 * b10 + d01 * b11 + d02 * b12, d10 * b00 + d11 * b01 + d12 * b02
            none = splat(_ZERO)
            turn_x = ty * gtz - tz * gty + jxz * g01 + jyz * gjy - jy * gjyz
            turn_y = tz * gtx - tx * gtz + jx * gjxz - jxz * gjx - jyz * g10
            turn_z = tx * gty - ty * gtx + jy * g10 - jx * g01
            focal_x = g0 * slope_x + (gjx * jx + where(inside_x, gjxz * jxz, _ZERO)) / fx
            focal_y = g1 * slope_y + (gjy * jy + where(inside_y, gjyz * jyz, _ZERO)) / fy
            sums = totals(
                where(used, turn_x, _ZERO),
                where(used, turn_y, _ZERO),
                where(used, turn_z, _ZERO),
                where(used, gtx + w[0] * gx + w[1] * gy + w[2] * gz, _ZERO),
                where(used, gty + w[3] * gx + w[4] * gy + w[5] * gz, _ZERO),
                where(used, gtz + w[6] * gx + w[7] * gy + w[8] * gz, _ZERO),
                where(used, focal_x, _ZERO),
                where(used, focal_y, _ZERO),
                where(used, g0 + where(inside_x, _ZERO, gjxz * inverse), _ZERO),
                where(used, g1 + where(inside_y, _ZERO, gjyz * inverse), _ZERO),
                none, none, none, none, none, none,
            )  # fmt: skip
            store(rows, _u(0), sums)
            for k in range(CAMERA_GRADIENT):
                grad_camera[k] += rows[_u(k)]
