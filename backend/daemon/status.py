"""What the daemon says of itself and its machine, gathered without any heavy import."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from functools import cache
from pathlib import Path

import zmq

from backend.pipeline.engines import EMBEDDED, ENGINES, EngineEntry, availability
from shared_protocol.messages import DeviceState, EngineState


def table_of_engines() -> tuple[EngineState, ...]:
    """Our own engines, ready or why not. The worker adds those of other packages: finding them means
    importing them, and that is not for this process."""
    return tuple(_state(entry) for entry in ENGINES)


def looked_at_again(states: tuple[EngineState, ...]) -> tuple[EngineState, ...]:
    """The same states, those of our engines that were not ready as they are now: weights come while a daemon
    runs. Engines of other packages stay as a worker found them."""
    ours = {(entry.stage, entry.name): entry for entry in ENGINES}

    def now(state: EngineState) -> EngineState:
        entry = ours.get((state.stage, state.name))
        return state if entry is None or (state.ready and not state.reason) else _state(entry)

    return tuple(map(now, states))


def _state(entry: EngineEntry) -> EngineState:
    found = availability(entry)
    embedded = EMBEDDED.get(entry.stage) == entry.name
    return EngineState(
        entry.stage, entry.name, entry.summary, embedded, found.ready, found.reason, found.remedy
    )


@cache
def versions() -> dict[str, str]:
    """Of Python, the system and the libraries that matter; without importing them."""
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "zeromq": zmq.zmq_version(),
    }
    for name in ("pyzmq", "msgpack", "numpy", "numba", "torch", "gsplat"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def host_memory() -> DeviceState:
    """Memory of this machine."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return DeviceState("host", total, free)
    except (OSError, ValueError, KeyError, IndexError):
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return DeviceState("host", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return DeviceState("host")


def disk_free(path: Path) -> int:
    """Bytes free where `path` is, or will be."""
    try:
        return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
    except OSError:
        return 0


def memory_bytes(pid: int = 0) -> int:
    """Memory of this process or another (resident where the system tells, else its peak, else 0)."""
    try:
        with open(f"/proc/{pid or 'self'}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    if pid or sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
