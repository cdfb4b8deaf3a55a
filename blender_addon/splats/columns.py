"""Files of Gaussians -> the columns that attributes take, in steps and with as few copies as can be.

`decode_stored` of the protocol gives harmonics Gaussian by Gaussian; attributes want them coefficient by
coefficient. For the usual file, a binary PLY of floats, each block of rows goes straight from the file
into the columns while it is in the cache.
"""

import mmap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from shared_protocol.errors import InvalidInput
from shared_protocol.splats.antialiased import declared_antialiased
from shared_protocol.splats.arrays import COEFFICIENTS, SplatArrays, StoredSplats, activate
from shared_protocol.splats.compressed_ply import PACKED
from shared_protocol.splats.elements import Table, read_tables
from shared_protocol.splats.files import decode_stored
from shared_protocol.splats.ply import property_names

from ..touched_memory import TouchedMemory

_BLOCK = 1024
"""Rows worked on at a time: a quarter of a megabyte at degree 3."""
_THREE, _FOUR = np.dtype("V12"), np.dtype("V16")
"""So many floats, moved as one: twice as fast."""
_STEP = 1 << 13
"""Rows between two looks at the clock."""


@dataclass(frozen=True)
class Columns:
    """Gaussians as a file holds them (see `StoredSplats`), the harmonics as K arrays (G, 3).

    antialiased  the file says that they were trained with Mip-Splatting's filter
    memory       for the attributes that will hold them, see `ready`
    """

    positions: np.ndarray
    log_scales: np.ndarray
    rotations: np.ndarray
    logits: np.ndarray
    coefficients: list[np.ndarray]
    antialiased: bool = False
    memory: TouchedMemory = field(default_factory=TouchedMemory, repr=False, compare=False)

    def lowered(self, height: float) -> "Columns":
        """The same with the origin so much higher, metres."""
        positions = self.positions.copy()
        positions[:, 2] -= height
        return replace(self, positions=positions)

    def ready(self) -> "Columns":
        """The same with all that attributes ask for at hand: called in a thread, it costs the main thread
        nothing."""
        taken = (self.positions, self.log_scales, self.rotations, self.logits, *self.coefficients)
        shown = self.count * 4 * (3 + 3 + 4 + 1)  # points, then scale, rotation and opacity a second time
        result = replace(self, memory=TouchedMemory(sum(values.nbytes for values in taken) + shown))
        result.base  # noqa: B018 - worked out here, kept
        return result

    @cached_property
    def base(self) -> np.ndarray:
        """(G, 4) the constant harmonic and the opacity, as `radiance:base` holds them."""
        values = np.empty((self.count, 4), np.float32)
        values[:, :3] = self.coefficients[0]
        values[:, 3] = self.activated.opacities
        return values

    @property
    def count(self) -> int:
        return len(self.positions)

    @property
    def degree(self) -> int:
        return COEFFICIENTS.index(len(self.coefficients))

    @cached_property
    def activated(self) -> SplatArrays:
        """Scales, opacities and unit quaternions; the harmonics are those of degree 0 only."""
        return activate(
            StoredSplats(
                self.positions, self.log_scales, self.rotations, self.logits, self.coefficients[0][:, None]
            )
        )


def open_file(path: str | Path) -> mmap.mmap | bytes:
    """The content of a file, read when it is looked at. Raises InvalidInput when it cannot be read."""
    path = Path(path)
    try:
        if not path.stat().st_size:
            return b""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror or error})",
            "a Gaussian-splatting file: .ply, .compressed.ply, .spz or .splat",
            "Check the path.",
        ) from error


def read_columns(
    data: bytes | mmap.mmap, *, degree: int = 3, keep_axes: bool = False, drop_broken: bool = False
) -> Iterator[Columns | None]:
    """Steps that read a file; the last one yields the columns, the others None.

    degree       harmonics above it are left out
    keep_axes    leave an SPZ's axes as they are
    drop_broken  leave out Gaussians with numbers that are not finite, which are an error otherwise

    Raises what `decode_stored` raises.
    """
    view = memoryview(data)
    table = _plain_ply(view)
    antialiased = declared_antialiased(view)
    if table is not None:
        columns = None
        for columns in _from_rows(table, degree):
            if columns is None:
                yield None
        if columns is not None:
            yield replace(columns, antialiased=antialiased)
            return
    stored = decode_stored(view, keep_axes=keep_axes, drop_broken=drop_broken)
    for columns in columns_of(stored, degree=degree):
        yield columns and replace(columns, antialiased=antialiased)


