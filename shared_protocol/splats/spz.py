"""Niantic's SPZ: 20 bytes a Gaussian and one for every harmonic, compressed.

    header      "NGSP", version, count (uint32), degree, fractional bits, flags, one more (bytes)
    positions   3 x 24-bit two's complement, in units of 2^-(fractional bits); version 1: 3 x float16
    opacities   byte / 255
    colours     3 bytes: 255 (0.15 c_0 + 1/2)
    scales      3 bytes: 16 (ln scale + 10)
    rotations   version 3 on: 2 bits for the largest of x y z w, and for each other sign and 9 bits of
                magnitude over 1/sqrt 2; before: x y z as bytes, 127.5 (q + 1), with w positive
    harmonics   bytes, 128 (c + 1), the three channels of a coefficient side by side

Versions 1 to 3 are one gzip stream; version 4 has a 32-byte header, a table of contents and one ZSTD
stream for each list. Read are all four; version 4 needs ZSTD (in Python 3.14, as the package `zstandard`,
which Blender ships). Written is version 3: gzip is in every Python, all readers of today take it (Niantic,
Blender 5.3, PlayCanvas, gsply), and Blender's reader asks for six streams, which version 4 does not have
at degree 0. Version 2 is older still, but its rotations are several times coarser.

Axes. The format's are right-up-back: +Y up. Blender's importer turns them into its world (x, -z, y), and
so do we; the Gaussians of a PLY and of an SPZ written from it then lie at the same place in Blender, and
stand upright in viewers that follow the format. Converters differ: Niantic's `ply_to_spz`, splat-transform
and gsply copy the numbers of a PLY unturned. For such files, `keep_axes`.

Source: nianticlabs/spz, README.md and src/cc/load-spz.cc.
"""

import struct
import zlib

import numpy as np

from shared_protocol.errors import EngineUnavailable, InvalidInput, LimitExceeded, Unsupported
from shared_protocol.splats.arrays import (
    COEFFICIENTS,
    StoredSplats,
    logits_of,
    opacities_of,
    unit_quaternions,
)
from shared_protocol.splats.compressed_ply import OTHERS, complete_quaternions
from shared_protocol.splats.turn import WORLD_FROM_Y_UP, Y_UP_FROM_WORLD, turn

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"
HEADER = struct.Struct("<4sIIBBBB")
HEADER_V4 = struct.Struct("<4sIIBBBBI12x")
_STREAM = struct.Struct("<QQ")
VERSION = 3
ANTIALIASED = 0x1
"""Of the flags: trained with Mip-Splatting's filter, see `antialiased`."""
FRACTIONAL_BITS = 12
"""Niantic's: steps of 0.24 mm. More are used where the scene is small, see `fractional_bits`."""
_FINE_BITS = 16
"""Steps of the extent of the scene, when it is small: 2^-16 of it."""
_COLOR = 0.15
_ROOT_HALF = 0.5**0.5
_MAGNITUDE = 511
_RATIO, _ALWAYS = 64, 256 * 2**20
"""A file may unpack to 64 times its size, and to 256 MiB in any case. Real ones pack 1.5 to 5 times."""
_BLOCK = 8192
"""Gaussians worked on at a time, so that they stay in the cache."""
_EXPECTED = "an SPZ file of version 1 to 4"
_COPY_AGAIN = "Copy or download the file again."


def fractional_bits(positions: np.ndarray) -> int:
    """Bits after the binary point: Niantic's 12, more when the scene is smaller than 16 m (up to steps of
    2^-16 of its extent), fewer when it would not fit into 24 bits. Raises LimitExceeded beyond 2^23 m."""
    extent = float(np.abs(positions).max()) if len(positions) else 1.0
    exponent = int(np.frexp(max(extent, 1e-6))[1])  # extent < 2^exponent
    bits = min(max(FRACTIONAL_BITS, _FINE_BITS - exponent), 22 - exponent, 23)
    if bits < 0:
        raise LimitExceeded(
            f"a Gaussian lies {extent:.3g} m from the origin", "at most 4,194,304 m in an SPZ", "Write a PLY."
        )
    return bits


