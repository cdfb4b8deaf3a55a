"""How much memory is free, asked before an engine is loaded and told when it ran out; giving it back."""

import ctypes
import sys
from functools import cache
from typing import Any

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""
_LARGE_BYTES = 2 << 20


def free_bytes(*, device: bool = True) -> int:
    """Memory that is free on the GPU that torch has opened (with `device`), else on the host; 0 where nobody
    tells. Loads nothing to find out."""
    torch: Any = sys.modules.get("torch")
    if device and torch is not None and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return 0


@cache
def _glibc() -> Any:
    """The C library, where it is glibc: it keeps what is freed, thread by thread, and can be told not to."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def keep_little() -> None:
    """From now on arrays of 2 MiB and more go back to the system as soon as they are freed.

    glibc raises this limit to 32 MiB by itself: half of a job's peak is then memory that nobody uses.
    """
    if _glibc() is not None:
        _glibc().mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Hand what was freed back to the system."""
    if _glibc() is not None:
        _glibc().malloc_trim(0)
