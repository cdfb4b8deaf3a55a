"""The PLY layout of INRIA's 3DGS (Kerbl 2023), which every splat viewer reads.

One `vertex` element of float properties in this order when written:
x y z nx ny nz f_dc_0..2 f_rest_0..3(K-1)-1 opacity scale_0..2 rot_0..3. Stored are the values before
activation: opacity as logit, scales as natural logarithm, quaternions wxyz; `f_rest` is channel-major
(all of red, then green, then blue). Read are all encodings of PLY, all number types, any order, with or
without normals, and with further properties (colours, filter_3D), which are left out.

A PLY says nothing about axes: its numbers are taken as the world's (+Z up), as Blender's importer does.
"""

import numpy as np

from shared_protocol.errors import InvalidInput
from shared_protocol.splats.arrays import COEFFICIENTS, StoredSplats
from shared_protocol.splats.elements import EXPECTED, REMEDY, Element, Table, header

_READ_COUNTS = {0: 1, 9: 4, 24: 9, 45: 16, 72: 25}
"""Number of f_rest properties -> coefficients a channel in the file (degree 4 is read, and cut to 3)."""
_BLOCK = 4096
"""Gaussians worked on at a time, so that they stay in the cache."""


def property_names(coefficients: int) -> list[str]:
    """The property names of INRIA's layout for K coefficients a channel, in file order."""
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(3 * (coefficients - 1))),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def write_ply(stored: StoredSplats, comment: str = "") -> list[bytes | memoryview]:
    """The parts of the file; every number as it is, little-endian; normals are zero."""
    count, coefficients = stored.count, stored.harmonics.shape[1]
    names = property_names(coefficients)
    rows = np.empty((count, len(names)), dtype="<f4")
    rest = 9 + 3 * (coefficients - 1)
    flat = stored.harmonics.reshape(count, 3 * coefficients)
    channel_major = _channel_major(coefficients)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        rows[block, 0:3] = stored.positions[block]
        rows[block, 3:6] = 0
        rows[block, 6:rest] = flat[block].take(channel_major, axis=1)
        rows[block, rest] = stored.logits[block]
        rows[block, rest + 1 : rest + 4] = stored.log_scales[block]
        rows[block, rest + 4 : rest + 8] = stored.rotations[block]
    vertex = Element("vertex", count, tuple((name, "f4") for name in names))
    return [header("binary_little_endian", [vertex], comment), rows.data.cast("B") if count else b""]


def _channel_major(coefficients: int) -> np.ndarray:
    """(3K,) places of f_dc and f_rest, in file order, among harmonics (K, 3) laid out flat."""
    places = np.arange(3 * coefficients).reshape(coefficients, 3)
    return np.concatenate([places[0], places[1:].T.ravel()])


def splats_of_vertices(vertices: Table) -> StoredSplats:
    """The `vertex` element of such a file -> Gaussians. Raises InvalidInput naming what it lacks."""
    rest = sum(name.startswith("f_rest_") for name in vertices.names)
    if rest not in _READ_COUNTS:
        raise InvalidInput(f"the PLY has {rest} f_rest properties", "0, 9, 24 or 45", REMEDY)
    in_file = _READ_COUNTS[rest]
    needed = [name for name in property_names(in_file) if name not in ("nx", "ny", "nz")]
    missing = [name for name in needed if name not in vertices.names]
    if missing:
        raise InvalidInput(f"the PLY lacks the property {', '.join(missing[:4])}", EXPECTED, REMEDY)
    coefficients = min(in_file, COEFFICIENTS[-1])
    names = np.array(["f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest))])
    by_coefficient = names[np.argsort(_channel_major(in_file))][: 3 * coefficients]
    harmonics = vertices.take(by_coefficient.tolist()).reshape(vertices.count, coefficients, 3)
    return StoredSplats(
        vertices.take(("x", "y", "z")),
        vertices.take(("scale_0", "scale_1", "scale_2")),
        vertices.take(("rot_0", "rot_1", "rot_2", "rot_3")),
        vertices.take(("opacity",))[:, 0],
        harmonics,
    )