def read_beside(path: str | Path, **options: object) -> Iterator[Columns | None]:
    """`read_columns` of a file in a thread: the steps only wait for it, 2 ms each.

    Ended early, the thread stops after its next step.
    """
    outcome: list[Columns | Exception] = []
    stop = threading.Event()

    def read() -> None:
        try:
            columns = None
            for step in read_columns(open_file(path), **options):
                if stop.is_set():
                    return
                columns = step
            outcome.append(columns.ready())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.append(error)

    thread = threading.Thread(target=read, name="orrery splat file", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.002)
            yield None
    finally:
        stop.set()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    yield outcome[0]


def columns_of(stored: StoredSplats, *, degree: int = 3) -> Iterator[Columns | None]:
    """The same from Gaussians in memory."""
    kept = min(stored.harmonics.shape[1], COEFFICIENTS[degree])
    coefficients = [np.empty((stored.count, 3), np.float32) for _ in range(kept)]
    for start in range(0, stored.count, _BLOCK):
        part = slice(start, start + _BLOCK)
        block = stored.harmonics[part]
        for k, column in enumerate(coefficients):
            column[part] = block[:, k]
        if not (start + _BLOCK) % _STEP:
            yield None
    yield Columns(stored.positions, stored.log_scales, stored.rotations, stored.logits, coefficients)


def _plain_ply(view: memoryview) -> Table | None:
    """The vertices of a binary PLY of floats in INRIA's order, None for every other file."""
    if bytes(view[:3]) != b"ply":
        return None
    table = read_tables(view, ("vertex",)).get("vertex")
    if table is None or table.plain is None or PACKED[0] in table.names:
        return None
    rest = sum(name.startswith("f_rest_") for name in table.names)
    coefficients = rest // 3 + 1
    if rest % 3 or coefficients not in COEFFICIENTS:
        return None
    names = property_names(coefficients)
    without_normals = names[:3] + names[6:]
    return table if table.names[: len(names)] == names or table.names == without_normals else None


def _from_rows(table: Table, degree: int) -> Iterator[Columns | None]:
    """As `read_columns`; ends without columns when some Gaussian is not usable."""
    rows, at = table.plain, {name: i for i, name in enumerate(table.names)}
    count = len(rows)
    in_file = sum(name.startswith("f_rest_") for name in table.names) // 3 + 1
    kept = min(in_file, COEFFICIENTS[degree])
    coefficients = np.empty((kept, count, 3), np.float32)  # one piece: the system maps it at once
    triples = coefficients.view(_THREE)[..., 0]
    positions, log_scales = np.empty((count, 3), np.float32), np.empty((count, 3), np.float32)
    rotations, logits = np.empty((count, 4), np.float32), np.empty(count, np.float32)
    first, tail = at["f_dc_0"], at["opacity"]
    # In the file all of red comes first, then green, then blue.
    order = first + np.arange(3 * kept).reshape(kept, 3)
    order[1:] = first + 3 + np.arange(kept - 1)[:, None] + np.arange(3) * (in_file - 1)
    order = order.ravel()
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        block = rows[part]
        harmonics = block.take(order, axis=1, mode="clip")  # in "raise" mode it looks at each index first
        triples[:, part] = harmonics.view(_THREE).T
        positions.view(_THREE)[part] = block[:, :3].view(_THREE)
        logits[part] = block[:, tail]
        log_scales.view(_THREE)[part] = block[:, tail + 1 : tail + 4].view(_THREE)
        rotations.view(_FOUR)[part] = block[:, tail + 4 : tail + 8].view(_FOUR)
        read = harmonics if kept == in_file else block[:, first:tail]
        if not _usable(read, positions[part], log_scales[part], rotations[part], logits[part]):
            return
        if not (start + _BLOCK) % _STEP:
            yield None
    yield Columns(positions, log_scales, rotations, logits, list(coefficients))


def _usable(
    harmonics: np.ndarray,
    positions: np.ndarray,
    log_scales: np.ndarray,
    rotations: np.ndarray,
    logits: np.ndarray,
) -> bool:
    """Whether all may be activated; sums of a block are finite when its numbers are (and not absurd).
    A sum that only overflows is looked at again by `decode_stored`."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(harmonics.sum() + positions.sum() + rotations.sum())
    return bool(finite and (log_scales <= 88).all() and not np.isnan(logits).any())
