"""3D Gaussians -> 2D Gaussians on one picture, and the gradients back (EWA splatting as in GSplat 1.5).

The kernels work on a range of Gaussians. `screen` holds one row a Gaussian:

    0, 1     centre x, y in pixels
    2, 3, 4  conic a, b, c: the inverse of the dilated 2D covariance [[a, b], [b, c]]
    5        opacity
    6, 7, 8  colour (RGB, clamped at 0 below)
    9        reach: 2 ln(255 opacity), the squared Mahalanobis distance where alpha falls to 1/255
    10       depth along the camera's axis, metres

`camera` is one float32 vector: rotation camera_from_world (9, rows), translation (3), fx, fy, cx, cy,
width, height, camera centre in the world (3).
"""

import numpy as np

from backend.geometry.harmonics import fill_basis, fill_basis_gradient
from backend.geometry.jit import kernel

SCREEN = 11
"""Columns of `screen`."""
SCREEN_GRADIENT = 10
"""Columns of its gradient: 0 to 8 as in `screen`, and 9 for the depth; the reach has none."""

_DILATION = np.float32(0.3)
"""eps2d of GSplat: pixels^2 added to the 2D covariance, so that no Gaussian falls between pixels."""
_NEAR = np.float32(0.01)
_FAR = np.float32(1e10)
_MARGIN = np.float32(0.15)
"""The Jacobian is taken at most 30 % of the half picture outside it (0.3 * 0.5), as in INRIA's."""
_ZERO, _HALF, _ONE, _TWO, _OUTSIDE = (np.float32(n) for n in (0, 0.5, 1, 2, 1e30))
_ALPHA_MAX_RATIO = np.float32(255)
_SMALLEST = np.float32(1e-10)
_TINY = np.float32(1e-20)


