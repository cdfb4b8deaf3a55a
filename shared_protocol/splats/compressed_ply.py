"""PlayCanvas' compressed PLY (SuperSplat's `.compressed.ply`): 16 bytes a Gaussian, and harmonics.

    element chunk   18 floats for every 256 Gaussians: min_x..max_z, min_scale_x..max_scale_z (logarithms),
                    min_r..max_b (colour = 0.5 + SH0 c_0); files before colours had bounds have 12
    element vertex  packed_position, packed_scale  11, 10, 11 bits between the chunk's bounds
                    packed_rotation  2 bits: which of w x y z is the largest; 10 bits for each other one,
                                     between -1/sqrt 2 and 1/sqrt 2
                    packed_color     r g b between the bounds, opacity between 0 and 1, 8 bits each
    element sh      f_rest_0.. as bytes, channel-major: floor(256 (c / 8 + 1/2))

First fields lie in the high bits. Gaussians are written in Morton order, so that those of a chunk are near
one another and its bounds are tight. The numbers are taken as an INRIA PLY's are.
Source: playcanvas/splat-transform, readers/decompress-ply.ts and writers/compressed-chunk.ts.
"""

from collections.abc import Sequence

import numpy as np

from shared_protocol.errors import InvalidInput
from shared_protocol.splats.arrays import (
    COEFFICIENTS,
    SH0,
    StoredSplats,
    logits_of,
    opacities_of,
    unit_quaternions,
)
from shared_protocol.splats.elements import COPY_AGAIN, EXPECTED, REMEDY, Element, Table, header

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
BOUNDS = (
    *("min_x", "min_y", "min_z", "max_x", "max_y", "max_z"),
    *("min_scale_x", "min_scale_y", "min_scale_z", "max_scale_x", "max_scale_y", "max_scale_z"),
)
COLOR_BOUNDS = ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b")
LARGEST_HARMONIC = 4.0
LARGEST_LOG_SCALE = 20.0
_BITS = (11, 10, 11)
_ROOT_HALF = 0.5**0.5
_MORTON_BITS = 21


