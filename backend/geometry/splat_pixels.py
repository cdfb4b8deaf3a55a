"""Blending of Gaussians in the pixels of one band, front to back, and its gradient.

A pixel's state stands in one float32 buffer of planes of 512, a tile of 32x16 pixels, block by block of 4x4
(`splat_tiles`), so that the loop over a block is one flat run that LLVM turns into vector code: no branch
in it, no second base pointer. A pixel that has reached its last Gaussian ("dead") has negative transmittance.

Image formation as in GSplat 1.5: pixel centres at +0.5, alpha = min(0.999, o exp(-s)), left out below
1/255, and a pixel ends before the Gaussian that would bring its transmittance to 1e-4 or less.

The backward pass walks front to back as well: with S, the upstream gradient times the final colour,
known, what lies behind a Gaussian is S minus the running sum; nothing is stored for each pair.

Each kernel comes twice, made from one source: with a fifth plane of accumulated depth and without. The
choice is made while compiling, so that pictures without depth do not pay for it.
"""

import numpy as np

from backend.geometry.jit import inline_kernel, kernel
from backend.geometry.splat_tiles import BLOCKS, TILE_HEIGHT, TILE_WIDTH

_u = np.uint64
_LANES = TILE_WIDTH * TILE_HEIGHT
# Planes of the state buffer, as unsigned offsets: a signed index would cost a wrap-around test each.
_T, _R, _G, _B, _X, _Y = (_u(_LANES * i) for i in range(6))
_VR, _VG, _VB, _VA, _LEFT = (_u(_LANES * i) for i in (1, 2, 3, 6, 7))
_Z, _VZ = _u(6 * _LANES), _u(8 * _LANES)
_FORWARD_SIZE, _BACKWARD_SIZE = 7 * _LANES, 9 * _LANES
_BLOCK = _LANES // BLOCKS

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_ALPHA_MIN, _ALPHA_MAX = np.float32(1 / 255), np.float32(0.999)
_T_MIN = np.float32(1e-4)
_S_MAX = np.float32(6)
"""exp(-6) < 1/255: beyond, alpha never counts, and the polynomial below is not asked."""
# exp(-s) = p(s / 16)^16 on 0..6; p minimises the relative error (2.2e-6 after the power).
_P1, _P2, _P3, _P4 = (np.float32(c) for c in (-0.99998913, 0.49972659, -0.1644891, 0.03466301))
_SIXTEENTH = np.float32(1 / 16)
_CHECK = 31
"""Every 32 hits of a tile, look whether any pixel is still alive."""


@inline_kernel
def _lane(row, column):
    """Where a pixel of the tile stands in a plane."""
    return (column >> 2) * 64 + row * 4 + (column & 3)


