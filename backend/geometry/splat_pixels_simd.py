"""The loops of `splat_pixels` with explicit vector registers: same kernels, same arguments, half the time.

A block of 4x4 pixels is the sixteen lanes of `simd.py`; a tile is 32 blocks. The state of a block lies
together in memory: its pixel centres, the transmittance, then sums or upstream gradients. What a block
costs was counted in instructions:

- The exponent is completed to squares, -s = -dx^2 / (2 var_x) - c/2 (dy + b/c dx)^2, with factors that stand
  ready in `local`; s is never negative, and needles lose no digits.
- 2^h with h = log2 alpha needs neither a test of its range nor a product with the opacity: one comparison
  h >= log2(1/255) decides what counts.
- Forward, a pixel that has reached its last Gaussian keeps what it had left as a negative transmittance. In
  the gradient it goes on with next to nothing, which ends it again at every Gaussian: one test less.
- Gradient of ln alpha: weight (seen - left / after), with one division, and no special case for pixels that
  ended, since their weight is 0.
- A Gaussian's nine sums stay in registers over the blocks of a tile; their sums over the lanes are made
  together, and stay moments until the band is done.
"""

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.simd import LANES, constant, lowest_bit, power_of_two, smaller, some, splat, where
from backend.geometry.simd_moves import aligned, load, load_rows, store, store_rows, totals
from backend.geometry.splat_tiles import BLOCKS, TILE_HEIGHT

