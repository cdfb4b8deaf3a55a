"""Work on the main thread in slices: generators that yield when a slice is done; no bpy."""

import threading
from collections.abc import Callable, Iterator
from typing import Any


def finished(steps: Iterator[None]) -> Any:
    """Run all slices at once; returns what the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def beside(work: Callable[[], Any]) -> Iterator[None]:
    """`work()` in a thread: the slices only wait for it, 2 ms each. Returns what it returns, raises what it
    raises."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="orrery slice", daemon=True)
    thread.start()
    thread.join(0.002)
    while thread.is_alive():
        yield
        thread.join(0.002)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
