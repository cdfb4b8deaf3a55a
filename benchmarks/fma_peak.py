"""The rate of fused multiply-adds that one core reaches, the yardstick of the rasteriser's kernels."""

import time

import numpy as np

from backend.geometry import jit
from backend.geometry.simd import LANES, load, store

_CHAINS = 12
"""Independent chains: more than latency times issue rate of the processors in use (4 cycles x 2 a cycle)."""
_ROUNDS = 2_000_000
_u = np.uint64
_FACTOR, _ADDED = np.float32(0.999), np.float32(0.001)


@jit.numba.njit(cache=True, nogil=True, fastmath={"contract"})  # re-association would shorten the chains
def _chains(rounds, state):
    """`rounds` times one FMA on each of the twelve lanes of state (12 * LANES,)."""
    a, b, c, d = load(state, _u(0)), load(state, _u(8)), load(state, _u(16)), load(state, _u(24))
    e, f, g, h = load(state, _u(32)), load(state, _u(40)), load(state, _u(48)), load(state, _u(56))
    i, j, k, m = load(state, _u(64)), load(state, _u(72)), load(state, _u(80)), load(state, _u(88))
    for _ in range(rounds):
        a, b, c = a * _FACTOR + _ADDED, b * _FACTOR + _ADDED, c * _FACTOR + _ADDED
        d, e, f = d * _FACTOR + _ADDED, e * _FACTOR + _ADDED, f * _FACTOR + _ADDED
        g, h, i = g * _FACTOR + _ADDED, h * _FACTOR + _ADDED, i * _FACTOR + _ADDED
        j, k, m = j * _FACTOR + _ADDED, k * _FACTOR + _ADDED, m * _FACTOR + _ADDED
    store(state, _u(0), ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + m)))


def fma_peak(repeats: int = 7) -> float:
    """Flop a second of one core (an FMA counts two), the best of `repeats`, by CPU time."""
    state = np.arange(_CHAINS * LANES, dtype=np.float32)
    _chains(1, state)
    best = np.inf
    for _ in range(repeats):
        start = time.thread_time()
        _chains(_ROUNDS, state)
        best = min(best, time.thread_time() - start)
    return 2 * _CHAINS * LANES * _ROUNDS / best
