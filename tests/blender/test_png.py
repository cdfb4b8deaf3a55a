"""PNG in numpy, against every filter spelt out pixel by pixel, and against Blender."""

import struct
import zlib

import numpy as np
import pytest

from blender_addon.importers import png


def smooth(height, width, channels, seed=0):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 3, (channels, height, width))
    waves = [np.sin(x / 7 + n) * np.cos(y / 5) * 90 + 128 + noise[n] for n in range(channels)]
    return np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)


def filtered(pixels, filters):
    """A PNG whose row r is coded with filters[r], pixel by pixel as the standard says it."""
    height, width, channels = pixels.shape
    rows = []
    for r in range(height):
        row = bytearray([filters[r]])
        for c in range(width):
            for k in range(channels):
                left = int(pixels[r, c - 1, k]) if c else 0
                above = int(pixels[r - 1, c, k]) if r else 0
                corner = int(pixels[r - 1, c - 1, k]) if r and c else 0
                estimate = left + above - corner
                nearest = min((left, above, corner), key=lambda value: abs(estimate - value))
                guess = (0, left, above, (left + above) // 2, nearest)[filters[r]]
                row.append((int(pixels[r, c, k]) - guess) % 256)
        rows.append(bytes(row))
    plain = png.encode(pixels)
    start, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    body = zlib.compress(b"".join(rows))
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    return plain[:start] + chunk + plain[end:]


@pytest.mark.parametrize("shape", [(5, 7, 3), (7, 5, 4), (1, 9, 1), (9, 1, 2), (33, 20, 3)])
def test_every_filter_is_undone(shape):
    pixels = smooth(*shape)
    filters = np.random.default_rng(1).integers(0, 5, shape[0]).tolist()
    np.testing.assert_array_equal(png.decode(filtered(pixels, filters)), pixels)
    np.testing.assert_array_equal(png.decode(png.encode(pixels)), pixels)


def test_blender_reads_what_is_encoded_and_what_it_writes_is_decoded(blender, tmp_path):
    pixels = smooth(64, 48, 3)
    (tmp_path / "ours.png").write_bytes(png.encode(pixels))
    image = blender.data.images.load(str(tmp_path / "ours.png"))
    seen = np.empty(64 * 48 * 4, np.float32)
    image.pixels.foreach_get(seen)
    np.testing.assert_array_equal(np.rint(seen.reshape(64, 48, 4)[::-1, :, :3] * 255), pixels)
    image.save(filepath=str(tmp_path / "theirs.png"))
    theirs = (tmp_path / "theirs.png").read_bytes()
    np.testing.assert_array_equal(png.decode(theirs)[..., :3], pixels)


def test_a_picture_is_halved_until_it_fits():
    small = png.decode(png.shrunk(png.encode(np.kron(smooth(8, 8, 3), np.ones((4, 4, 1), np.uint8))), 8))
    np.testing.assert_array_equal(small, smooth(8, 8, 3))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff JPEG", png.encode(smooth(6, 6, 3))[:60], b"\x89PNG\r\n\x1a\n"]
)
def test_what_cannot_be_read_stays_as_it_is(data):
    assert png.decode(data) is None
    assert png.shrunk(data, 2) == data