def write_spz(stored: StoredSplats, *, keep_axes: bool = False, antialiased: bool = False) -> list[bytes]:
    """The parts of the file.

    Half a step of each field is lost: position 2^-(bits + 1), c_0 0.013 (within -3.3..3.3), ln scale 1/32
    (within -10..5.9), opacity 1/510, the three smaller rotation components 0.0007, harmonics 1/256 (within
    -1..0.99; Niantic's own packer keeps 5 and 4 bits of these 8).
    """
    if not keep_axes:
        stored = turn(stored, Y_UP_FROM_WORLD)
    bits = fractional_bits(stored.positions)
    fixed = np.rint(stored.positions.astype(np.float64) * 2**bits).astype("<i4")
    position = fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3]
    head = HEADER.pack(MAGIC, VERSION, stored.count, stored.degree, bits, ANTIALIASED * antialiased, 0)
    # Quantised numbers seldom repeat over a distance: looking for that (the default strategy) takes more
    # than twice the time and makes the file larger (14.2 and 15.5 MB of 22.5 MB of harmonics).
    pack = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    parts = [pack.compress(head)]
    for section in (
        position,
        np.rint(opacities_of(stored.logits) * 255).astype(np.uint8),
        _bytes(stored.harmonics[:, 0], _COLOR * 255, 127.5),
        _bytes(stored.log_scales, 16, 160),
        _pack_rotations(unit_quaternions(stored.rotations)),
        _bytes(stored.harmonics[:, 1:], 128, 128),
    ):
        parts.append(pack.compress(np.ascontiguousarray(section).data.cast("B") if section.size else b""))
    return [*parts, pack.flush()]


def _bytes(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """round(values * factor + offset), within a byte; any shape."""
    result = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK] * np.float32(factor)
        block += np.float32(offset)
        np.clip(np.rint(block, out=block), 0, 255, out=block)
        result[start : start + _BLOCK] = block
    return result


def _pack_rotations(rotations: np.ndarray) -> np.ndarray:
    """(G, 4) unit, wxyz -> (G,) uint32."""
    rotations = rotations[:, (1, 2, 3, 0)]
    largest = np.abs(rotations).argmax(axis=1)
    rest = np.take_along_axis(rotations, OTHERS[largest], axis=1)
    negative = (rest < 0) ^ (np.take_along_axis(rotations, largest[:, None], axis=1) < 0)
    magnitude = np.minimum(np.abs(rest) * np.float32(_MAGNITUDE / _ROOT_HALF) + np.float32(0.5), _MAGNITUDE)
    fields = magnitude.astype(np.uint32) | (negative.astype(np.uint32) << np.uint32(9))
    packed = largest.astype(np.uint32)
    for i in range(3):
        packed = (packed << np.uint32(10)) | fields[:, i]
    return packed.astype("<u4")


def read_spz(data: bytes | memoryview, *, keep_axes: bool = False) -> StoredSplats:
    """Raises InvalidInput for what is no SPZ or is cut short, LimitExceeded for one that unpacks to more
    than its size can mean, Unsupported for later versions, EngineUnavailable where ZSTD is missing."""
    if bytes(data[:2]) == GZIP_MAGIC:
        head, sections = _unpack_gzip(data)
    elif bytes(data[:4]) == MAGIC:
        head, sections = _unpack_streams(data)
    else:
        raise InvalidInput("the file is not an SPZ file", _EXPECTED, "Export it again as SPZ or PLY.")
    stored = _decode(head, sections)
    return stored if keep_axes else turn(stored, WORLD_FROM_Y_UP)


