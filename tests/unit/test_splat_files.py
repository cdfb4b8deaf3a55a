"""Gaussian-splat files: what each format keeps, foreign layouts, and refusals."""

import numpy as np
import pytest

from backend.pipeline.options import SPLAT_FORMATS
from shared_protocol.errors import InvalidInput
from shared_protocol.splats import files
from shared_protocol.splats.antialiased import declared_antialiased
from shared_protocol.splats.arrays import (
    SH0,
    SplatArrays,
    StoredSplats,
    activate,
    cut_degree,
    store,
    unit_quaternions,
)
from shared_protocol.splats.compressed_ply import CHUNK, morton_order
from shared_protocol.splats.dot_splat import importance_order
from shared_protocol.splats.files import decode_splats, decode_stored, encode_splats, encode_stored
from shared_protocol.splats.ply import property_names
from shared_protocol.splats.spz import fractional_bits
from tests.support.splats import angle_between, random_splats

DEGREES = [1, 4, 9, 16]


# ---- INRIA's PLY


@pytest.mark.parametrize("coefficients", DEGREES)
def test_a_ply_keeps_every_bit_of_every_number(coefficients):
    stored = random_splats(500, coefficients)
    stored.rotations[:] *= np.float32(3.7)  # files in the wild are not normalised
    data = encode_stored(stored, "ply")
    again = decode_stored(data)
    for expected, found in zip(stored, again, strict=True):
        np.testing.assert_array_equal(expected.view(np.uint32), found.view(np.uint32))
    assert encode_stored(again, "ply") == data


def test_activated_gaussians_come_back_within_the_rounding_of_logarithms():
    splats = activate(random_splats(500, 4))
    again = decode_splats(encode_splats(splats, "ply"))
    np.testing.assert_array_equal(splats.positions, again.positions)
    np.testing.assert_array_equal(splats.rotations, again.rotations)
    np.testing.assert_array_equal(splats.harmonics, again.harmonics)
    np.testing.assert_allclose(splats.scales, again.scales, rtol=1e-5)
    np.testing.assert_allclose(splats.opacities, again.opacities, atol=2e-7)


def test_the_ply_has_inrias_properties_and_channel_major_rest():
    stored = random_splats(3, 4)
    header, body = encode_stored(stored, "ply").split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property")]
    assert names == property_names(4)
    assert names[:10] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0"]
    table = np.frombuffer(body, "<f4").reshape(3, len(names))
    # Red's three coefficients first, then green's, then blue's.
    np.testing.assert_array_equal(table[:, 9:12], stored.harmonics[:, 1:, 0])
    np.testing.assert_array_equal(table[:, 12:15], stored.harmonics[:, 1:, 1])
    np.testing.assert_array_equal(table[:, names.index("opacity")], stored.logits)
    np.testing.assert_array_equal(table[:, names.index("scale_2")], stored.log_scales[:, 2])
    assert not table[:, 3:6].any()


def _foreign(stored, encoding, kind, *, normals=True, extra=True):
    """The same Gaussians as another program might write them: shuffled, with more properties."""
    coefficients = stored.harmonics.shape[1]
    names = property_names(coefficients)
    table = np.frombuffer(encode_stored(stored, "ply").split(b"end_header\n", 1)[1], "<f4")
    table = table.reshape(stored.count, len(names))
    order = np.random.default_rng(0).permutation(len(names))
    order = [i for i in order if normals or names[i] not in ("nx", "ny", "nz")]
    lines = ["ply", f"format {encoding} 1.0", "comment made elsewhere", "obj_info x"]
    lines += ["element sensor 2", "property short id", f"element vertex {stored.count}"]
    lines += [f"property {kind} {names[i]}" for i in order]
    lines += ["property uchar red", "property float filter_3D"] if extra else []
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header"]
    byte_order = {"binary_big_endian": ">"}.get(encoding, "<")
    number = byte_order + {"float": "f4", "double": "f8"}[kind]
    fields = [(names[i], number) for i in order]
    fields += [("red", "u1"), ("filter_3D", byte_order + "f4")] if extra else []
    rows = np.zeros(stored.count, dtype=fields)
    for i in order:
        rows[names[i]] = table[:, i]
    if encoding == "ascii":
        body = "7\n8\n" + "".join(" ".join(repr(v) for v in row.tolist()) + "\n" for row in rows)
        return ("\n".join([*lines, ""]) + body).encode()
    return "\r\n".join([*lines, ""]).encode() + np.array([7, 8], byte_order + "i2").tobytes() + rows.tobytes()


