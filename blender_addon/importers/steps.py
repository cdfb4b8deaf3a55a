"""Work on the main thread in slices: generators that yield when a slice is done; no bpy."""

from collections.abc import Iterator
from typing import Any


def finished(steps: Iterator[None]) -> Any:
    """Run all slices at once; returns what the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