class _Head:
    """The fields of the header that both containers have, checked."""

    def __init__(self, magic: bytes, version: int, count: int, degree: int, bits: int) -> None:
        if magic != MAGIC:
            raise InvalidInput("the file is packed, but holds no SPZ", _EXPECTED, "Export it again as SPZ.")
        if not 1 <= version <= 4:
            raise Unsupported(
                f"the SPZ has version {version}", _EXPECTED, "Export it with an older version, or as PLY."
            )
        if degree > 4 or bits > 24:
            raise InvalidInput(
                f"the SPZ has harmonics of degree {degree} and {bits} fractional bits",
                "at most degree 4 and 24 bits",
                _COPY_AGAIN,
            )
        self.version, self.count, self.degree, self.bits = version, count, degree, bits

    def sizes(self) -> list[int]:
        """Bytes of each section, in file order."""
        a_gaussian = (
            6 if self.version == 1 else 9, 1, 3, 3, 4 if self.version >= 3 else 3,
            3 * ((self.degree + 1) ** 2 - 1),
        )  # fmt: skip
        return [self.count * size for size in a_gaussian]


def _check_ratio(unpacked: int, packed: int) -> None:
    if unpacked > max(_ALWAYS, _RATIO * packed):
        raise LimitExceeded(
            f"the SPZ says it unpacks to {unpacked:,} bytes, from {packed:,}",
            f"at most {_RATIO} times its size",
            _COPY_AGAIN,
        )


def _unpack_gzip(data: bytes | memoryview) -> tuple[_Head, list[np.ndarray]]:
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        start = inflate.decompress(data, HEADER.size)
        if len(start) < HEADER.size:
            raise InvalidInput("the SPZ is cut short in its header", _EXPECTED, _COPY_AGAIN)
        magic, version, count, degree, bits, _, _ = HEADER.unpack(start)
        head = _Head(magic, min(version, 4), count, degree, bits)
        if head.version > 3:
            raise Unsupported(f"the packed SPZ has version {version}", _EXPECTED, "Export it as PLY.")
        total = sum(head.sizes())
        _check_ratio(total, len(data))
        body = inflate.decompress(inflate.unconsumed_tail, total) if total else b""
    except zlib.error as error:
        raise InvalidInput(f"the SPZ is damaged ({error})", _EXPECTED, _COPY_AGAIN) from error
    if len(body) < total:
        raise InvalidInput(
            f"the SPZ is truncated: {len(body)} bytes of data for {count} Gaussians",
            f"{total} bytes",
            _COPY_AGAIN,
        )
    values, sections = np.frombuffer(body, np.uint8) if total else np.empty(0, np.uint8), []
    at = 0
    for size in head.sizes():
        sections.append(values[at : at + size])
        at += size
    return head, sections


def _unpack_streams(data: bytes | memoryview) -> tuple[_Head, list[np.ndarray]]:
    """Version 4: header, records of extensions (skipped), table of contents, streams; empty ones are left
    out by Niantic's writer."""
    if len(data) < HEADER_V4.size:
        raise InvalidInput("the SPZ is cut short in its header", _EXPECTED, _COPY_AGAIN)
    magic, version, count, degree, bits, _, streams, contents = HEADER_V4.unpack_from(data)
    if version < 4:
        raise InvalidInput(f"the SPZ of version {version} is not packed", "a gzip stream", _COPY_AGAIN)
    head = _Head(magic, version, count, degree, bits)
    sizes = head.sizes()
    at = contents + streams * _STREAM.size
    if contents < HEADER_V4.size or at > len(data) or streams not in (len(sizes), sum(map(bool, sizes))):
        raise InvalidInput(
            f"the SPZ has {streams} streams listed at byte {contents} of {len(data)}", _EXPECTED, _COPY_AGAIN
        )
    _check_ratio(sum(sizes), len(data))
    present = [i for i, size in enumerate(sizes) if size or streams == len(sizes)]
    sections = [np.empty(0, np.uint8)] * len(sizes)
    for i, section in enumerate(present):
        packed, unpacked = _STREAM.unpack_from(data, contents + i * _STREAM.size)
        if packed > len(data) - at or unpacked != sizes[section]:
            raise InvalidInput(
                f"stream {i} of the SPZ has {packed} bytes for {unpacked}",
                f"at most {len(data) - at} for {sizes[section]}",
                _COPY_AGAIN,
            )
        if unpacked:
            sections[section] = np.frombuffer(_zstd(data[at : at + packed], unpacked), np.uint8)
        at += packed
    return head, sections