def _make(depth):
    """(blend, blend_back), with the depth plane or without."""

    @kernel
    def blend(x0, width, height, starts, hits, local, background, out):
        """Render one band: out (4 or 5, H, W) float32 gets R, G, B over `background` (3,), alpha, depth."""
        state = np.empty(_FORWARD_SIZE, dtype=np.float32)
        for tile in range(len(starts) - 1):
            y0 = tile * TILE_HEIGHT
            for i in range(_LANES):
                state[i] = _ONE
                state[_LANES + i] = state[2 * _LANES + i] = state[3 * _LANES + i] = _ZERO
                if depth:
                    state[6 * _LANES + i] = _ZERO
                state[4 * _LANES + i] = np.float32(x0 + 4 * (i >> 6) + (i & 3)) + _HALF
                state[5 * _LANES + i] = np.float32(y0 + ((i >> 2) & 15)) + _HALF
            for h in range(starts[tile], starts[tile + 1]):
                hit = hits[h]
                n = hit >> BLOCKS
                x, y, a, b, c, o = (
                    local[n, 0],
                    local[n, 1],
                    _HALF * local[n, 2],
                    local[n, 3],
                    _HALF * local[n, 4],
                    local[n, 5],
                )
                red, green, blue, z = local[n, 6], local[n, 7], local[n, 8], local[n, 10]
                for k in range(BLOCKS):
                    if not (hit >> k) & 1:
                        continue
                    for i in range(_u(_BLOCK * k), _u(_BLOCK * k + _BLOCK)):
                        dx, dy = state[i + _X] - x, state[i + _Y] - y
                        s = a * dx * dx + b * dx * dy + c * dy * dy
                        held = min(s, _S_MAX) * _SIXTEENTH
                        e = _ONE + held * (_P1 + held * (_P2 + held * (_P3 + held * _P4)))
                        e = e * e
                        e = e * e
                        e = e * e
                        alpha = min(o * e * e, _ALPHA_MAX)
                        t = state[i]
                        alpha = alpha if (alpha >= _ALPHA_MIN) & (s >= _ZERO) & (t > _ZERO) else _ZERO
                        after = t - t * alpha
                        ends = (after <= _T_MIN) & (t > _ZERO)
                        weight = _ZERO if ends else t * alpha
                        state[i] = -t if ends else after
                        state[i + _R] += weight * red
                        state[i + _G] += weight * green
                        state[i + _B] += weight * blue
                        if depth:
                            state[i + _Z] += weight * z
                if (h & _CHECK) == _CHECK:
                    alive = _ZERO
                    for i in range(_LANES):
                        alive = max(alive, state[i])
                    if alive == _ZERO:
                        break
            for i in range(min(TILE_HEIGHT, height - y0)):
                for j in range(min(TILE_WIDTH, width - x0)):
                    lane = _lane(i, j)
                    t = abs(state[lane])
                    for channel in range(3):
                        out[channel, y0 + i, x0 + j] = (
                            state[(1 + channel) * _LANES + lane] + t * background[channel]
                        )
                    out[3, y0 + i, x0 + j] = _ONE - t
                    if depth:
                        out[4, y0 + i, x0 + j] = state[6 * _LANES + lane]

    @kernel
    def blend_back(x0, width, height, starts, hits, local, image, upstream, grad_local):
        """Gradient of one band, into the columns of grad_local (n, LOCAL), which the caller has zeroed.

        image: what `blend` wrote; upstream, of the same shape: dL/dR, dL/dG, dL/dB, dL/dalpha, dL/ddepth.
        """
        state = np.empty(_BACKWARD_SIZE, dtype=np.float32)
        for tile in range(len(starts) - 1):
            if starts[tile] == starts[tile + 1]:
                continue
            y0 = tile * TILE_HEIGHT
            for i in range(TILE_HEIGHT):
                for j in range(TILE_WIDTH):
                    lane = _lane(i, j)
                    state[4 * _LANES + lane] = np.float32(x0 + j) + _HALF
                    state[5 * _LANES + lane] = np.float32(y0 + i) + _HALF
                    inside = y0 + i < height and x0 + j < width
                    state[lane] = _ONE if inside else -_ONE
                    left = _ZERO
                    for channel in range(4):
                        v = upstream[channel, y0 + i, x0 + j] if inside else _ZERO
                        state[(channel + 1 if channel < 3 else 6) * _LANES + lane] = v
                        left += v * (image[channel, y0 + i, x0 + j] if inside else _ZERO)
                    if depth:
                        v = upstream[4, y0 + i, x0 + j] if inside else _ZERO
                        state[8 * _LANES + lane] = v
                        left += v * (image[4, y0 + i, x0 + j] if inside else _ZERO)
                    state[7 * _LANES + lane] = left
            for h in range(starts[tile], starts[tile + 1]):
                hit = hits[h]
                n = hit >> BLOCKS
                x, y, o = local[n, 0], local[n, 1], local[n, 5]
                a, b, c = _HALF * local[n, 2], local[n, 3], _HALF * local[n, 4]
                red, green, blue, z = local[n, 6], local[n, 7], local[n, 8], local[n, 10]
                g_0 = g_x = g_y = g_xx = g_xy = g_yy = g_red = g_green = g_blue = g_z = _ZERO
                for k in range(BLOCKS):
                    if not (hit >> k) & 1:
                        continue
                    for i in range(_u(_BLOCK * k), _u(_BLOCK * k + _BLOCK)):
                        dx, dy = state[i + _X] - x, state[i + _Y] - y
                        s = a * dx * dx + b * dx * dy + c * dy * dy
                        held = min(s, _S_MAX) * _SIXTEENTH
                        e = _ONE + held * (_P1 + held * (_P2 + held * (_P3 + held * _P4)))
                        e = e * e
                        e = e * e
                        e = e * e
                        e = o * e * e
                        alpha = min(e, _ALPHA_MAX)
                        t = state[i]
                        alpha = alpha if (alpha >= _ALPHA_MIN) & (s >= _ZERO) & (t > _ZERO) else _ZERO
                        after = t - t * alpha
                        ends = (after <= _T_MIN) & (t > _ZERO)
                        alpha = _ZERO if ends else alpha
                        weight = t * alpha
                        state[i] = -t if ends else after
                        vr, vg, vb = state[i + _VR], state[i + _VG], state[i + _VB]
                        seen = vr * red + vg * green + vb * blue + state[i + _VA]
                        if depth:
                            seen += state[i + _VZ] * z
                            g_z += weight * state[i + _VZ]
                        left = state[i + _LEFT] - weight * seen
                        state[i + _LEFT] = left
                        # dL/ds = -alpha dL/dalpha, and 0 where alpha is clamped.
                        g = left * alpha / (_ONE - alpha) - weight * seen
                        g = g if e <= _ALPHA_MAX else _ZERO
                        g_0 += g
                        g_x += g * dx
                        g_y += g * dy
                        g_xx += g * dx * dx
                        g_xy += g * dx * dy
                        g_yy += g * dy * dy
                        g_red += weight * vr
                        g_green += weight * vg
                        g_blue += weight * vb
                grad_local[n, 0] -= local[n, 2] * g_x + b * g_y
                grad_local[n, 1] -= b * g_x + local[n, 4] * g_y
                grad_local[n, 2] += _HALF * g_xx
                grad_local[n, 3] += g_xy
                grad_local[n, 4] += _HALF * g_yy
                grad_local[n, 5] -= g_0 / o
                grad_local[n, 6] += g_red
                grad_local[n, 7] += g_green
                grad_local[n, 8] += g_blue
                if depth:
                    grad_local[n, 9] += g_z
                if (h & _CHECK) == _CHECK:
                    alive = _ZERO
                    for i in range(_LANES):
                        alive = max(alive, state[i])
                    if alive <= _ZERO:
                        break

    return blend, blend_back