@pytest.mark.parametrize("encoding", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("plain", [False, True])
def test_foreign_orders_encodings_types_and_properties_are_read(encoding, kind, plain):
    stored = random_splats(20, 9)
    found = decode_stored(_foreign(stored, encoding, kind, normals=not plain, extra=not plain))
    for expected, values in zip(stored, found, strict=True):
        np.testing.assert_array_equal(expected, values)


def test_degree_4_is_read_and_cut_to_3():
    stored = random_splats(5, 16)
    wide = StoredSplats(
        *stored[:4], np.concatenate([stored.harmonics, np.ones((5, 9, 3), np.float32)], axis=1)
    )
    np.testing.assert_array_equal(stored.harmonics, decode_stored(encode_stored(wide, "ply")).harmonics)


def test_unnormalised_quaternions_are_normalised_and_zero_becomes_identity():
    stored = random_splats(3, 1)
    stretched = stored._replace(rotations=stored.rotations * np.float32(3))
    stretched.rotations[2] = 0
    again = decode_splats(encode_stored(stretched, "ply"))
    np.testing.assert_allclose(stored.rotations[:2], again.rotations[:2], atol=1e-6)
    np.testing.assert_array_equal([1, 0, 0, 0], again.rotations[2])


@pytest.mark.parametrize("kind", files.FORMATS)
def test_extreme_opacity_and_scale_stay_finite(kind):
    splats = SplatArrays(*(values.copy() for values in activate(random_splats(4, 1))))
    splats.opacities[:] = (0, 1, 1e-12, 0.5)
    splats.scales[0] = 0
    again = decode_splats(encode_splats(splats, kind))
    assert all(np.isfinite(values).all() for values in again)
    np.testing.assert_allclose(np.sort(splats.opacities), np.sort(again.opacities), atol=1 / 400)


@pytest.mark.parametrize("kind", ["ply", "compressed.ply", "spz"])
@pytest.mark.parametrize("coefficients", [1, 16])
def test_no_gaussian_at_all_is_a_valid_file(kind, coefficients):
    again = decode_stored(encode_stored(random_splats(0, coefficients), kind))
    assert (again.count, again.harmonics.shape) == (0, (0, coefficients, 3))


# ---- what the packed formats lose: half a step of each field, and no more


@pytest.mark.parametrize("coefficients", DEGREES)
def test_compressed_ply_loses_half_a_step_of_each_chunks_bounds(coefficients):
    stored = random_splats(3 * CHUNK + 70, coefficients)
    again = decode_stored(encode_stored(stored, "compressed.ply"))
    order = morton_order(stored.positions)
    sent = StoredSplats(*(values[order] for values in stored))
    steps = np.array([2047, 1023, 2047])
    color, color_again = (0.5 + SH0 * s.harmonics[:, 0].astype(np.float64) for s in (sent, again))
    for expected, found, step in (
        (sent.positions, again.positions, steps),
        (sent.log_scales, again.log_scales, steps),
        (color, color_again, np.full(3, 255)),
    ):
        for start in range(0, sent.count, CHUNK):
            chunk = slice(start, start + CHUNK)
            bound = np.ptp(expected[chunk], axis=0) / step / 2 + 3e-6
            assert (np.abs(expected[chunk] - found[chunk]) <= bound).all()
    opacity, opacity_again = activate(sent).opacities, activate(again).opacities
    assert np.abs(opacity - opacity_again).max() <= 0.5 / 255 + 1e-6
    # Three components are within half a step of 2 sqrt(1/2) / 1023; the fourth, at least 1/2, follows.
    half = 2**0.5 / 1023 / 2
    assert angle_between(sent.rotations, again.rotations).max() <= 2 * np.sqrt(3 * half**2 * (1 + 3)) + 1e-4
    if coefficients > 1:
        difference = np.abs(sent.harmonics[:, 1:] - again.harmonics[:, 1:])
        assert difference.max() <= 8 / 256 / 2 + 1e-6


@pytest.mark.parametrize("coefficients", DEGREES)
@pytest.mark.parametrize("keep_axes", [False, True])
def test_spz_loses_half_a_step_of_each_field(coefficients, keep_axes):
    stored = random_splats(1000, coefficients)
    stored.harmonics[:, 1:] = np.clip(stored.harmonics[:, 1:], -0.99, 0.99)
    if not keep_axes:
        stored.harmonics[:, 4:] *= np.float32(0.4)  # turned, a sum of several stays within -1..1
    again = decode_stored(encode_stored(stored, "spz", keep_axes=keep_axes), keep_axes=keep_axes)
    bits = fractional_bits(stored.positions)
    assert bits >= 12
    assert np.abs(stored.positions - again.positions).max() <= 2.0 ** -(bits + 1)
    assert np.abs(stored.log_scales - again.log_scales).max() <= 1 / 32 + 1e-6
    assert np.abs(activate(stored).opacities - activate(again).opacities).max() <= 0.5 / 255 + 1e-6
    assert np.abs(stored.harmonics[:, 0] - again.harmonics[:, 0]).max() <= 0.5 / (255 * 0.15) + 1e-5
    half = 0.5**0.5 / 511 / 2
    assert angle_between(stored.rotations, again.rotations).max() <= 2 * np.sqrt(3 * half**2 * (1 + 3)) + 1e-4
    if coefficients > 1:
        # A turned coefficient mixes those of its band; an orthonormal mix keeps the length of the error.
        for first, last in ((1, 4), (4, 9), (9, 16)):
            error = (stored.harmonics - again.harmonics)[:, first:last]
            bound = 1 / 256 * (1 if keep_axes or first == 1 else (last - first) ** 0.5)
            assert np.linalg.norm(error, axis=1).max(initial=0) <= (last - first) ** 0.5 / 256 + 1e-6
            assert np.abs(error).max(initial=0) <= bound + 1e-6


@pytest.mark.parametrize(("extent", "bits"), [(0.9, 16), (0.01, 22), (10.0, 12), (3000.0, 10), (4e6, 0)])
def test_spz_positions_fit_into_24_bits_at_every_extent(extent, bits):
    stored = random_splats(50, 1)
    stored.positions[:] *= np.float32(extent) / np.abs(stored.positions).max()
    assert fractional_bits(stored.positions) == bits
    again = decode_stored(encode_stored(stored, "spz"))
    assert np.abs(stored.positions - again.positions).max() <= 2.0 ** -(bits + 1) * 1.001


def test_dot_splat_is_sorted_by_importance_and_loses_half_a_step():
    stored = random_splats(800, 9)
    stored.harmonics[:, 0] = np.clip(stored.harmonics[:, 0], -0.5 / SH0, 0.5 / SH0)
    splats, again = activate(stored), decode_splats(encode_stored(stored, "splat"))
    order = importance_order(stored)
    importance = splats.scales.astype(np.float64).prod(axis=1) * splats.opacities
    assert (np.diff(importance[order]) <= 1e-6 * importance[order][:-1]).all()
    np.testing.assert_array_equal(splats.positions[order], again.positions)
    np.testing.assert_allclose(splats.scales[order], again.scales, rtol=2e-6)
    assert np.abs(splats.opacities[order] - again.opacities).max() <= 0.5 / 255 + 1e-6
    color = SH0 * (splats.harmonics[order, 0] - again.harmonics[:, 0])
    assert np.abs(color).max() <= 0.5 / 255 + 1e-6
    assert again.harmonics.shape == (800, 1, 3)
    # A component is within 1/256, or 1/128 where 1 becomes 255/128; the length is mended by normalising.
    assert angle_between(splats.rotations[order], again.rotations).max() <= 2 * 2 / 128


# ---- what the table of formats promises


def test_the_options_name_every_format():
    assert files.FORMATS == SPLAT_FORMATS


@pytest.mark.parametrize("kind", files.FORMATS)
def test_files_are_written_by_their_name_and_known_by_their_content(kind, tmp_path):
    splats = activate(random_splats(300, 4))
    path = tmp_path / f"garden.{kind.upper()}"
    size = files.write_splats(path, splats)
    assert (size, [path]) == (path.stat().st_size, list(tmp_path.iterdir()))
    assert files.recognise(path.read_bytes()) == kind
    renamed = path.rename(tmp_path / "garden.bin")
    for expected, found in zip(
        decode_splats(encode_splats(splats, kind)), files.read_splats(renamed), strict=True
    ):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("kind", files.FORMATS)
def test_the_same_gaussians_give_the_same_bytes(kind):
    stored = random_splats(600, 16)
    assert encode_stored(stored, kind) == encode_stored(stored, kind)


def test_other_names_folders_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="names no format"):
        files.write_splats(tmp_path / "garden.obj", activate(random_splats(3, 1)))
    with pytest.raises(InvalidInput, match="is a folder"):
        files.read_splats(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        files.read_splats(tmp_path / "missing.ply")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "garden.ply"
    files.write_splats(path, activate(random_splats(3, 1)))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_splats(path, activate(random_splats(9, 1)))
    assert (before, [path]) == (path.read_bytes(), list(tmp_path.iterdir()))


def test_cutting_the_degree_leaves_the_lower_ones():
    stored = random_splats(5, 16)
    np.testing.assert_array_equal(stored.harmonics[:, :4], cut_degree(stored, 1).harmonics)
    np.testing.assert_array_equal(random_splats(5, 4).harmonics, cut_degree(random_splats(5, 4), 3).harmonics)


# ---- broken numbers


def test_gaussians_with_broken_numbers_are_refused_or_dropped():
    stored = random_splats(7, 4)
    stored.positions[0, 1] = np.nan
    stored.log_scales[1, 2] = 90  # exp overflows
    stored.rotations[2, 0] = np.inf
    stored.logits[3] = np.nan
    stored.harmonics[4, 3, 1] = np.nan
    stored.logits[5] = np.inf  # opacity 1
    stored.log_scales[6, 0] = -np.inf  # scale 0
    data = encode_stored(stored, "ply")
    with pytest.raises(InvalidInput, match=r"5 of 7 Gaussians.*--drop-broken"):
        decode_stored(data)
    splats = activate(decode_stored(data, drop_broken=True))
    np.testing.assert_array_equal(stored.positions[5:], splats.positions)
    assert (splats.opacities[0], splats.scales[1, 0]) == (1, 0)


def test_no_gaussian_left_is_still_a_file():
    stored = random_splats(3, 1)
    stored.positions[:] = np.nan
    assert decode_stored(encode_stored(stored, "ply"), drop_broken=True).count == 0


# ---- refusals


def _edited(kind, *changes, count=5, coefficients=4):
    data = encode_stored(random_splats(count, coefficients), kind)
    for old, new in changes:
        assert old in data
        data = data.replace(old, new)
    return data


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "not one of Gaussians"),
        (b"\x89PNG\r\n", "not one of Gaussians"),
        (b"\xff" * 64, "not one of Gaussians"),
        (b"plyx\n", "not a PLY"),
        (b"ply\nformat binary_little_endian 1.0\n", "no end"),
        (b"ply\nelement vertex 0\nend_header\n", "no format"),
        (_edited("ply", (b"binary_little_endian", b"binary_middle_endian")), "format"),
        (_edited("ply", (b"property float opacity\n", b"")), "opacity"),
        (_edited("ply", (b"float opacity", b"list uchar int opacity")), "list"),
        (_edited("ply", (b"float opacity", b"quad opacity")), "quad opacity"),
        (_edited("ply", (b"element vertex 5", b"element vertex 6")), "truncated"),
        (_edited("ply", (b"element vertex 5", b"element vertex 999999999999")), "truncated"),
        (_edited("ply", (b"element vertex 5", b"element vertex " + b"9" * 5000)), "header has the line"),
        (_edited("ply", (b"float nx", b"float f_rest_99")), "f_rest"),
        (_edited("ply", (b"float ny", b"float x")), "distinct"),
        (_edited("ply", (b"element vertex", b"element camera")), "no vertices"),
        (_edited("ply")[:-1], "truncated"),
        (_edited("ply", (b"binary_little_endian", b"ascii")), "truncated|words"),
        (_edited("compressed.ply", (b"element chunk 1", b"element chunk 2")), "truncated|chunks"),
        (_edited("compressed.ply", (b"element chunk", b"element block")), "no chunks"),
        (_edited("compressed.ply", (b"min_scale_x", b"min_scale_w")), "min_scale_x"),
        (_edited("compressed.ply", (b"max_g", b"max_q")), "max_g"),
        (_edited("compressed.ply", (b"f_rest_8", b"f_rest_9")), "f_rest_8"),
        (_edited("compressed.ply", (b"property uchar f_rest_8\n", b"")), "8 f_rest"),
        (_edited("compressed.ply", (b"element sh 5", b"element sh 4")), "harmonics of 4"),
        (_edited("compressed.ply", (b"uint packed_color", b"int packed_color")), "number types"),
        (_edited("compressed.ply")[:-1], "truncated"),
        (_edited("splat")[:-1], "not one of Gaussians"),
    ],
)
def test_other_files_are_refused_in_words(data, found):
    with pytest.raises(InvalidInput, match=found):
        decode_stored(data)


