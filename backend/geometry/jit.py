"""Numba set-up in one place: `kernel` compiles serial, GIL-free machine code cached in our own folder.

Kernels are serial and driven by `parallel.py`: that compiles in half the time of numba's own parallel
loops, runs as fast, needs no threading layer, and gives bit-identical results from run to run.
The cache folder is the user's (never the install folder, which may be read-only).
"""

import os
from pathlib import Path

import platformdirs

if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(Path(platformdirs.user_cache_dir("orrery")) / "jit")

import numba

# contract lets a*b+c become one FMA; full fastmath would let NaN checks be optimised away.
_FAST = {"contract", "reassoc", "nsz", "arcp"}

kernel = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
"""Decorator for hot loops. Write each kernel for a range of rows or items, so that bands run in parallel."""

inline_kernel = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="always")
"""As `kernel`, inlined into its callers."""

merged_kernel = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, forceinline=True)
"""As `inline_kernel`, merged by LLVM. A callee that stays a call is bound to its own code in the process
that compiles it and to the caller's copy in one that loads the cache: their last bits differ."""
