"""3D Gaussians -> 2D Gaussians on one picture, and the gradients back (EWA splatting as in GSplat 1.5).

`screen` holds one row a Gaussian:

    0, 1     centre x, y in pixels
    2, 3, 4  conic a, b, c: the inverse of the dilated 2D covariance [[a, b], [b, c]]
    5        opacity; in the anti-aliased mode times sqrt(det C / det (C + 0.3 I))
    6, 7, 8  colour (RGB, clamped at 0 below)
    9, 11    half height and half width of the ellipse where alpha falls to 1/255
    10       depth along the camera's axis, metres; NOT_DRAWN where the Gaussian is not: the rest is void
    12 - 15  log2 of alpha: 12 + 14 dx^2 + 15 (dy + 13 dx)^2; 14 is -log2(e) / 2 over the variance along x of
             the dilated covariance: a - b^2 / c, but exact for needles too

A row is one cache line.

`camera` is one float32 vector: rotation camera_from_world (9, rows), translation (3), fx, fy, cx, cy,
width, height, camera centre in the world (3).
"""

import numpy as np

from backend.geometry.harmonics import SH0, fill_basis, fill_basis_gradient
from backend.geometry.jit import kernel

SCREEN = 16
"""Columns of `screen`."""
SCREEN_GRADIENT = 16
"""Columns of its gradient: 0 to 8 as in `screen`, and 9 for the depth; the others are 0."""
_COLUMNS = 10
LOG2_E, LOG2_255 = np.float32(1 / np.log(2)), np.float32(np.log2(255))

BAND_BITS = 5
"""A band of the picture is 2^5 = 32 pixels wide."""
NOT_DRAWN = np.float32(1e30)
"""Depth of what is not in the picture."""

DILATION = np.float32(0.3)
"""eps2d of GSplat: pixels^2 added to the 2D covariance, so that no Gaussian falls between pixels."""
NEAR = np.float32(0.01)
FAR = np.float32(1e10)
MARGIN = np.float32(0.15)
"""The Jacobian is taken at most 30 % of the half picture outside it (0.3 * 0.5), as in INRIA's."""
_ZERO, _HALF, _ONE, _TWO = (np.float32(n) for n in (0, 0.5, 1, 2))
_Y0 = np.float32(SH0)
ALPHA_MAX_RATIO = np.float32(255)
TINY = np.float32(1e-24)
"""Squared length below which a quaternion is not scaled up to 1, as torch's `normalize`: 0 is no rotation."""
WIDEST = np.float32(1e24)
"""Largest determinant of the 2D covariance, pixels^4: a standard deviation of a million pixels each way.
Beyond, products of float32 overflow, and the Gaussian is not drawn."""
BRIGHTEST = np.float32(1e30)
CAMERA_GRADIENT = 10
"""Rotation (3), translation (3), fx, fy, cx, cy."""