def test_a_quaternion_of_any_length_means_the_same_rotation():
    stored = random_splats(10, 1)
    np.testing.assert_allclose(
        unit_quaternions(stored.rotations * np.float32(5)), stored.rotations, atol=1e-6
    )
    assert store(activate(stored)).count == 10


# ---- trained with Mip-Splatting's filter


@pytest.mark.parametrize("kind", ["ply", "compressed.ply", "spz"])
def test_a_file_says_that_it_was_trained_antialiased_and_nothing_else_changes(kind):
    stored = random_splats(20, 4)
    plain, said = encode_stored(stored, kind), encode_stored(stored, kind, antialiased=True)
    assert not declared_antialiased(plain) and declared_antialiased(said)
    for expected, found in zip(decode_stored(plain), decode_stored(said), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_a_dot_splat_says_nothing_of_its_training():
    assert not declared_antialiased(encode_stored(random_splats(20, 1), "splat", antialiased=True))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["comment SplatRenderMode: mip"], True),  # Brush, GSplat
        (["comment splatrendermode:  MIP"], True),
        (["comment antialiased 1"], True),  # Postshot
        (["comment antialiased 0"], False),
        (["comment antialiased 1", "comment SplatRenderMode: default"], False),  # the last one counts
        (["comment made by hand; antialiased 1"], False),
        (["obj_info antialiased 1"], False),
        ([], False),
    ],
)
def test_what_other_programs_write_about_antialiasing_is_read(lines, expected):
    data = encode_stored(random_splats(3, 1), "ply")
    start, rest = data.split(b"\n", 1)
    assert declared_antialiased(b"\n".join([start, *(line.encode() for line in lines), rest])) is expected


def test_a_broken_file_says_nothing():
    packed = encode_stored(random_splats(20, 4), "spz", antialiased=True)
    for data in (b"", b"ply", b"NGSP", packed[:9], packed[:4] + b"\0" * 40, b"\x1f\x8b" + b"\xff" * 40):
        assert declared_antialiased(data) is False
