"""Recognise, read and write Gaussian-splat files.

    splats = read_splats("garden.spz")              any format, known by its content
    write_splats("garden.compressed.ply", splats)   the format of the name
    decode_splats(data), encode_splats(splats, "spz")   the same on bytes

`read_stored` and `write_stored` hand on the numbers as files hold them: from PLY to PLY every bit stays.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from shared_protocol.errors import InvalidInput
from shared_protocol.splats.antialiased import COMMENT
from shared_protocol.splats.arrays import SplatArrays, StoredSplats, activate, store, without_broken
from shared_protocol.splats.compressed_ply import PACKED, splats_of_chunks, write_compressed_ply
from shared_protocol.splats.dot_splat import looks_like_dot_splat, read_dot_splat, write_dot_splat
from shared_protocol.splats.elements import EXPECTED, REMEDY, read_tables
from shared_protocol.splats.ply import splats_of_vertices, write_ply
from shared_protocol.splats.spz import GZIP_MAGIC, MAGIC, read_spz, write_spz

FORMATS = ("ply", "compressed.ply", "spz", "splat")
"""Names of the formats; each is also its extension."""
LARGEST_FILE = 16 * 2**30
"""Bytes of a file that is read: 64 million Gaussians of degree 3 as PLY."""
_KNOWN = "a Gaussian-splatting file: .ply, .compressed.ply, .spz or .splat"


def format_of(path: str | Path) -> str:
    """The format that a file name's extension means. Raises InvalidInput for other extensions."""
    name = Path(path).name.lower()
    for known in sorted(FORMATS, key=len, reverse=True):
        if name.endswith("." + known):
            return known
    raise InvalidInput(f"{Path(path).name} names no format of Gaussians", _KNOWN, "Rename the output.")


def recognise(data: bytes | memoryview) -> str:
    """The format of a file's content. Raises InvalidInput when it is none of `FORMATS`."""
    start = bytes(data[:4])
    if start[:3] == b"ply":
        vertices = read_tables(data, ("vertex",)).get("vertex")
        return "compressed.ply" if vertices and PACKED[0] in vertices.names else "ply"
    if start == MAGIC or start[:2] == GZIP_MAGIC:
        return "spz"
    if looks_like_dot_splat(data):
        return "splat"
    raise InvalidInput(
        f"the file is not one of Gaussians ({len(data):,} bytes)",
        _KNOWN,
        "Export it as PLY from the program that made it.",
    )


def decode_stored(
    data: bytes | memoryview, *, keep_axes: bool = False, drop_broken: bool = False
) -> StoredSplats:
    """The bytes of a file -> Gaussians.

    keep_axes    leave an SPZ's axes as they are (see `spz`)
    drop_broken  leave out Gaussians with numbers that are not finite, which are an error otherwise

    Raises InvalidInput, LimitExceeded, Unsupported or EngineUnavailable (see `read_spz`), nothing else.
    """
    start = bytes(data[:4])
    if start[:3] == b"ply":
        stored = _decode_ply(data)
    elif start == MAGIC or start[:2] == GZIP_MAGIC:
        stored = read_spz(data, keep_axes=keep_axes)
    else:
        recognise(data)
        stored = read_dot_splat(data)
    return without_broken(stored, drop=drop_broken)


def _decode_ply(data: bytes | memoryview) -> StoredSplats:
    tables = read_tables(data, ("chunk", "vertex", "sh"))
    vertices = tables.get("vertex")
    if vertices is None:
        raise InvalidInput("the PLY has no vertices", EXPECTED, REMEDY)
    if PACKED[0] not in vertices.names:
        return splats_of_vertices(vertices)
    if "chunk" not in tables:
        raise InvalidInput("the compressed PLY has no chunks", EXPECTED, REMEDY)
    return splats_of_chunks(tables["chunk"], vertices, tables.get("sh"))


def encode_stored(
    stored: StoredSplats, kind: str, *, keep_axes: bool = False, antialiased: bool = False
) -> bytes:
    """Gaussians -> the bytes of a file of one of `FORMATS`. The same Gaussians give the same bytes.

    antialiased  the file says that they were trained with Mip-Splatting's filter (not in a .splat)
    """
    return b"".join(_parts(stored, kind, keep_axes, antialiased))


def _parts(
    stored: StoredSplats, kind: str, keep_axes: bool, antialiased: bool
) -> Sequence[bytes | memoryview]:
    if kind == "spz":
        return write_spz(stored, keep_axes=keep_axes, antialiased=antialiased)
    if kind == "splat":
        return write_dot_splat(stored)
    writers = {"ply": write_ply, "compressed.ply": write_compressed_ply}
    if kind not in writers:
        raise InvalidInput(f"'{kind}' is no format of Gaussians", "one of " + ", ".join(FORMATS))
    return writers[kind](stored, COMMENT if antialiased else "")


def decode_splats(
    data: bytes | memoryview, *, keep_axes: bool = False, drop_broken: bool = False
) -> SplatArrays:
    """`decode_stored`, activated."""
    return activate(decode_stored(data, keep_axes=keep_axes, drop_broken=drop_broken))


def encode_splats(splats: SplatArrays, kind: str, *, keep_axes: bool = False) -> bytes:
    """`encode_stored` of activated Gaussians (any tuple in the order of `SplatArrays`)."""
    return encode_stored(store(SplatArrays(*splats)), kind, keep_axes=keep_axes)


def read_file(path: str | Path) -> bytes:
    """The content of a file. Raises InvalidInput when there is none of this name or it is too large."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir() or size > LARGEST_FILE:
            found = f"{path} is a folder" if path.is_dir() else f"{path} has {size:,} bytes"
            raise InvalidInput(found, f"a file of at most {LARGEST_FILE:,} bytes", "Choose another file.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror or error})", _KNOWN, "Check the path."
        ) from error


def read_stored(
    source: str | Path | bytes, *, keep_axes: bool = False, drop_broken: bool = False
) -> StoredSplats:
    """A file, or its bytes -> Gaussians as the file holds them; see `decode_stored`."""
    data = source if isinstance(source, bytes) else read_file(source)
    return decode_stored(data, keep_axes=keep_axes, drop_broken=drop_broken)


def read_splats(
    source: str | Path | bytes, *, keep_axes: bool = False, drop_broken: bool = False
) -> SplatArrays:
    """A file, or its bytes -> activated Gaussians; see `decode_stored`."""
    return activate(read_stored(source, keep_axes=keep_axes, drop_broken=drop_broken))


def write_stored(
    path: str | Path, stored: StoredSplats, *, keep_axes: bool = False, antialiased: bool = False
) -> int:
    """Write the format that the name means, whole or not at all; returns its bytes. See `encode_stored`.

    Raises InvalidInput for other names; an OSError of the disk is the caller's to put into words.
    """
    path = Path(path)
    parts = _parts(stored, format_of(path), keep_axes, antialiased)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return sum(map(len, parts))


def write_splats(path: str | Path, splats: SplatArrays, *, keep_axes: bool = False) -> int:
    """`write_stored` of activated Gaussians."""
    return write_stored(path, store(SplatArrays(*splats)), keep_axes=keep_axes)