def pack_camera(world_from_camera: np.ndarray, intrinsics: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pose (4, 4), intrinsics (3, 3) pixels -> the (21,) float32 vector of the kernels. No skew."""
    view = np.linalg.inv(world_from_camera)
    focal = [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]
    parts = [view[:3, :3].ravel(), view[:3, 3], focal, [width, height], np.asarray(world_from_camera)[:3, 3]]
    return np.concatenate(parts).astype(np.float32)


@kernel
def project(
    camera, antialiased, positions, scales, rotations, opacities, harmonics,
    screen, depth, first_band, last_band,
):  # fmt: skip
    """Fill screen, depth (NOT_DRAWN or metres), first_band and last_band.

    All arrays float32 and C-contiguous, bands int32, antialiased bool.
    """
    basis = np.empty(16, dtype=np.float32)
    count = harmonics.shape[1]
    fx, fy, cx, cy, width, height = camera[12], camera[13], camera[14], camera[15], camera[16], camera[17]
    limit_right, limit_left = (width - cx + MARGIN * width) / fx, (cx + MARGIN * width) / fx
    limit_down, limit_up = (height - cy + MARGIN * height) / fy, (cy + MARGIN * height) / fy
    for i in range(len(opacities)):
        depth[i] = screen[i, 10] = NOT_DRAWN
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        tx = camera[0] * x + camera[1] * y + camera[2] * z + camera[9]
        ty = camera[3] * x + camera[4] * y + camera[5] * z + camera[10]
        tz = camera[6] * x + camera[7] * y + camera[8] * z + camera[11]
        opacity = opacities[i]
        reach = _TWO * np.log(ALPHA_MAX_RATIO * opacity)
        # Written so that a NaN anywhere leaves the Gaussian out.
        if not (tz > NEAR and tz < FAR and reach > _ZERO):
            continue
        qw, qx, qy, qz = rotations[i, 0], rotations[i, 1], rotations[i, 2], rotations[i, 3]
        norm = qw * qw + qx * qx + qy * qy + qz * qz
        if not norm >= _ZERO:
            continue
        norm = _TWO / max(norm, TINY)
        sx, sy, sz = scales[i, 0], scales[i, 1], scales[i, 2]
        # Columns of M = R S, world frame.
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
        jxz = -jx * min(max(tx * inverse, -limit_left), limit_right)
        jyz = -jy * min(max(ty * inverse, -limit_up), limit_down)
        # T = J W (2, 3), then U = T M (2, 3), covariance U U^T.
        t00, t01, t02 = (
            jx * camera[0] + jxz * camera[6],
            jx * camera[1] + jxz * camera[7],
            jx * camera[2] + jxz * camera[8],
        )
        t10, t11, t12 = (
            jy * camera[3] + jyz * camera[6],
            jy * camera[4] + jyz * camera[7],
            jy * camera[5] + jyz * camera[8],
        )
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
        # det(U U^T) is the sum of the squared minors of U (Cauchy-Binet): never negative, and a long
        # slanted needle does not lose it in a difference of large products.
        minor_a, minor_b, minor_c = u00 * u11 - u01 * u10, u00 * u12 - u02 * u10, u01 * u12 - u02 * u11
        undilated = minor_a * minor_a + minor_b * minor_b + minor_c * minor_c
        determinant = undilated + DILATION * (cov_xx + cov_yy - DILATION)
        if not determinant < WIDEST:
            continue
        if antialiased:
            opacity *= np.sqrt(undilated / determinant)
            reach = _TWO * np.log(ALPHA_MAX_RATIO * opacity)
            if not reach > _ZERO:
                continue
        px, py = fx * tx * inverse + cx, fy * ty * inverse + cy
        extent_x, extent_y = np.sqrt(reach * cov_xx), np.sqrt(reach * cov_yy)
        if not (
            px + extent_x > _ZERO
            and px - extent_x < width
            and py + extent_y > _ZERO
            and py - extent_y < height
        ):
            continue
        if count == 1:
            red, green, blue = (
                _HALF + _Y0 * harmonics[i, 0, 0],
                _HALF + _Y0 * harmonics[i, 0, 1],
                _HALF + _Y0 * harmonics[i, 0, 2],
            )
        else:
            dx, dy, dz = x - camera[18], y - camera[19], z - camera[20]
            norm = _ONE / np.sqrt(dx * dx + dy * dy + dz * dz)
            fill_basis(dx * norm, dy * norm, dz * norm, count, basis)
            red = green = blue = _HALF
            for k in range(count):
                red += basis[k] * harmonics[i, k, 0]
                green += basis[k] * harmonics[i, k, 1]
                blue += basis[k] * harmonics[i, k, 2]
        if not (abs(red) < BRIGHTEST and abs(green) < BRIGHTEST and abs(blue) < BRIGHTEST):
            continue
        inverse = _ONE / determinant
        screen[i, 0], screen[i, 1] = px, py
        screen[i, 2], screen[i, 3], screen[i, 4] = cov_yy * inverse, -cov_xy * inverse, cov_xx * inverse
        screen[i, 5], screen[i, 9], screen[i, 10], screen[i, 11] = opacity, extent_y, tz, extent_x
        screen[i, 12], screen[i, 13] = LOG2_E * _HALF * reach - LOG2_255, -cov_xy / cov_xx
        screen[i, 14], screen[i, 15] = -LOG2_E * _HALF / cov_xx, -LOG2_E * _HALF * cov_xx * inverse
        screen[i, 6], screen[i, 7], screen[i, 8] = max(red, _ZERO), max(green, _ZERO), max(blue, _ZERO)
        # Pixel centres px - extent .. px + extent.
        first_band[i] = int(max(px - extent_x, _ZERO)) >> BAND_BITS
        last_band[i] = int(min(px + extent_x, width - _HALF)) >> BAND_BITS
        depth[i] = tz


@kernel
def project_back(
    camera, antialiased, moving, positions, scales, rotations, opacities, harmonics, screen, grad_screen,
    grad_positions, grad_scales, grad_rotations, grad_opacities, grad_harmonics, grad_camera,
):  # fmt: skip
    """Gradients of screen (SCREEN_GRADIENT columns) -> gradients of the Gaussians.

    The outputs need no zeros before. With `moving` also adds to grad_camera (CAMERA_GRADIENT,) float64: see
    `CameraGradient` in splat_raster.py.
    """
    basis, basis_gradient = np.empty(16, dtype=np.float32), np.empty((16, 3), dtype=np.float32)
    count = harmonics.shape[1]
    fx, fy, cx, cy, width, height = camera[12], camera[13], camera[14], camera[15], camera[16], camera[17]
    limit_right, limit_left = (width - cx + MARGIN * width) / fx, (cx + MARGIN * width) / fx
    limit_down, limit_up = (height - cy + MARGIN * height) / fy, (cy + MARGIN * height) / fy
    w = camera
    for i in range(len(opacities)):
        used = False
        for k in range(_COLUMNS):
            used |= grad_screen[i, k] != _ZERO
        if screen[i, 10] >= NOT_DRAWN or not used:  # not drawn, or hidden behind others
            grad_positions[i], grad_scales[i], grad_rotations[i], grad_opacities[i] = (
                _ZERO,
                _ZERO,
                _ZERO,
                _ZERO,
            )
            grad_harmonics[i] = _ZERO
            continue
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        tx = w[0] * x + w[1] * y + w[2] * z + w[9]
        ty = w[3] * x + w[4] * y + w[5] * z + w[10]
        inverse = _ONE / screen[i, 10]

        # Colour: harmonics, and positions through the view direction.
        red, green, blue = (
            grad_screen[i, 6] if screen[i, 6] > _ZERO else _ZERO,
            grad_screen[i, 7] if screen[i, 7] > _ZERO else _ZERO,
            grad_screen[i, 8] if screen[i, 8] > _ZERO else _ZERO,
        )
        grad_harmonics[i, 0, 0], grad_harmonics[i, 0, 1], grad_harmonics[i, 0, 2] = (
            _Y0 * red,
            _Y0 * green,
            _Y0 * blue,
        )
        gx = gy = gz = _ZERO
        if count > 1:
            dx, dy, dz = x - w[18], y - w[19], z - w[20]
            norm = _ONE / np.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx * norm, dy * norm, dz * norm
            fill_basis(dx, dy, dz, count, basis)
            fill_basis_gradient(dx, dy, dz, count, basis_gradient)
            for k in range(1, count):
                value = basis[k]
                grad_harmonics[i, k, 0] = value * red
                grad_harmonics[i, k, 1] = value * green
                grad_harmonics[i, k, 2] = value * blue
                weight = red * harmonics[i, k, 0] + green * harmonics[i, k, 1] + blue * harmonics[i, k, 2]
                gx += weight * basis_gradient[k, 0]
                gy += weight * basis_gradient[k, 1]
                gz += weight * basis_gradient[k, 2]
            along = gx * dx + gy * dy + gz * dz
            gx, gy, gz = (gx - along * dx) * norm, (gy - along * dy) * norm, (gz - along * dz) * norm

        qw, qx, qy, qz = rotations[i, 0], rotations[i, 1], rotations[i, 2], rotations[i, 3]
        length = _ONE / np.sqrt(max(qw * qw + qx * qx + qy * qy + qz * qz, TINY))
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
        sx, sy, sz = scales[i, 0], scales[i, 1], scales[i, 2]

        jx, jy = fx * inverse, fy * inverse
        slope_x, slope_y = tx * inverse, ty * inverse
        held_x = min(max(slope_x, -limit_left), limit_right)
        held_y = min(max(slope_y, -limit_up), limit_down)
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
        ga, gb, gc = -_TWO * grad_screen[i, 2], -grad_screen[i, 3], -_TWO * grad_screen[i, 4]
        d00, d01, d02 = ga * q00 + gb * q10, ga * q01 + gb * q11, ga * q02 + gb * q12
        d10, d11, d12 = gb * q00 + gc * q10, gb * q01 + gc * q11, gb * q02 + gc * q12
        a00, a11, a22 = q00 * d00 + q10 * d10, q01 * d01 + q11 * d11, q02 * d02 + q12 * d12
        a01, a02, a12 = q00 * d01 + q10 * d11, q00 * d02 + q10 * d12, q01 * d02 + q11 * d12
        a, b, c = screen[i, 2], screen[i, 3], screen[i, 4]
        d00, d10 = a * d00 + b * d10, b * d00 + c * d10
        d01, d11 = a * d01 + b * d11, b * d01 + c * d11
        d02, d12 = a * d02 + b * d12, b * d02 + c * d12
        grad_opacities[i] = grad_screen[i, 5]
        if antialiased:
            # shrink = sqrt(undilated density), d shrink / dU = shrink (adj(U U^T) U / undilated - K U).
            shrink = np.sqrt(undilated * density)
            grad_opacities[i] = grad_screen[i, 5] * shrink
            g = grad_screen[i, 5] * opacities[i] * shrink
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
        grad_scales[i, 0] = a00 * sx
        grad_scales[i, 1] = a11 * sy
        grad_scales[i, 2] = a22 * sz
        # A small turn about the Gaussian's own axes changes U by P Omega S: the antisymmetric part of A S^2.
        turn_x, turn_y, turn_z = a12 * (syy - szz), a02 * (szz - sxx), a01 * (sxx - syy)
        length *= _TWO
        grad_rotations[i, 0] = -length * (qx * turn_x + qy * turn_y + qz * turn_z)
        grad_rotations[i, 1] = length * (qw * turn_x + qy * turn_z - qz * turn_y)
        grad_rotations[i, 2] = length * (qw * turn_y + qz * turn_x - qx * turn_z)
        grad_rotations[i, 3] = length * (qw * turn_z + qx * turn_y - qy * turn_x)

        # dL/dJ = dL/dP B^T.
        d00, d01, d02 = d00 * sxx, d01 * syy, d02 * szz
        d10, d11, d12 = d10 * sxx, d11 * syy, d12 * szz
        gjx, gjxz = d00 * b00 + d01 * b01 + d02 * b02, d00 * b20 + d01 * b21 + d02 * b22
        gjy, gjyz = d10 * b10 + d11 * b11 + d12 * b12, d10 * b20 + d11 * b21 + d12 * b22
        # px = fx tx / tz + cx; jx = fx / tz; jxz = -fx held / tz (held = tx / tz inside the limits).
        gtx, gty = grad_screen[i, 0] * jx, grad_screen[i, 1] * jy
        gtz = grad_screen[i, 9]
        gtz -= inverse * (gtx * tx + gty * ty + gjx * jx + gjy * jy + gjxz * jxz + gjyz * jyz)
        if held_x == slope_x:
            gtx -= gjxz * jx * inverse
            gtz += gjxz * jx * slope_x * inverse
        if held_y == slope_y:
            gty -= gjyz * jy * inverse
            gtz += gjyz * jy * slope_y * inverse
        grad_positions[i, 0] = gx + w[0] * gtx + w[3] * gty + w[6] * gtz
        grad_positions[i, 1] = gy + w[1] * gtx + w[4] * gty + w[7] * gtz
        grad_positions[i, 2] = gz + w[2] * gtx + w[5] * gty + w[8] * gtz
        if moving:
            tz = screen[i, 10]
            g01, g10 = d00 * b10 + d01 * b11 + d02 * b12, d10 * b00 + d11 * b01 + d12 * b02
            # The rotation Omega turns the point, and B in P = J B: dL/d Omega = J^T dL/dP B^T.
            grad_camera[0] += ty * gtz - tz * gty + jxz * g01 + jyz * gjy - jy * gjyz
            grad_camera[1] += tz * gtx - tx * gtz + jx * gjxz - jxz * gjx - jyz * g10
            grad_camera[2] += tx * gty - ty * gtx + jy * g10 - jx * g01
            # The translation moves the point, and the camera's centre the other way.
            grad_camera[3] += gtx + w[0] * gx + w[1] * gy + w[2] * gz
            grad_camera[4] += gty + w[3] * gx + w[4] * gy + w[5] * gz
            grad_camera[5] += gtz + w[6] * gx + w[7] * gy + w[8] * gz
            inside_x, inside_y = held_x == slope_x, held_y == slope_y
            grad_camera[6] += (
                grad_screen[i, 0] * slope_x + (gjx * jx + (gjxz * jxz if inside_x else _ZERO)) / fx
            )
            grad_camera[7] += (
                grad_screen[i, 1] * slope_y + (gjy * jy + (gjyz * jyz if inside_y else _ZERO)) / fy
            )
            grad_camera[8] += grad_screen[i, 0] + (_ZERO if inside_x else gjxz * inverse)
            grad_camera[9] += grad_screen[i, 1] + (_ZERO if inside_y else gjyz * inverse)
