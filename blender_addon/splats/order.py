"""The order in which Gaussians are blended: far to near, sorted beside the user interface."""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Placed:
    """Gaussians of one object: `positions` (G, 3) float32, object space, from row `first` of the atlas."""

    positions: np.ndarray
    first: int
    world_from_object: np.ndarray


def far_to_near(view_from_world: np.ndarray, placed: Sequence[Placed]) -> np.ndarray:
    """(N, 2) float32 of all Gaussians, the farthest along the line of sight first.

    Columns are the row in the atlas and which of `placed` it belongs to, as the shader reads them (whole
    numbers are exact below 2^24). Gaussians of different objects are sorted among one another. Equal
    depths keep their order.
    """
    heights, rows, owners = [], [], []
    for owner, item in enumerate(placed):
        matrix = (view_from_world @ item.world_from_object)[2]
        heights.append(item.positions @ matrix[:3].astype(np.float32) + np.float32(matrix[3]))
        rows.append(np.arange(item.first, item.first + len(item.positions), dtype=np.float32))
        owners.append(np.full(len(item.positions), owner, np.float32))
    if not placed:
        return np.empty((0, 2), np.float32)
    order = _argsort(np.concatenate(heights))  # view space looks along -z: the smallest is the farthest
    result = np.empty((len(order), 2), np.float32)
    result[:, 0] = np.concatenate(rows)[order]
    result[:, 1] = np.concatenate(owners)[order]
    return result


def _argsort(values: np.ndarray) -> np.ndarray:
    """Stable argsort of float32: two passes over 16 bits, which numpy sorts by counting (4 times faster)."""
    bits = values.view(np.uint32)
    # Bits of a float in an order that is the number's: negative ones are mirrored.
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    low = np.argsort((keys & np.uint32(0xFFFF)).astype(np.uint16), kind="stable")
    high = (keys >> np.uint32(16)).astype(np.uint16)[low]
    return low[np.argsort(high, kind="stable")]


class Sorter:
    """Sorts for one view in a thread: the newest request wins, the last result stays until then.

    numpy lets go of the interpreter while it sorts, so the window stays alive.
    """

    def __init__(self, finish: Callable[[np.ndarray], Any] = lambda order: order) -> None:
        """finish: what is made of each order, in the thread."""
        self._finish = finish
        self._lock = threading.Lock()
        self._wanted: tuple[Hashable, np.ndarray, tuple[Placed, ...]] | None = None
        self._working: Hashable = None
        self._done: tuple[Hashable, Any] | None = None
        self._error: BaseException | None = None

    def request(self, key: Hashable, view_from_world: np.ndarray, placed: Sequence[Placed]) -> None:
        """Ask for an order; the same key as the one that is being made or waits does nothing."""
        with self._lock:
            if key == self._working or (self._wanted is not None and self._wanted[0] == key):
                return
            self._wanted = (key, view_from_world, tuple(placed))
            if self._working is None:
                self._start()

    def take(self) -> tuple[Hashable, Any] | None:
        """(key, what `finish` made of the order) since the last call. Raises what the thread raised."""
        with self._lock:
            done, self._done = self._done, None
            error, self._error = self._error, None
        if error is not None:
            raise error
        return done

    @property
    def busy(self) -> bool:
        with self._lock:
            return self._working is not None or self._done is not None

    def _start(self) -> None:
        key, *given = self._wanted
        self._working, self._wanted = key, None
        threading.Thread(target=self._run, args=(key, *given), name="orrery splat order", daemon=True).start()

    def _run(self, key: Hashable, view_from_world: np.ndarray, placed: tuple[Placed, ...]) -> None:
        result = error = None
        try:
            result = self._finish(far_to_near(view_from_world, placed))
        except (MemoryError, ValueError) as raised:
            error = raised
        with self._lock:
            self._working = None
            if result is not None:
                self._done = (key, result)
            self._error = error
            if self._wanted is not None:
                self._start()