def pack_camera(world_from_camera: np.ndarray, intrinsics: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pose (4, 4), intrinsics (3, 3) pixels -> the (21,) float32 vector of the kernels. No skew."""
    view = np.linalg.inv(world_from_camera)
    focal = [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]
    parts = [view[:3, :3].ravel(), view[:3, 3], focal, [width, height], np.asarray(world_from_camera)[:3, 3]]
    return np.concatenate(parts).astype(np.float32)


@kernel
def project_range(
    start, stop, camera, positions, scales, rotations, opacities, harmonics, basis, screen, depth, columns
):
    """Fill rows start..stop of screen, depth (inf = not drawn) and columns (first, last tile column).

    basis (16,) float32 scratch. All arrays float32, columns int32.
    """
    count = harmonics.shape[1]
    fx, fy, cx, cy, width, height = camera[12], camera[13], camera[14], camera[15], camera[16], camera[17]
    limit_right, limit_left = (width - cx + _MARGIN * width) / fx, (cx + _MARGIN * width) / fx
    limit_down, limit_up = (height - cy + _MARGIN * height) / fy, (cy + _MARGIN * height) / fy
    for i in range(start, stop):
        depth[i] = _OUTSIDE
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        tx = camera[0] * x + camera[1] * y + camera[2] * z + camera[9]
        ty = camera[3] * x + camera[4] * y + camera[5] * z + camera[10]
        tz = camera[6] * x + camera[7] * y + camera[8] * z + camera[11]
        reach = _TWO * np.log(_ALPHA_MAX_RATIO * opacities[i])
        # Written so that a NaN anywhere leaves the Gaussian out.
        if not (tz > _NEAR and tz < _FAR and reach > _ZERO):
            continue
        qw, qx, qy, qz = rotations[i, 0], rotations[i, 1], rotations[i, 2], rotations[i, 3]
        norm = qw * qw + qx * qx + qy * qy + qz * qz
        if not norm > _TINY:
            continue
        norm = _TWO / norm
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
        cov_xx = u00 * u00 + u01 * u01 + u02 * u02 + _DILATION
        cov_xy = u00 * u10 + u01 * u11 + u02 * u12
        cov_yy = u10 * u10 + u11 * u11 + u12 * u12 + _DILATION
        determinant = max(cov_xx * cov_yy - cov_xy * cov_xy, _SMALLEST)
        px, py = fx * tx * inverse + cx, fy * ty * inverse + cy
        extent_x, extent_y = np.sqrt(reach * cov_xx), np.sqrt(reach * cov_yy)
        if not (
            px + extent_x > _ZERO
            and px - extent_x < width
            and py + extent_y > _ZERO
            and py - extent_y < height
        ):
            continue
        inverse = _ONE / determinant
        screen[i, 0], screen[i, 1] = px, py
        screen[i, 2], screen[i, 3], screen[i, 4] = cov_yy * inverse, -cov_xy * inverse, cov_xx * inverse
        screen[i, 5], screen[i, 9], screen[i, 10] = opacities[i], reach, tz
        dx, dy, dz = x - camera[18], y - camera[19], z - camera[20]
        norm = _ONE / np.sqrt(dx * dx + dy * dy + dz * dz)
        fill_basis(dx * norm, dy * norm, dz * norm, count, basis)
        for channel in range(3):
            value = _HALF
            for k in range(count):
                value += basis[k] * harmonics[i, k, channel]
            screen[i, 6 + channel] = max(value, _ZERO)
        # Pixel centres px - extent .. px + extent, in columns of 8 pixels.
        columns[i, 0] = int(max(px - extent_x, _ZERO)) >> 3
        columns[i, 1] = int(min(px + extent_x, width - _HALF)) >> 3
        depth[i] = tz


@kernel
def project_back_range(
    start, stop, camera, positions, scales, rotations, harmonics, basis, basis_gradient, screen, depth,
    grad_screen, grad_positions, grad_scales, grad_rotations, grad_opacities, grad_harmonics,
):  # fmt: skip
    """Gradients of rows start..stop of screen (SCREEN_GRADIENT columns) -> gradients of the Gaussians.

    Adds nothing: overwrites its rows of the outputs. basis (16,), basis_gradient (16, 3) scratch.
    """
    count = harmonics.shape[1]
    fx, fy, cx, cy, width, height = camera[12], camera[13], camera[14], camera[15], camera[16], camera[17]
    limit_right, limit_left = (width - cx + _MARGIN * width) / fx, (cx + _MARGIN * width) / fx
    limit_down, limit_up = (height - cy + _MARGIN * height) / fy, (cy + _MARGIN * height) / fy
    w = camera
    for i in range(start, stop):
        if depth[i] >= _OUTSIDE:
            for k in range(3):
                grad_positions[i, k] = _ZERO
                grad_scales[i, k] = _ZERO
                grad_rotations[i, k] = _ZERO
                for j in range(count):
                    grad_harmonics[i, j, k] = _ZERO
            grad_rotations[i, 3] = _ZERO
            grad_opacities[i] = _ZERO
            continue
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        tx = w[0] * x + w[1] * y + w[2] * z + w[9]
        ty = w[3] * x + w[4] * y + w[5] * z + w[10]
        inverse = _ONE / depth[i]
        grad_opacities[i] = grad_screen[i, 5]

        # Colour: harmonics, and positions through the view direction.
        dx, dy, dz = x - w[18], y - w[19], z - w[20]
        norm = _ONE / np.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx * norm, dy * norm, dz * norm
        fill_basis(dx, dy, dz, count, basis)
        gx = gy = gz = _ZERO
        if count > 1:
            fill_basis_gradient(dx, dy, dz, count, basis_gradient)
        for channel in range(3):
            upstream = grad_screen[i, 6 + channel] if screen[i, 6 + channel] > _ZERO else _ZERO
            grad_harmonics[i, 0, channel] = upstream * basis[0]
            for k in range(1, count):
                grad_harmonics[i, k, channel] = upstream * basis[k]
                weight = upstream * harmonics[i, k, channel]
                gx += weight * basis_gradient[k, 0]
                gy += weight * basis_gradient[k, 1]
                gz += weight * basis_gradient[k, 2]
        along = gx * dx + gy * dy + gz * dz
        gx, gy, gz = (gx - along * dx) * norm, (gy - along * dy) * norm, (gz - along * dz) * norm

        # Conic -> covariance: dL/dC = -K G K, with G = [[ga, gb/2], [gb/2, gc]].
        a, b, c = screen[i, 2], screen[i, 3], screen[i, 4]
        ga, gb, gc = grad_screen[i, 2], _HALF * grad_screen[i, 3], grad_screen[i, 4]
        k00, k01, k10, k11 = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
        # Symmetric gradient of C = U U^T, so dL/dU = 2 V U.
        v00, v01, v11 = (
            -_TWO * (k00 * a + k01 * b),
            -_TWO * (k00 * b + k01 * c),
            -_TWO * (k10 * b + k11 * c),
        )

        qw, qx, qy, qz = rotations[i, 0], rotations[i, 1], rotations[i, 2], rotations[i, 3]
        length = _ONE / np.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
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
        t00, t01, t02 = jx * w[0] + jxz * w[6], jx * w[1] + jxz * w[7], jx * w[2] + jxz * w[8]
        t10, t11, t12 = jy * w[3] + jyz * w[6], jy * w[4] + jyz * w[7], jy * w[5] + jyz * w[8]
        # U / S = T R; U = (T R) S.
        p00, p01, p02 = (
            t00 * r00 + t01 * r10 + t02 * r20,
            t00 * r01 + t01 * r11 + t02 * r21,
            t00 * r02 + t01 * r12 + t02 * r22,
        )
        p10, p11, p12 = (
            t10 * r00 + t11 * r10 + t12 * r20,
            t10 * r01 + t11 * r11 + t12 * r21,
            t10 * r02 + t11 * r12 + t12 * r22,
        )
        # D = dL/dU.
        d00, d01, d02 = (
            (v00 * p00 + v01 * p10) * sx,
            (v00 * p01 + v01 * p11) * sy,
            (v00 * p02 + v01 * p12) * sz,
        )
        d10, d11, d12 = (
            (v01 * p00 + v11 * p10) * sx,
            (v01 * p01 + v11 * p11) * sy,
            (v01 * p02 + v11 * p12) * sz,
        )
        grad_scales[i, 0] = d00 * p00 + d10 * p10
        grad_scales[i, 1] = d01 * p01 + d11 * p11
        grad_scales[i, 2] = d02 * p02 + d12 * p12
        # E = dL/dR = T^T D S.
        d00, d01, d02, d10, d11, d12 = d00 * sx, d01 * sy, d02 * sz, d10 * sx, d11 * sy, d12 * sz
        e00, e01, e02 = t00 * d00 + t10 * d10, t00 * d01 + t10 * d11, t00 * d02 + t10 * d12
        e10, e11, e12 = t01 * d00 + t11 * d10, t01 * d01 + t11 * d11, t01 * d02 + t11 * d12
        e20, e21, e22 = t02 * d00 + t12 * d10, t02 * d01 + t12 * d11, t02 * d02 + t12 * d12
        gqw = _TWO * (qx * (e21 - e12) + qy * (e02 - e20) + qz * (e10 - e01))
        gqx = _TWO * (qy * (e01 + e10) + qz * (e02 + e20) + qw * (e21 - e12) - _TWO * qx * (e11 + e22))
        gqy = _TWO * (qx * (e01 + e10) + qz * (e12 + e21) + qw * (e02 - e20) - _TWO * qy * (e00 + e22))
        gqz = _TWO * (qx * (e02 + e20) + qy * (e12 + e21) + qw * (e10 - e01) - _TWO * qz * (e00 + e11))
        along = gqw * qw + gqx * qx + gqy * qy + gqz * qz
        grad_rotations[i, 0] = (gqw - along * qw) * length
        grad_rotations[i, 1] = (gqx - along * qx) * length
        grad_rotations[i, 2] = (gqy - along * qy) * length
        grad_rotations[i, 3] = (gqz - along * qz) * length

        # F = dL/dT = D S (R^T), D already times S.
        f00, f01, f02 = (
            d00 * r00 + d01 * r01 + d02 * r02,
            d00 * r10 + d01 * r11 + d02 * r12,
            d00 * r20 + d01 * r21 + d02 * r22,
        )
        f10, f11, f12 = (
            d10 * r00 + d11 * r01 + d12 * r02,
            d10 * r10 + d11 * r11 + d12 * r12,
            d10 * r20 + d11 * r21 + d12 * r22,
        )
        gjx = f00 * w[0] + f01 * w[1] + f02 * w[2]
        gjxz = f00 * w[6] + f01 * w[7] + f02 * w[8]
        gjy = f10 * w[3] + f11 * w[4] + f12 * w[5]
        gjyz = f10 * w[6] + f11 * w[7] + f12 * w[8]
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
