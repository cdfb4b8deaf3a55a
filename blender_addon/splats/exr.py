"""Passes out of an uncompressed multilayer OpenEXR, as Blender writes it: its Python hands out no passes.

Read are scanline files of one part (Blender 4) and of several (Blender 5) without compression; layout as
in "OpenEXR File Layout" of the Academy Software Foundation.
"""

import struct

import numpy as np

from shared_protocol.errors import InvalidInput

_MAGIC = 20000630
_MULTIPART = 0x1000
_TILED_OR_DEEP = 0x200 | 0x800
_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def read_channel(data: bytes, ending: str) -> np.ndarray:
    """(height, width) float32, rows from the top: the first channel whose name ends so (".Depth.Z").

    Raises InvalidInput when the file is of another kind or has no such channel.
    """
    try:
        return _read(data, ending)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise InvalidInput(
            f"the OpenEXR of the render cannot be read ({error})",
            "an uncompressed scanline file",
            "Report this with the version of Blender.",
        ) from error


def _read(data: bytes, ending: str) -> np.ndarray:
    magic, version = struct.unpack_from("<II", data)
    if magic != _MAGIC or version & _TILED_OR_DEEP:
        raise ValueError("it is tiled, deep or no OpenEXR")
    several, at = bool(version & _MULTIPART), 8
    parts = []
    while True:
        fields, at = _header(data, at)
        if not fields:
            break
        parts.append(fields)
        if not several:
            break
    number, channels, found = _find(parts, ending)
    fields = parts[number]
    if fields["compression"] != b"\0":
        raise ValueError("it is compressed")
    left, top, right, bottom = struct.unpack("<4i", fields["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    # Before this part's table of offsets lie those of the parts before it.
    at += 8 * sum(struct.unpack("<i", part["chunkCount"])[0] for part in parts[:number])
    offsets = struct.unpack_from(f"<{height}Q", data, at)
    skip = width * sum(kind.itemsize for _, kind in channels[:found])
    result = np.empty((height, width), np.float32)
    for offset in offsets:
        if several:
            offset += 4
        row, _ = struct.unpack_from("<ii", data, offset)
        result[row - top] = np.frombuffer(data, channels[found][1], width, offset + 8 + skip)
    return result


def _find(parts: list[dict[str, bytes]], ending: str) -> tuple[int, list[tuple[str, np.dtype]], int]:
    """The part that has the channel, its channels, and which one it is. A part's name may carry the layer."""
    for number, fields in enumerate(parts):
        channels = _channels(fields["channels"])
        part = fields.get("name", b"").decode()
        for index, (name, _) in enumerate(channels):
            if f".{name}".endswith(ending) or f".{part}.{name}".endswith(ending):
                return number, channels, index
    raise ValueError(f"no channel ends with {ending}")


def _header(data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    fields = {}
    while data[at]:
        end = data.index(b"\0", at)
        name = data[at:end].decode()
        at = data.index(b"\0", end + 1) + 1  # past the type
        (size,) = struct.unpack_from("<i", data, at)
        fields[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return fields, at + 1


def _channels(data: bytes) -> list[tuple[str, np.dtype]]:
    """(name, type) in the order of the file."""
    found, at = [], 0
    while data[at]:
        end = data.index(b"\0", at)
        (kind,) = struct.unpack_from("<i", data, end + 1)
        found.append((data[at:end].decode(), _TYPES[kind]))
        at = end + 17
    return found