def morton_order(positions: np.ndarray) -> np.ndarray:
    """(G, 3) -> (G,) indices along a Z-shaped curve of 21 bits an axis; equal cells stay in order."""
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    span = np.where(high > low, high - low, 1)
    cells = ((positions - low) / span * (2**_MORTON_BITS - 1)).astype(np.uint64)
    code = np.zeros(len(positions), dtype=np.uint64)
    for axis in range(3):
        code |= _spread(cells[:, axis]) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread(bits: np.ndarray) -> np.ndarray:
    """(G,) uint64 of 21 bits -> every bit moved to three times its place."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
    return bits


def write_compressed_ply(stored: StoredSplats, comment: str = "") -> list[bytes]:
    """The parts of the file. Within half a step of each field (module docstring); opacity within 1/510."""
    count, coefficients = stored.count, stored.harmonics.shape[1]
    order = morton_order(stored.positions) if count else np.empty(0, dtype=np.int64)
    chunks = -(-count // CHUNK)
    # The last Gaussian fills the rest of the last chunk, which leaves its bounds as they are.
    padded = np.concatenate([order, np.repeat(order[-1:], chunks * CHUNK - count)])
    bounds, packed = np.empty((chunks, 18), dtype="<f4"), np.empty((count, 4), dtype="<u4")
    colors = (0.5 + SH0 * stored.harmonics[:, 0]).astype(np.float32)
    log_scales = np.clip(stored.log_scales, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
    for first, values, target in ((0, stored.positions, 0), (6, log_scales, 2), (12, colors, 3)):
        units = []
        for axis in range(3):
            grouped = values[:, axis].take(padded).reshape(chunks, CHUNK)
            low, high = grouped.min(axis=1), grouped.max(axis=1)
            bounds[:, first + axis], bounds[:, first + 3 + axis] = low, high
            with np.errstate(over="ignore"):
                span = np.where(high > low, high - low, np.float32(1))
            grouped -= low[:, None]
            grouped /= span[:, None]
            units.append(grouped.ravel()[:count])
        if target == 3:
            units.append(opacities_of(stored.logits)[order].astype(np.float32))
        packed[:, target] = _pack(units, (8, 8, 8, 8) if target == 3 else _BITS)
    packed[:, 1] = _pack_rotations(unit_quaternions(stored.rotations)[order])
    elements = [
        Element("chunk", chunks, tuple((name, "f4") for name in (*BOUNDS, *COLOR_BOUNDS))),
        Element("vertex", count, tuple((name, "u4") for name in PACKED)),
    ]
    body = [bounds.tobytes(), packed.tobytes()]
    if coefficients > 1:
        rest = 3 * (coefficients - 1)
        elements.append(Element("sh", count, tuple((f"f_rest_{i}", "u1") for i in range(rest))))
        body.append(_pack_harmonics(stored.harmonics, order))
    return [header("binary_little_endian", elements, comment), *body]


def _pack(units: Sequence[np.ndarray], bits: Sequence[int]) -> np.ndarray:
    """Columns (G,) float32 of 0..1 -> (G,) uint32, the first in the high bits."""
    result = np.zeros(len(units[0]), dtype=np.uint32)
    for unit, width in zip(units, bits, strict=True):
        top = np.float32(2**width - 1)
        field = np.clip(unit * top + np.float32(0.5), 0, top).astype(np.uint32)  # truncates: floor
        result <<= np.uint32(width)
        result |= field
    return result


def _unpack(packed: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_pack`: (G, n) float32."""
    result = np.empty((len(packed), len(bits)), dtype=np.float32)
    at = 0
    for i, width in reversed(list(enumerate(bits))):
        result[:, i] = (packed >> np.uint32(at)) & np.uint32(2**width - 1)
        result[:, i] /= 2**width - 1
        at += width
    return result


def _pack_rotations(rotations: np.ndarray) -> np.ndarray:
    largest = np.abs(rotations).argmax(axis=1)
    value = np.take_along_axis(rotations, largest[:, None], axis=1)
    rest = OTHERS[largest]  # (G, 3)
    unit = np.take_along_axis(rotations, rest, axis=1) * np.where(value < 0, -_ROOT_HALF, _ROOT_HALF).astype(
        np.float32
    )
    unit += np.float32(0.5)
    return (largest.astype(np.uint32) << np.uint32(30)) | _pack(unit.T, (10, 10, 10))


OTHERS = np.array([[j for j in range(4) if j != i] for i in range(4)])
"""The three components besides the largest one, in order."""


def _unpack_rotations(packed: np.ndarray) -> np.ndarray:
    rest = (_unpack(packed & np.uint32(2**30 - 1), (10, 10, 10)) - np.float32(0.5)) / np.float32(_ROOT_HALF)
    return complete_quaternions(packed >> np.uint32(30), rest)


