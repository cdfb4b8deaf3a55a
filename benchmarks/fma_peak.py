"""The rate of fused multiply-adds that one core reaches, the yardstick of the rasteriser's kernels."""

import time

import numpy as np

from backend.geometry import jit
from backend.geometry.simd import LANES
from backend.geometry.simd_moves import load, store

_ROUNDS = 1_000_000
_u, _lanes = np.uint64, np.uint64(LANES)


@jit.numba.njit(cache=True, nogil=True, fastmath={"contract"})  # re-association would shorten the chains
def _six_chains(rounds, state):
    """`rounds` times one FMA on each of six lanes: enough where lanes are two registers of 16 (AVX2)."""
    a, b, c = load(state, _u(0)), load(state, _lanes), load(state, _u(2) * _lanes)
    d, e, f = load(state, _u(3) * _lanes), load(state, _u(4) * _lanes), load(state, _u(5) * _lanes)
    factor, added = state[_u(12) * _lanes], state[_u(12) * _lanes + _u(1)]
    for _ in range(rounds):
        a, b, c = a * factor + added, b * factor + added, c * factor + added
        d, e, f = d * factor + added, e * factor + added, f * factor + added
    store(state, _u(0), (a + b) + (c + d) + (e + f))


@jit.numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _twelve_chains(rounds, state):
    """As `_six_chains`, for processors with wide registers and two units for them."""
    a, b, c = load(state, _u(0)), load(state, _lanes), load(state, _u(2) * _lanes)
    d, e, f = load(state, _u(3) * _lanes), load(state, _u(4) * _lanes), load(state, _u(5) * _lanes)
    g, h, i = load(state, _u(6) * _lanes), load(state, _u(7) * _lanes), load(state, _u(8) * _lanes)
    j, k, m = load(state, _u(9) * _lanes), load(state, _u(10) * _lanes), load(state, _u(11) * _lanes)
    factor, added = state[_u(12) * _lanes], state[_u(12) * _lanes + _u(1)]
    for _ in range(rounds):
        a, b, c = a * factor + added, b * factor + added, c * factor + added
        d, e, f = d * factor + added, e * factor + added, f * factor + added
        g, h, i = g * factor + added, h * factor + added, i * factor + added
        j, k, m = j * factor + added, k * factor + added, m * factor + added
    store(state, _u(0), ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + m)))


def fma_peak(repeats: int = 9) -> float:
    """Flop a second of one core (an FMA counts two), the best of all tries, by CPU time."""
    best = 0.0
    for chains, kernel in ((6, _six_chains), (12, _twelve_chains)):
        state = np.full(13 * LANES, 0.5, dtype=np.float32)
        kernel(1, state)
        for _ in range(repeats):
            start = time.thread_time()
            kernel(_ROUNDS, state)
            best = max(best, 2 * chains * LANES * _ROUNDS / (time.thread_time() - start))
    return best
