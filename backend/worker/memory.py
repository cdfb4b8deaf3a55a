"""What a worker does when memory runs out, and how it tells a GPU that is past cure."""

import gc
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from backend.pipeline.memory import free_bytes
from shared_protocol.errors import OutOfMemory

T = TypeVar("T")

_SICK = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|device-side assert|illegal memory access")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def with_one_retry(run: Callable[[bool], T], low_memory: bool, on_retry: Callable[[], None]) -> T:
    """`run(low_memory)`; when memory runs out, everything is let go of and it is run once more, frugally.

    Stages that were finished are found in the store. OutOfMemory, with the numbers, after the second time.
    """
    needed = 0
    if not low_memory:
        try:
            return run(False)
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            traceback.print_exc()
            needed = _needed_bytes(error)
        # Outside the handler: the traceback held every array of the stage.
        release()
        on_retry()
    try:
        return run(True)
    except BaseException as error:
        if not is_out_of_memory(error):
            raise
        traceback.print_exc()
        needed = _needed_bytes(error) or needed
    release()
    free = free_bytes()
    raise OutOfMemory(
        "memory ran out, also with the engines' way that needs less"
        + (f" ({_gib(needed)} were asked for, {_gib(free)} are free)" if needed else ""),
        remedy="Close other programs, or try a lower quality.",
        needed_bytes=needed,
        free_bytes=free,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or device memory ran out; asks no torch."""
    return isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError"


def is_sick(error: BaseException) -> bool:
    """Whether a GPU's context is broken for good: any CUDA error but that memory ran out."""
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and bool(_SICK.search(str(error)))
    )


def release() -> None:
    """Give memory back: garbage, and what torch keeps of the GPU's."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _needed_bytes(error: BaseException) -> int:
    """What numpy and torch say in words: "Unable to allocate 1.2 GiB for ..."."""
    found = re.search(r"allocate ([\d.]+) (B|KiB|MiB|GiB|TiB)", str(error))
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
