"""How long the main thread works for the add-on at a time; no bpy.

Kept in memory, the newest `MOST`; written as JSON by *Save Frame Times* and by benchmarks.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST = 20_000
LIMIT_SECONDS = 0.016
"""A frame at 60 Hz."""


class FrameLog:
    """Ticks of the timer, and what took the longest in each."""

    def __init__(self) -> None:
        # (start, seconds, seconds of the processor, what)
        self.ticks: deque[tuple[float, float, float, str]] = deque(maxlen=MOST)
        self._parts: Counter[str] = Counter()

    @contextmanager
    def work(self, what: str) -> Iterator[None]:
        """Counts the time inside as `what`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._parts[what] += time.perf_counter() - started

    @contextmanager
    def tick(self) -> Iterator[None]:
        """One turn of the timer."""
        started, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            what = self._parts.most_common(1)[0][0] if self._parts else "nothing"
            self.ticks.append((started, time.perf_counter() - started, time.thread_time() - cpu, what))
            self._parts.clear()

    def worst(self) -> tuple[float, str]:
        """Seconds of the longest tick, and what it was for."""
        return max(((seconds, what) for _, seconds, _, what in self.ticks), default=(0.0, "nothing"))

    def over(self, limit: float = LIMIT_SECONDS) -> int:
        """How many ticks took longer."""
        return sum(seconds > limit for _, seconds, _, _ in self.ticks)

    def save(self, path: Path) -> None:
        """Write all ticks: [start, seconds, seconds of the processor, what]."""
        path.write_text(json.dumps([[*(round(t, 6) for t in times), what] for *times, what in self.ticks]))
