"""Files made by hand, byte by byte from the formats' descriptions, and hostile ones."""

import gzip
import struct
import sys
import tracemalloc

import numpy as np
import pytest

from shared_protocol.errors import EngineUnavailable, InvalidInput, LimitExceeded, OrreryError, Unsupported
from shared_protocol.splats import spz
from shared_protocol.splats.arrays import SH0, activate
from shared_protocol.splats.files import decode_splats, decode_stored, encode_stored
from tests.support.splats import angle_between, random_splats

POSITION = bytes.fromhex("001800 00f0ff 000000")  # 6144, -4096, 0 in steps of 2^-12: 1.5, -1, 0
ALPHA, COLOR, SCALE = b"\xff", bytes((128, 0, 255)), bytes((160, 0, 255))
SMALLEST_THREE = struct.pack("<I", 3 << 30 | 0 << 20 | (512 | 511) << 10 | 0)  # w largest, y = -sqrt(1/2)
HARMONICS = bytes(range(64, 64 + 9))


def _spz(version, sections, *, count=1, degree=1, bits=12, tail=b""):
    head = b"NGSP" + struct.pack("<IIBBBB", version, count, degree, bits, 0, 0)
    return gzip.compress(head + b"".join(sections) + tail, mtime=0)


def test_spz_version_3_by_hand():
    found = decode_stored(_spz(3, (POSITION, ALPHA, COLOR, SCALE, SMALLEST_THREE, HARMONICS)), keep_axes=True)
    np.testing.assert_array_equal([[1.5, -1, 0]], found.positions)
    np.testing.assert_array_equal([[0, -10, 255 / 16 - 10]], found.log_scales)
    np.testing.assert_allclose([[0.5**0.5, 0, -(0.5**0.5), 0]], found.rotations, atol=1e-6)
    np.testing.assert_allclose([1], activate(found).opacities, atol=2e-7)
    np.testing.assert_allclose(
        (np.array([[128, 0, 255]]) / 255 - 0.5) / 0.15, found.harmonics[:, 0], atol=1e-6
    )
    # Coefficient by coefficient, the three channels side by side.
    np.testing.assert_array_equal((np.arange(64, 73).reshape(3, 3) - 128) / 128, found.harmonics[0, 1:])


def test_spz_version_2_has_three_bytes_of_rotation():
    rotation = bytes((255, 128, 128))  # x = 1, and w = 0 follows
    found = decode_stored(_spz(2, (POSITION, ALPHA, COLOR, SCALE, rotation), degree=0), keep_axes=True)
    assert angle_between(found.rotations, np.array([[0, 1, 0, 0]])).max() < 0.02
    np.testing.assert_array_equal([[1.5, -1, 0]], found.positions)


def test_spz_version_1_has_half_floats():
    position = np.array([1.5, -1, 0.1], "<f2").tobytes()
    found = decode_stored(_spz(1, (position, ALPHA, COLOR, SCALE, bytes(3)), degree=0), keep_axes=True)
    np.testing.assert_array_equal(np.array([[1.5, -1, 0.1]], "<f2").astype(np.float32), found.positions)


def test_spz_lies_y_up_and_becomes_z_up():
    data = _spz(3, (POSITION, ALPHA, COLOR, SCALE, SMALLEST_THREE, HARMONICS))
    raw, world = decode_stored(data, keep_axes=True), decode_stored(data)
    x, y, z = raw.positions[0]
    np.testing.assert_array_equal([[x, -z, y]], world.positions)
    # Turned back when written: the same file again, but for how positions are scaled.
    again = decode_stored(encode_stored(world, "spz"), keep_axes=True)
    np.testing.assert_allclose(raw.positions, again.positions, atol=2.0**-17)
    np.testing.assert_allclose(raw.harmonics, again.harmonics, atol=1 / 256 + 1e-6)
    assert angle_between(raw.rotations, again.rotations).max() < 0.003


def test_spz_of_degree_4_is_cut_to_3_and_what_follows_the_lists_is_left():
    harmonics = bytes(range(128, 128 + 72))
    found = decode_stored(
        _spz(3, (POSITION, ALPHA, COLOR, SCALE, SMALLEST_THREE, harmonics), degree=4, tail=b"more"),
        keep_axes=True,
    )
    np.testing.assert_array_equal(np.arange(45).reshape(15, 3) / 128, found.harmonics[0, 1:])


