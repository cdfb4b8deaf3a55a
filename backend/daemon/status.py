"""What the daemon says of itself, gathered without any heavy import."""

import sys

from backend.pipeline.engines import EMBEDDED, ENGINES, availability
from shared_protocol.messages import EngineState


def table_of_engines() -> tuple[EngineState, ...]:
    """Our own engines, ready or why not. The worker adds those of other packages: finding them means
    importing them, and that is not for this process."""
    states = []
    for entry in ENGINES:
        state = availability(entry)
        embedded = EMBEDDED.get(entry.stage) == entry.name
        states.append(
            EngineState(
                entry.stage, entry.name, entry.summary, embedded, state.ready, state.reason, state.remedy
            )
        )
    return tuple(states)


def memory_bytes() -> int:
    """Memory of this process (resident where the system tells, else its peak; 0 where it tells nothing)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
