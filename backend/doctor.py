"""What this machine offers, in findings a user can act on."""

import os
import platform
import shutil
from typing import Any

from backend.geometry.parallel import thread_count
from backend.pipeline.artifacts import default_root
from backend.pipeline.engines import cuda_present
from backend.weights.store import weights_folder
from shared_protocol.endpoint import read_endpoint, state_folder
from shared_protocol.errors import NotReachable, OrreryError

_LOW_DISK_BYTES = 2 << 30
_LOW_MEMORY_BYTES = 4 << 30


def examine() -> list[dict[str, Any]]:
    """Findings: what, found, ok, remedy."""
    return [
        _finding("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        _finding("cores", f"{thread_count()} used"),
        _memory(),
        _finding(
            "GPU",
            "an NVIDIA driver is installed" if cuda_present() else "none; the embedded engines need none",
        ),
        _backend(),
        _keys(),
        _folder("results of stages", default_root()),
        _folder("weights", weights_folder()),
    ]


def _finding(what: str, found: str, ok: bool = True, remedy: str = "") -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok, "remedy": remedy}


def _memory() -> dict[str, Any]:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return _finding("memory", "unknown on this system")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    low = total < _LOW_MEMORY_BYTES
    return _finding(
        "memory", f"{total / 2**30:.1f} GiB", not low, "Use --quality draft on this machine." if low else ""
    )


def _backend() -> dict[str, Any]:
    """Whether a daemon of this user runs, and on which port."""
    try:
        endpoint = read_endpoint()
    except NotReachable as error:
        return _finding("backend", error.found)
    except OrreryError as error:
        return _finding("backend", error.found, False, error.remedy)
    return _finding("backend", f"running at {endpoint.address}, process {endpoint.pid}")


def _keys() -> dict[str, Any]:
    """Who may come from other machines."""
    names = sorted(path.stem for path in (state_folder() / "keys" / "clients").glob("*.pub"))
    return _finding("clients with keys", ", ".join(names) or "none; only this machine's user is let in")


def _folder(what: str, path: Any) -> dict[str, Any]:
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return _finding(what, f"{path} cannot be written", False, "Set ORRERY_CACHE to a folder of yours.")
    low = free < _LOW_DISK_BYTES
    remedy = "Free some space." if low else ""
    return _finding(what, f"{path}, {free / 2**30:.1f} GiB free", not low, remedy)