def _spz_4(*, streams=None, sizes=None, contents=32, version=4, harmonics=HARMONICS):
    zstandard = pytest.importorskip("zstandard", reason="SPZ version 4 is packed with ZSTD")
    sections = (POSITION, ALPHA, COLOR, SCALE, SMALLEST_THREE, harmonics)
    sections = [section for section in sections if section]
    packed = streams or [zstandard.ZstdCompressor().compress(section) for section in sections]
    sizes = sizes or [len(section) for section in sections]
    degree = round((1 + len(harmonics) / 3) ** 0.5) - 1
    head = b"NGSP" + struct.pack("<IIBBBBI12x", version, 1, degree, 12, 2, len(packed), contents)
    table = b"".join(struct.pack("<QQ", len(p), size) for p, size in zip(packed, sizes, strict=True))
    return head + bytes(contents - 32) + table + b"".join(packed)


@pytest.mark.parametrize("contents", [32, 57])
@pytest.mark.parametrize("harmonics", [b"", HARMONICS])
def test_spz_version_4_has_a_stream_for_each_list(contents, harmonics):
    found = decode_stored(_spz_4(contents=contents, harmonics=harmonics), keep_axes=True)
    np.testing.assert_array_equal([[1.5, -1, 0]], found.positions)
    assert found.degree == (1 if harmonics else 0)


def test_spz_version_4_without_zstd_says_what_to_install(monkeypatch):
    data = _spz_4()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(EngineUnavailable, match="pip install zstandard"):
        decode_stored(data)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"version": 3}, "not packed"),
        ({"contents": 2**31}, "streams listed"),
        ({"sizes": [9, 1, 3, 3, 4, 8]}, "stream 5"),
        ({"streams": [b"x"] * 6, "sizes": [9, 1, 3, 3, 4, 9]}, "damaged|does not unpack"),
        ({"streams": [b""] * 6, "sizes": [9, 1, 3, 3, 4, 9]}, "damaged|does not unpack"),
        ({"streams": [b"x"] * 4, "sizes": [9, 1, 3, 3]}, "4 streams"),
    ],
)
def test_broken_streams_of_version_4_are_named(changes, found):
    if changes.get("contents", 0) > 1000:
        data = bytearray(_spz_4())
        struct.pack_into("<I", data, 16, changes["contents"])
    else:
        data = _spz_4(**changes)
    with pytest.raises(InvalidInput, match=found):
        decode_stored(bytes(data))


@pytest.mark.parametrize("unknown", [False, True])
def test_a_zstd_stream_that_unpacks_to_more_than_it_says_is_refused(unknown):
    zstandard = pytest.importorskip("zstandard", reason="SPZ version 4 is packed with ZSTD")
    packer = zstandard.ZstdCompressor(write_content_size=not unknown)
    bomb = packer.compress(bytes(200 * 2**20))
    streams = [bomb, *(packer.compress(s) for s in (ALPHA, COLOR, SCALE, SMALLEST_THREE, HARMONICS))]
    data = _spz_4(streams=streams, sizes=[9, 1, 3, 3, 4, 9])
    tracemalloc.start()
    try:
        if unknown:  # cut at the size it says: the rest is never unpacked
            assert decode_stored(data).count == 1
        else:
            with pytest.raises(InvalidInput, match="does not unpack"):
                decode_stored(data)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


ONE = (POSITION, ALPHA, COLOR, SCALE, SMALLEST_THREE, HARMONICS)


@pytest.mark.parametrize(
    ("data", "error", "found"),
    [
        (gzip.compress(b"NGSP", mtime=0), InvalidInput, "cut short"),
        (gzip.compress(bytes(64), mtime=0), InvalidInput, "holds no SPZ"),
        (_spz(3, ONE)[:-30], InvalidInput, "cut short|truncated"),
        (b"\x1f\x8b" + bytes(40), InvalidInput, "damaged"),
        (_spz(3, ONE, count=2), InvalidInput, "truncated: 29 bytes"),
        (_spz(3, ONE, degree=5), InvalidInput, "degree 5"),
        (_spz(3, ONE, bits=25), InvalidInput, "25 fractional bits"),
        (_spz(0, ONE), Unsupported, "version 0"),
        (_spz(9, ONE), Unsupported, "version"),
        (_spz(3, ONE, count=2**32 - 1), LimitExceeded, "unpacks to 124,554,051,555 bytes"),
        (b"NGSP", InvalidInput, "cut short"),
    ],
)
def test_broken_spz_files_are_named(data, error, found):
    with pytest.raises(error, match=found):
        decode_stored(data)


