"""`convert`: Gaussians from one file format into another."""

import time
from pathlib import Path

from shared_protocol.errors import AccessDenied
from shared_protocol.splats.antialiased import declared_antialiased
from shared_protocol.splats.arrays import cut_degree
from shared_protocol.splats.files import decode_stored, format_of, read_file, recognise, write_stored


def convert(
    source: Path, target: Path, degree: int | None = None, keep_axes: bool = False, drop_broken: bool = False
) -> str:
    """Read `source`, write `target` whole or not at all; returns a sentence about both.

    degree  leave out harmonics above it; None keeps what the file has and the format can hold

    PLY to PLY keeps every bit of every number. Raises the errors of `decode_stored` and `format_of`, and
    OSError where `target` cannot be written.
    """
    start = time.perf_counter()
    format_of(target)  # before a large file is read
    if not target.absolute().parent.is_dir():
        raise AccessDenied(
            f"{target.parent} is no folder", "an existing folder", "Create it, or choose another."
        )
    data = read_file(source)
    stored = decode_stored(data, keep_axes=keep_axes, drop_broken=drop_broken)
    before = stored.degree
    if degree is not None:
        stored = cut_degree(stored, degree)
    size = write_stored(target, stored, keep_axes=keep_axes, antialiased=declared_antialiased(data))
    after = 0 if format_of(target) == "splat" else stored.degree
    degrees = f"SH degree {after}" + (f" (of {before})" if after != before else "")
    return (
        f"{target}: {stored.count:,} Gaussians, {degrees}, {size / 1e6:,.1f} MB, from "
        f"{recognise(data)} of {len(data) / 1e6:,.1f} MB in {time.perf_counter() - start:.1f} s"
    )