def complete_quaternions(largest: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(G,) index of the largest component, (G, 3) float32 the others in order -> (G, 4) float32, unit."""
    value = np.sqrt(np.maximum(1 - np.einsum("gi,gi->g", rest, rest), 0))
    result = np.empty((len(rest), 4), dtype=np.float32)
    for component in range(4):
        # The place among the three others, where this component is one of them.
        below = rest[:, min(component, 2)] if component < 3 else rest[:, 2]
        above = rest[:, component - 1] if component else rest[:, 0]
        result[:, component] = np.where(
            largest == component, value, np.where(largest > component, below, above)
        )
    return result


def _pack_harmonics(harmonics: np.ndarray, order: np.ndarray) -> bytes:
    count, coefficients = harmonics.shape[:2]
    result = np.empty((count, 3, coefficients - 1), dtype=np.uint8)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        value = harmonics[order[block], 1:] * np.float32(256 / (2 * LARGEST_HARMONIC)) + np.float32(128)
        np.clip(value, 0, 255, out=value)
        result[block] = value.astype(np.uint8).transpose(0, 2, 1)  # truncates: floor
    return result.tobytes()


_BLOCK = 4096
"""Gaussians whose harmonics are worked on at a time, so that they stay in the cache."""


def splats_of_chunks(chunks: Table, vertices: Table, harmonics: Table | None) -> StoredSplats:
    """The elements of such a file -> Gaussians. Raises InvalidInput for fields or counts that do not fit."""
    _check(chunks, vertices, harmonics)
    count = vertices.count
    of = np.arange(count) // CHUNK
    packed = vertices.take(PACKED, np.uint32)
    bounds = chunks.take(BOUNDS)

    def between(low: np.ndarray, high: np.ndarray, unit: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return low[of] * (1 - unit) + high[of] * unit

    color = _unpack(packed[:, 3], (8, 8, 8, 8))
    opacities = color[:, 3].astype(np.float64)
    color = color[:, :3]
    if COLOR_BOUNDS[0] in chunks.names:
        color_bounds = chunks.take(COLOR_BOUNDS)
        color = between(color_bounds[:, :3], color_bounds[:, 3:], color)
    coefficients = 1 + (len(harmonics.names) // 3 if harmonics else 0)
    result = np.empty((count, coefficients, 3), dtype=np.float32)
    result[:, 0] = (color - np.float32(0.5)) / np.float32(SH0)
    if harmonics:
        levels = (np.arange(256, dtype=np.float32) + np.float32(0.5)) / 256
        levels[0], levels[255] = 0, 1
        levels = (levels - np.float32(0.5)) * np.float32(2 * LARGEST_HARMONIC)
        stored = harmonics.take([f"f_rest_{i}" for i in range(len(harmonics.names))], np.uint8)
        stored = stored.reshape(count, 3, coefficients - 1).transpose(0, 2, 1)
        for start in range(0, count, _BLOCK):
            result[start : start + _BLOCK, 1:] = levels[stored[start : start + _BLOCK]]
    return StoredSplats(
        between(bounds[:, 0:3], bounds[:, 3:6], _unpack(packed[:, 0], _BITS)),
        between(bounds[:, 6:9], bounds[:, 9:12], _unpack(packed[:, 2], _BITS)),
        _unpack_rotations(packed[:, 1]),
        logits_of(opacities),
        result,
    )


def _check(chunks: Table, vertices: Table, harmonics: Table | None) -> None:
    color = COLOR_BOUNDS if COLOR_BOUNDS[0] in chunks.names else ()
    rest = len(harmonics.names) if harmonics else 0
    for table, names in (
        (chunks, (*BOUNDS, *color)),
        (vertices, PACKED),
        (harmonics, [f"f_rest_{i}" for i in range(rest)]),
    ):
        missing = [name for name in names if table is not None and name not in table.names]
        if missing:
            raise InvalidInput(f"the PLY lacks the property {', '.join(missing[:4])}", EXPECTED, REMEDY)
    if vertices.kinds != {"u4"} or (harmonics and harmonics.kinds != {"u1"}):
        raise InvalidInput("the compressed PLY has other number types", "uint and uchar", REMEDY)
    if 1 + rest / 3 not in COEFFICIENTS:
        raise InvalidInput(f"the PLY has {rest} f_rest properties", "0, 9, 24 or 45", REMEDY)
    if harmonics and harmonics.count != vertices.count:
        raise InvalidInput(
            f"the PLY has harmonics of {harmonics.count} Gaussians", f"of {vertices.count}", COPY_AGAIN
        )
    if chunks.count != -(-vertices.count // CHUNK):
        raise InvalidInput(
            f"the PLY has {chunks.count} chunks for {vertices.count} Gaussians",
            f"one for every {CHUNK}",
            COPY_AGAIN,
        )