def _zstd(data: bytes | memoryview, size: int) -> bytes:
    """One ZSTD stream of exactly `size` bytes."""
    try:
        from compression import zstd
    except ImportError:
        try:
            import zstandard
        except ImportError:
            raise EngineUnavailable(
                "this SPZ has version 4, which is packed with ZSTD",
                "Python 3.14, or the package zstandard",
                "Run 'pip install zstandard', or export the file as PLY or SPZ version 3.",
            ) from None
        errors: type[Exception] = zstandard.ZstdError

        def unpack() -> bytes:
            # The stream names its own size; one that unpacks to more is refused before that is done.
            named = zstandard.get_frame_parameters(data).content_size
            if named not in (size, zstandard.CONTENTSIZE_UNKNOWN):
                return b""
            if named == size:
                return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                return reader.read(size)
    else:
        errors = zstd.ZstdError

        def unpack() -> bytes:
            return zstd.ZstdDecompressor().decompress(data, max_length=size)

    try:
        result = unpack()
    except errors as error:
        raise InvalidInput(f"the SPZ is damaged ({error})", _EXPECTED, _COPY_AGAIN) from error
    if len(result) != size:
        raise InvalidInput(f"a stream of the SPZ does not unpack to {size} bytes", _EXPECTED, _COPY_AGAIN)
    return result


def _decode(head: _Head, sections: list[np.ndarray]) -> StoredSplats:
    positions, opacities, colors, scales, rotations, harmonics = sections
    count = head.count
    coefficients = min((head.degree + 1) ** 2, COEFFICIENTS[-1])
    result = np.empty((count, coefficients, 3), dtype=np.float32)
    steps = np.arange(256, dtype=np.float32)
    result[:, 0] = ((steps / 255 - np.float32(0.5)) / np.float32(_COLOR))[colors.reshape(count, 3)]
    in_file = harmonics.reshape(count, 3 * ((head.degree + 1) ** 2 - 1))[:, : 3 * (coefficients - 1)]
    for start in range(0, count if coefficients > 1 else 0, _BLOCK):
        block = in_file[start : start + _BLOCK].astype(np.float32)
        block -= 128
        block /= 128
        result[start : start + _BLOCK, 1:] = block.reshape(-1, coefficients - 1, 3)
    return StoredSplats(
        _decode_positions(head, positions),
        (steps / 16 - 10)[scales.reshape(count, 3)],
        _decode_rotations(head, rotations),
        logits_of(np.arange(256) / 255)[opacities],
        result,
    )


def _decode_positions(head: _Head, data: np.ndarray) -> np.ndarray:
    if head.version == 1:
        return data.view("<f2").reshape(head.count, 3).astype(np.float32)
    wide = np.zeros((head.count * 3, 4), dtype=np.uint8)
    wide[:, 1:] = data.reshape(-1, 3)
    # The 24 bits in the upper bytes: the sign is in place, the value 256 times too large.
    return (wide.view("<i4").reshape(head.count, 3) * (2.0 ** -(head.bits + 8))).astype(np.float32)


def _decode_rotations(head: _Head, data: np.ndarray) -> np.ndarray:
    """-> (G, 4) float32 wxyz."""
    if head.version < 3:
        xyz = data.reshape(head.count, 3).astype(np.float32) / np.float32(127.5) - 1
        w = np.sqrt(np.maximum(1 - np.einsum("gi,gi->g", xyz, xyz), 0))
        return np.concatenate([w[:, None], xyz], axis=1)
    packed = data.view("<u4")
    rest = np.empty((head.count, 3), dtype=np.float32)
    for i, shift in enumerate((20, 10, 0)):
        field = (packed >> np.uint32(shift)).astype(np.uint32)
        rest[:, i] = field & np.uint32(_MAGNITUDE)
        rest[:, i] *= np.where(field & np.uint32(512), -_ROOT_HALF / _MAGNITUDE, _ROOT_HALF / _MAGNITUDE)
    return complete_quaternions(packed >> np.uint32(30), rest)[:, (3, 0, 1, 2)]
