"""A small thread pool for GIL-free kernels."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_working = threading.local()
"""Whether this thread is at work on behalf of `map_parallel`."""


def thread_count() -> int:
    """Cores this process may use; `ORRERY_THREADS` overrides."""
    override = os.environ.get("ORRERY_THREADS")
    if override:
        return max(1, int(override))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(thread_count() - 1, 1), thread_name_prefix="orrery-kernel")


def _at_work() -> bool:
    return getattr(_working, "now", False)


def map_parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Call `function` for each item on this thread and the pool's; results in the order of the items.

    Called from such a function it stays on that thread: threads waiting for one another would never end.
    """
    items = list(items)
    if _at_work() or len(items) == 1:
        return [function(item) for item in items]
    turns, results, stopped = itertools.count(), {}, False

    def work() -> None:
        # One task a thread that takes turn after turn: a task an item costs 20 us of CPU time.
        _working.now = True
        try:
            for turn in turns:
                if stopped or turn >= len(items):
                    return
                results[turn] = function(items[turn])
        finally:
            _working.now = False

    workers = [_pool().submit(work) for _ in range(min(thread_count(), len(items)) - 1)]
    try:
        work()
        for worker in workers:
            worker.result()
    finally:
        stopped = True
    return [results[turn] for turn in range(len(items))]


def bands(count: int, pieces: int) -> list[tuple[int, int]]:
    """Split range(count) into at most `pieces` contiguous (start, stop) bands of nearly equal length."""
    pieces = max(1, min(pieces, count))
    edges = [count * i // pieces for i in range(pieces + 1)]
    return list(itertools.pairwise(edges))


def map_told(
    function: Callable[[T], R], items: Sequence[T], tell: Callable[[T], None], at_once: int = 4
) -> Iterator[R]:
    """As `map_parallel`, `at_once` items at a time; `tell` is called with those before, on this thread."""
    for first in range(0, len(items), at_once):
        some = items[first : first + at_once]
        for item in some:
            tell(item)
        yield from map_parallel(function, some)


def for_bands(function: Callable[[int, int], object], count: int, pieces: int | None = None) -> None:
    """Call `function(start, stop)` for bands that cover range(count), in parallel.

    Results must not depend on where the bands are cut; by default there are four bands a core, so
    that uneven work balances, and one where this is a thread of the pool already.
    """
    if count <= 0:
        return
    pieces = pieces or (1 if _at_work() else 4 * thread_count())
    map_parallel(lambda band: function(*band), bands(count, pieces))
