"""Work on the main thread in slices: generators that yield when a slice is done; no bpy.

They yield LONG_NEXT where the next slice is a long one, which should have a turn of its own.
"""

from collections.abc import Iterator
from typing import Any

LONG_NEXT = "long"


def finished(steps: Iterator[str | None]) -> Any:
    """Run all slices at once; returns what the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