_u = np.uint64
_f = np.float32
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)
_IN_X, _IN_Y = constant([i % 4 + 0.5 for i in range(LANES)]), constant([i // 4 + 0.5 for i in range(LANES)])
_ALPHA_MAX, _T_MIN = _f(0.999), _f(1e-4)
_ENDED = _f(1e-20)
"""Transmittance of a pixel that has ended. Not 0: 0 / 0 would be NaN."""
_H_MIN, _H_MAX = _f(np.log2(1 / 255)), _f(np.log2(0.999))
# Places in a block's state.
_T, _X, _Y, _LEFT, _R, _G, _B, _A, _Z, _SIZE = (_u(LANES * i) for i in range(10))
_CHECK = 31
"""Every 32 hits of a tile, look whether any pixel is still alive."""
_NEXT, _ALL = _u(1), _u((1 << BLOCKS) - 1)


@kernel
def _fill_centers(state, x0, y0):
    for k in range(BLOCKS):
        at = _u(k) * _SIZE
        store(state, at + _X, _IN_X() + _f(x0 + 4 * (k >> 2)))
        store(state, at + _Y, _IN_Y() + _f(y0 + 4 * (k & 3)))


@kernel
def _alive(state):
    """Does any pixel of the tile go on?"""
    alive = load(state, _T) > _T_MIN
    for k in range(1, BLOCKS):
        alive = alive | (load(state, _u(k) * _SIZE + _T) > _T_MIN)
    return some(alive)


def _make(depth):
    """(blend, blend_back), with the depth plane or without."""

    @kernel
    def blend(x0, width, height, starts, hits, local, background, out):
        """As `splat_pixels`."""
        state = aligned(BLOCKS * _SIZE)
        spill = np.empty(5 * LANES, dtype=np.float32)
        plane, stride = _u(width * height), _u(width)
        for tile in range(len(starts) - 1):
            y0 = tile * TILE_HEIGHT
            _fill_centers(state, x0, y0)
            for k in range(BLOCKS):
                at = _u(k) * _SIZE
                store(state, at + _T, splat(_ONE))
                store(state, at + _R, splat(_ZERO))
                store(state, at + _G, splat(_ZERO))
                store(state, at + _B, splat(_ZERO))
                if depth:
                    store(state, at + _Z, splat(_ZERO))
            for h in range(starts[tile], starts[tile + 1]):
                hit = _u(hits[h])
                n = hit >> _u(BLOCKS)
                x, y, peak, shear = local[n, 0], local[n, 1], local[n, 12], local[n, 13]
                along, across = local[n, 14], local[n, 15]
                red, green, blue, z = local[n, 6], local[n, 7], local[n, 8], local[n, 10]
                touched = hit & _ALL
                while touched:
                    at = lowest_bit(touched) * _SIZE
                    touched &= touched - _NEXT
                    dx = load(state, at + _X) - x
                    u = (load(state, at + _Y) - y) + shear * dx
                    value = (peak + along * (dx * dx)) + across * (u * u)
                    t = load(state, at + _T)
                    counts = (value >= _H_MIN) & (t > _ZERO)
                    weight = t * where(counts, smaller(power_of_two(value), _ALPHA_MAX), _ZERO)
                    after = t - weight
                    ends = counts & (after <= _T_MIN)
                    weight = where(ends, _ZERO, weight)
                    store(state, at + _T, where(ends, _ZERO - t, after))
                    store(state, at + _R, load(state, at + _R) + weight * red)
                    store(state, at + _G, load(state, at + _G) + weight * green)
                    store(state, at + _B, load(state, at + _B) + weight * blue)
                    if depth:
                        store(state, at + _Z, load(state, at + _Z) + weight * z)
                if (h & _CHECK) == _CHECK and not _alive(state):
                    break
            for k in range(BLOCKS):
                at = _u(k) * _SIZE
                row, column = y0 + 4 * (k & 3), x0 + 4 * (k >> 2)
                t = load(state, at + _T)
                t = where(t < _ZERO, _ZERO - t, t)
                red = load(state, at + _R) + t * background[0]
                green = load(state, at + _G) + t * background[1]
                blue = load(state, at + _B) + t * background[2]
                if column + 4 <= width and row + 4 <= height:
                    place = _u(row * width + column)
                    store_rows(out, place, stride, red)
                    store_rows(out, place + plane, stride, green)
                    store_rows(out, place + _u(2) * plane, stride, blue)
                    store_rows(out, place + _u(3) * plane, stride, _ONE - t)
                    if depth:
                        store_rows(out, place + _u(4) * plane, stride, load(state, at + _Z))
                else:
                    store(spill, _u(0), red)
                    store(spill, _u(LANES), green)
                    store(spill, _u(2 * LANES), blue)
                    store(spill, _u(3 * LANES), _ONE - t)
                    if depth:
                        store(spill, _u(4 * LANES), load(state, at + _Z))
                    for channel in range(len(out)):
                        for i in range(max(min(4, height - row), 0)):
                            for j in range(max(min(4, width - column), 0)):
                                out[channel, row + i, column + j] = spill[LANES * channel + 4 * i + j]

    @kernel
    def blend_back(x0, width, height, starts, hits, local, image, upstream, grad_local):
        """As `splat_pixels`; grad_local holds moments until the end."""
        state = aligned(BLOCKS * _SIZE)
        plane, stride = _u(width * height), _u(width)
        for tile in range(len(starts) - 1):
            if starts[tile] == starts[tile + 1]:
                continue
            y0 = tile * TILE_HEIGHT
            _fill_centers(state, x0, y0)
            for k in range(BLOCKS):
                at = _u(k) * _SIZE
                row, column = y0 + 4 * (k & 3), x0 + 4 * (k >> 2)
                if column + 4 <= width and row + 4 <= height:
                    place = _u(row * width + column)
                    red = load_rows(upstream, place, stride)
                    left = red * load_rows(image, place, stride)
                    green = load_rows(upstream, place + plane, stride)
                    left += green * load_rows(image, place + plane, stride)
                    place += _u(2) * plane
                    blue = load_rows(upstream, place, stride)
                    left += blue * load_rows(image, place, stride)
                    alpha = load_rows(upstream, place + plane, stride)
                    left += alpha * load_rows(image, place + plane, stride)
                    if depth:
                        place += _u(2) * plane
                        z = load_rows(upstream, place, stride)
                        left += z * load_rows(image, place, stride)
                        store(state, at + _Z, z)
                    store(state, at + _T, splat(_ONE))
                    store(state, at + _R, red)
                    store(state, at + _G, green)
                    store(state, at + _B, blue)
                    store(state, at + _A, alpha)
                    store(state, at + _LEFT, left)
                else:
                    for lane in range(LANES):
                        i, j = row + (lane >> 2), column + (lane & 3)
                        inside = i < height and j < width
                        left = _ZERO
                        for channel in range(len(image)):
                            v = upstream[channel, i, j] if inside else _ZERO
                            state[at + _R + _u(LANES * channel + lane)] = v
                            left += v * image[channel, i, j] if inside else _ZERO
                        state[at + _T + _u(lane)] = _ONE if inside else _ENDED
                        state[at + _LEFT + _u(lane)] = left
            for h in range(starts[tile], starts[tile + 1]):
                hit = _u(hits[h])
                n = hit >> _u(BLOCKS)
                x, y, peak, shear = local[n, 0], local[n, 1], local[n, 12], local[n, 13]
                along, across = local[n, 14], local[n, 15]
                red, green, blue, z = local[n, 6], local[n, 7], local[n, 8], local[n, 10]
                none = splat(_ZERO)
                g_0 = g_x = g_y = g_xx = g_xy = g_yy = g_red = g_green = g_blue = g_z = none
                touched = hit & _ALL
                while touched:
                    at = lowest_bit(touched) * _SIZE
                    touched &= touched - _NEXT
                    dx, dy = load(state, at + _X) - x, load(state, at + _Y) - y
                    u = dy + shear * dx
                    value = (peak + along * (dx * dx)) + across * (u * u)
                    t = load(state, at + _T)
                    alpha = where(value >= _H_MIN, smaller(power_of_two(value), _ALPHA_MAX), _ZERO)
                    weight = t * alpha
                    after = t - weight
                    ends = after <= _T_MIN
                    weight = where(ends, _ZERO, weight)
                    store(state, at + _T, where(ends, _ENDED, after))
                    vr, vg, vb = load(state, at + _R), load(state, at + _G), load(state, at + _B)
                    seen = load(state, at + _A) + vr * red + vg * green + vb * blue
                    if depth:
                        vz = load(state, at + _Z)
                        seen += vz * z
                        g_z += weight * vz
                    left = load(state, at + _LEFT) - weight * seen
                    store(state, at + _LEFT, left)
                    g_red += weight * vr
                    g_green += weight * vg
                    g_blue += weight * vb
                    # 0 where alpha is clamped.
                    g = where(value <= _H_MAX, weight, _ZERO) * (seen - left / after)
                    gx, gy = g * dx, g * dy
                    g_0 += g
                    g_x += gx
                    g_y += gy
                    g_xx += gx * dx
                    g_xy += gx * dy
                    g_yy += gy * dy
                place = n * _u(LANES)
                sums = totals(
                    g_0, g_x, g_y, g_xx, g_xy, g_yy, g_red, g_green, g_blue, g_z,
                    none, none, none, none, none, none,
                )  # fmt: skip
                store(grad_local, place, load(grad_local, place) + sums)
                if (h & _CHECK) == _CHECK and not _alive(state):
                    break
        for n in range(len(local)):
            a, b, c, o = local[n, 2], local[n, 3], local[n, 4], local[n, 5]
            g_0, g_x, g_y = grad_local[n, 0], grad_local[n, 1], grad_local[n, 2]
            g_xx, g_xy, g_yy = grad_local[n, 3], grad_local[n, 4], grad_local[n, 5]
            grad_local[n, 0], grad_local[n, 1] = a * g_x + b * g_y, b * g_x + c * g_y
            grad_local[n, 2], grad_local[n, 3], grad_local[n, 4] = -_HALF * g_xx, -g_xy, -_HALF * g_yy
            grad_local[n, 5] = g_0 / o

    return blend, blend_back


blend_band, blend_band_back = _make(False)
"""Pictures of 4 planes: R, G, B over the background, alpha."""
blend_band_depth, blend_band_depth_back = _make(True)
"""Pictures of 5 planes: plane 4 is the sum of weight times depth along the axis, metres."""