blend_band, blend_band_back = _make(False)
"""Pictures of 4 planes: R, G, B over the background, alpha."""
blend_band_depth, blend_band_depth_back = _make(True)
"""Pictures of 5 planes: plane 4 is the sum of weight times depth along the axis, metres."""


@kernel
def median_band(x0, width, height, starts, hits, local, out):
    """out (H, W) float32: depth of the Gaussian that brings the transmittance to a half; inf without one."""
    state = np.empty(4 * _LANES, dtype=np.float32)
    for tile in range(len(starts) - 1):
        y0 = tile * TILE_HEIGHT
        for i in range(_LANES):
            state[i] = _ONE
            state[_LANES + i] = np.float32(x0 + 4 * (i >> 6) + (i & 3)) + _HALF
            state[2 * _LANES + i] = np.float32(y0 + ((i >> 2) & 15)) + _HALF
            state[3 * _LANES + i] = np.inf
        for h in range(starts[tile], starts[tile + 1]):
            hit = hits[h]
            n = hit >> BLOCKS
            a, b, c, o = _HALF * local[n, 2], local[n, 3], _HALF * local[n, 4], local[n, 5]
            for k in range(BLOCKS):
                if not (hit >> k) & 1:
                    continue
                for i in range(_u(_BLOCK * k), _u(_BLOCK * k + _BLOCK)):
                    dx, dy = state[_LANES + i] - local[n, 0], state[2 * _LANES + i] - local[n, 1]
                    s = a * dx * dx + b * dx * dy + c * dy * dy
                    alpha = min(o * np.exp(-s), _ALPHA_MAX)
                    if alpha >= _ALPHA_MIN and s >= _ZERO and state[i] > _HALF:
                        state[i] -= state[i] * alpha
                        if state[i] <= _HALF:
                            state[3 * _LANES + i] = local[n, 10]
            if (h & _CHECK) == _CHECK and np.max(state[:_LANES]) <= _HALF:
                break
        for i in range(min(TILE_HEIGHT, height - y0)):
            for j in range(min(TILE_WIDTH, width - x0)):
                out[y0 + i, x0 + j] = state[3 * _LANES + _lane(i, j)]
