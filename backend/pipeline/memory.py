"""How much memory is free, asked before an engine is loaded and told when it ran out."""

import sys
from typing import Any


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
