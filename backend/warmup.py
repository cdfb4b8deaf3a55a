"""Compiles the kernels of later stages in a second process while the first stages run.

Only on a machine whose JIT cache is cold: a marker in the cache folder names the code, the compiler and
the processor it was filled for. `python -m backend.warmup` does the compiling.
"""

import hashlib
import os
import platform
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from backend.pipeline.runner import code_fingerprint
from backend.pipeline.stage import StageContext

_STAGES = ("splats", "surface", "texture")
_MODULES = tuple(f"backend.stages.{stage}.warmup" for stage in _STAGES)


def _marker() -> Path:
    from backend.geometry import jit

    parts = [platform.processor(), platform.machine(), jit.numba.__version__, sys.version]
    parts += [code_fingerprint(stage) for stage in _STAGES]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(os.environ["NUMBA_CACHE_DIR"]) / f"warm-{digest}"


class WarmUp:
    """A compile in the background; `before_stage` waits for it where its code is needed."""

    def __init__(self, process: "subprocess.Popen[bytes] | None") -> None:
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the compile; what is compiled stays in the cache."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def before_stage(self, context: StageContext) -> None:
        """Wait until the stage's kernels are compiled; a failed compile is left to the stage itself."""
        while context.stage in _STAGES and self._process is not None and self._process.poll() is None:
            context.step(0, 0, "Compiling for this processor (first run only)")
            time.sleep(0.1)


NO_WARM_UP = WarmUp(None)


def start_warm_up() -> WarmUp:
    """Start compiling if the cache is cold."""
    if _marker().exists():
        return NO_WARM_UP
    process = subprocess.Popen(
        [sys.executable, "-m", "backend.warmup"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return WarmUp(process)


def main() -> None:
    """Compile everything, then leave the marker."""
    for module in _MODULES:
        import_module(module).warm_up()
    _marker().parent.mkdir(parents=True, exist_ok=True)
    _marker().touch()


if __name__ == "__main__":
    main()