def test_a_gzip_bomb_is_not_unpacked_beyond_what_its_header_says():
    data = _spz(3, ONE, tail=bytes(60 * 2**20))
    tracemalloc.start()
    try:
        assert decode_stored(data).count == 1
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_a_scene_too_large_for_spz_is_refused():
    stored = random_splats(3, 1)
    stored.positions[0, 0] = 1e9
    with pytest.raises(LimitExceeded, match="Write a PLY"):
        encode_stored(stored, "spz")


def test_the_written_spz_is_one_gzip_member_with_the_stated_header():
    data = gzip.decompress(encode_stored(random_splats(10, 4), "spz"))
    magic, version, count, degree, bits, flags, reserved = spz.HEADER.unpack(data[:16])
    assert (magic, version, count, degree, flags, reserved) == (b"NGSP", 3, 10, 1, 0, 0)
    assert 12 <= bits <= 16
    assert len(data) == 16 + 10 * (9 + 1 + 3 + 3 + 4 + 9)


# ---- .splat and compressed PLY by hand


def test_dot_splat_by_hand():
    data = struct.pack("<6f8B", 1, 2, 3, 0.1, 0.2, 0.3, 255, 0, 51, 102, 128, 255, 128, 128)
    found = decode_splats(data)
    np.testing.assert_array_equal([[1, 2, 3]], found.positions)
    np.testing.assert_allclose([[0.1, 0.2, 0.3]], found.scales, rtol=1e-6)
    np.testing.assert_allclose([102 / 255], found.opacities, rtol=1e-6)
    np.testing.assert_allclose([[1, 0, 0.2]], 0.5 + SH0 * found.harmonics[:, 0], atol=1e-6)
    np.testing.assert_array_equal([[0, 1, 0, 0]], found.rotations)


def _compressed(bounds, *, rotation=0, sh=b""):
    names = [f"{end}_{a}" for end in ("min", "max") for a in "xyz"]
    names += [f"{end}_scale_{a}" for end in ("min", "max") for a in "xyz"]
    names += [f"{end}_{a}" for end in ("min", "max") for a in "rgb"] if len(bounds) == 18 else []
    lines = ["ply", "format binary_little_endian 1.0", "element chunk 1"]
    lines += [f"property float {name}" for name in names] + ["element vertex 1"]
    lines += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    if sh:
        lines += ["element sh 1", *(f"property uchar f_rest_{i}" for i in range(len(sh)))]
    position, scale, color = 2047 << 21 | 0 << 11 | 0, 0 << 21 | 1023 << 11 | 2047, 0xFF0000FF
    body = struct.pack(f"<{len(bounds)}f4I", *bounds, position, rotation, scale, color)
    return "\n".join([*lines, "end_header\n"]).encode() + body + sh


def test_compressed_ply_by_hand():
    bounds = (-1, -2, -3, 1, 2, 3, -9, -8, -7, -1, -2, -3, 0.25, 0.25, 0, 0.75, 0.5, 1)
    # Largest is x (second); w = 0 is not among the levels, the nearest is half a step away.
    found = decode_stored(
        _compressed(bounds, rotation=1 << 30 | 512 << 20 | 511 << 10 | 511, sh=bytes(range(9)))
    )
    np.testing.assert_array_equal([[1, -2, -3]], found.positions)
    np.testing.assert_array_equal([[-9, -2, -3]], found.log_scales)
    assert angle_between(found.rotations, np.array([[0, 1, 0, 0]])).max() < 0.003
    np.testing.assert_allclose([[0.75, 0.25, 0]], 0.5 + SH0 * found.harmonics[:, 0], atol=1e-6)
    np.testing.assert_allclose([1], activate(found).opacities, atol=2e-7)
    # Channel-major; byte 0 means -4, the others the middle of their bucket.
    expected = (np.arange(9) + 0.5) / 32 - 4
    expected[0] = -4
    np.testing.assert_allclose(expected.reshape(3, 3).T, found.harmonics[0, 1:], rtol=1e-6)


def test_compressed_ply_of_before_colours_had_bounds():
    found = decode_stored(_compressed((-1, -2, -3, 1, 2, 3, -9, -8, -7, -1, -2, -3)))
    np.testing.assert_allclose([[1, 0, 0]], 0.5 + SH0 * found.harmonics[:, 0], atol=1e-6)


def test_bounds_that_are_not_finite_are_refused():
    with pytest.raises(OrreryError, match="not finite"):
        decode_stored(_compressed((np.nan, -2, -3, 1, 2, 3, -9, -8, -7, -1, -2, -3)))
