"""One command of Orrery and what it took: `python -m benchmarks.measured OUT.json reconstruct VIEWS -o DIR`.

Seconds of the wall and of the CPU (every core, child processes included), and the most memory above what
the process held once everything was imported. Memory on Linux only.
"""

import importlib
import json
import os
import re
import sys
import time
from pathlib import Path

from backend import cli
from backend.pipeline.engines import EMBEDDED, find_engine
from backend.pipeline.recipes import VIEWS_TO_3D


def import_everything() -> None:
    """What a reconstruction imports: it is no part of what the job itself needs."""
    for name in ("backend.local_run", "backend.inputs.views", "cv2", "scipy.spatial", "scipy.ndimage", "av"):
        importlib.import_module(name)
    for stage in VIEWS_TO_3D:
        importlib.import_module(f"backend.stages.{stage.name}.run")
        importlib.import_module(find_engine(stage.name, EMBEDDED[stage.name]).target.partition(":")[0])


def memory_mib(field: str) -> float | None:
    """VmRSS or VmHWM of this process; None where /proc is not."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else None


def main() -> None:
    import_everything()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the high-water mark starts again from here
    memory, before, start = memory_mib("VmRSS"), os.times(), time.perf_counter()
    code = cli.run(sys.argv[2:])
    wall, after, peak = time.perf_counter() - start, os.times(), memory_mib("VmHWM")
    facts = {
        "seconds": wall,
        "cpu": sum(after[:4]) - sum(before[:4]),
        "extra_mib": None if memory is None or peak is None else peak - memory,
        "start_mib": memory,
    }
    Path(sys.argv[1]).write_text(json.dumps(facts))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
