"""PNG pictures in numpy, for work beside the main thread, where Blender's own image code may not go; no bpy.

Reads 8 bits a channel without palette or interlace (PNG 1.2, sections 4.1, 6), as the backend's textures are.
"""

import struct
import zlib

import numpy as np

_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_COLOR_TYPES = {channels: kind for kind, channels in _CHANNELS.items()}
_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4


def encode(pixels: np.ndarray) -> bytes:
    """(H, W, C) uint8, rows from the top, C = 1 to 4 -> a PNG file."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 1)
    return _MAGIC + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def decode(data: bytes) -> np.ndarray | None:
    """The pixels, (H, W, C) uint8; None for a picture of another kind, or a damaged one."""
    if not data.startswith(_MAGIC):
        return None
    header, packed, place = b"", [], len(_MAGIC)
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            packed.append(body)
        place += 12 + length
    try:
        width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        rows = np.frombuffer(zlib.decompress(b"".join(packed)), np.uint8)
    except (struct.error, zlib.error):
        return None
    channels = _CHANNELS.get(color, 0)
    if depth != 8 or interlaced or not channels or len(rows) != height * (1 + width * channels):
        return None
    rows = rows.reshape(height, 1 + width * channels)
    return _unfiltered(rows[:, 0], rows[:, 1:].reshape(height, width, channels))


def shrunk(data: bytes, most: int) -> bytes:
    """The same picture with at most `most` pixels an edge, halved as often as that takes; as it is where it
    fits, cannot be halved or is no PNG that `decode` reads."""
    pixels = decode(data)
    if pixels is None or max(pixels.shape[:2]) <= most:
        return data
    while max(pixels.shape[:2]) > most and not pixels.shape[0] % 2 and not pixels.shape[1] % 2:
        height, width, channels = pixels.shape
        blocks = pixels.reshape(height // 2, 2, width // 2, 2, channels).astype(np.uint16)
        pixels = ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)
    return encode(pixels)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _unfiltered(filters: np.ndarray, coded: np.ndarray) -> np.ndarray:
    """Undo the filter of each row.

    A pixel needs those to the left, above, and above left. So all on one diagonal, from bottom left to top
    right, can be had at the same time; where row r is moved r places to the right, a diagonal is a column.
    """
    height, width, channels = coded.shape
    if not len(filters) or filters.max() > _PAETH:
        return coded
    # One row of zeros above the first; two diagonals of zeros at the end, which are those before the first.
    moved = np.zeros((width + height + 1, height + 1, channels), np.int16)
    row = np.arange(height)
    for column in range(width):
        moved[column + row, row + 1] = coded[:, column]
    kinds = filters[:, None]
    for diagonal in range(width + height - 1):
        low, high = max(0, diagonal - width + 1), min(height, diagonal + 1)  # the rows that it crosses
        left, above = moved[diagonal - 1, low + 1 : high + 1], moved[diagonal - 1, low:high]
        corner, kind = moved[diagonal - 2, low:high], kinds[low:high]
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)  # Paeth's estimate minus each
        to_corner = np.abs(left + above - 2 * corner)
        nearest = np.where(to_above <= to_corner, above, corner)
        nearest = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
        guess = np.where(kind == _PAETH, nearest, 0)
        guess += np.where(kind == _UP, above, 0) + np.where(kind == _SUB, left, 0)
        guess += np.where(kind == _AVERAGE, (left + above) >> 1, 0)
        now = moved[diagonal, low + 1 : high + 1]
        now += guess
        now &= 255
    picture = np.empty((height, width, channels), np.uint8)
    for column in range(width):
        picture[:, column] = moved[column + row, row + 1]
    return picture
