"""The INRIA PLY layout: round trips, foreign orders and types, and refusals."""

import numpy as np
import pytest

from shared_protocol.errors import InvalidInput
from shared_protocol.splat_ply import SplatArrays, property_names, read_splat_ply, write_splat_ply


def _random_splats(count: int, coefficients: int) -> SplatArrays:
    random = np.random.default_rng(3)
    rotations = random.normal(size=(count, 4))
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    return SplatArrays(
        random.normal(size=(count, 3)).astype(np.float32),
        np.exp(random.uniform(-9, 1, (count, 3))).astype(np.float32),
        rotations.astype(np.float32),
        random.uniform(0, 1, count).astype(np.float32),
        random.normal(size=(count, coefficients, 3)).astype(np.float32),
    )


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_a_round_trip_keeps_every_degree(coefficients):
    splats = _random_splats(500, coefficients)
    again = read_splat_ply(write_splat_ply(*splats))
    np.testing.assert_array_equal(splats.positions, again.positions)
    np.testing.assert_array_equal(splats.rotations, again.rotations)
    np.testing.assert_array_equal(splats.harmonics, again.harmonics)
    np.testing.assert_allclose(splats.scales, again.scales, rtol=1e-5)
    np.testing.assert_allclose(splats.opacities, again.opacities, atol=1e-7)


def test_the_file_has_inrias_properties_and_channel_major_rest():
    splats = _random_splats(3, 4)
    data = write_splat_ply(*splats)
    header, body = data.split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property")]
    assert names == property_names(4)
    assert names[:10] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0"]
    table = np.frombuffer(body, "<f4").reshape(3, len(names))
    # Red's three coefficients first, then green's, then blue's.
    np.testing.assert_array_equal(table[:, 9:12], splats.harmonics[:, 1:, 0])
    np.testing.assert_array_equal(table[:, 12:15], splats.harmonics[:, 1:, 1])
    opacity = table[:, names.index("opacity")].astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-opacity)), splats.opacities, rtol=1e-6)
    np.testing.assert_allclose(table[:, names.index("scale_2")], np.log(splats.scales[:, 2]), rtol=1e-6)


def test_extreme_opacity_and_scale_stay_finite():
    splats = _random_splats(4, 1)
    splats.opacities[:] = (0, 1, 1e-12, 0.5)
    splats.scales[0] = 0
    again = read_splat_ply(write_splat_ply(*splats))
    np.testing.assert_allclose(splats.opacities, again.opacities, atol=2e-7)
    assert np.all(again.scales[0] < 1e-20)


def test_no_gaussian_at_all_is_a_valid_file():
    splats = _random_splats(0, 1)
    assert len(read_splat_ply(write_splat_ply(*splats)).positions) == 0


@pytest.mark.parametrize("kind", ["float", "double"])
def test_foreign_order_extra_properties_and_doubles_are_read(kind):
    splats = _random_splats(20, 1)
    source = write_splat_ply(*splats).split(b"end_header\n", 1)[1]
    names = property_names(1)
    table = np.frombuffer(source, "<f4").reshape(20, len(names))
    order = np.random.default_rng(0).permutation(len(names))
    lines = ["ply", "format binary_little_endian 1.0", "comment made elsewhere", "element vertex 20"]
    lines += [f"property {kind} {names[i]}" for i in order] + ["property uchar red"]
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header"]
    fields = [(names[i], "<f4" if kind == "float" else "<f8") for i in order] + [("red", "u1")]
    rows = np.zeros(20, dtype=fields)
    for i in order:
        rows[names[i]] = table[:, i]
    again = read_splat_ply("\r\n".join([*lines, ""]).encode() + rows.tobytes())
    np.testing.assert_array_equal(splats.positions, again.positions)
    np.testing.assert_array_equal(splats.harmonics, again.harmonics)


def test_unnormalised_quaternions_are_normalised_and_zero_becomes_identity():
    splats = _random_splats(3, 1)
    stretched = splats._replace(rotations=splats.rotations * np.float32(3))
    stretched.rotations[2] = 0
    again = read_splat_ply(write_splat_ply(*stretched))
    np.testing.assert_allclose(splats.rotations[:2], again.rotations[:2], atol=1e-6)
    np.testing.assert_array_equal([1, 0, 0, 0], again.rotations[2])


def _edited(old: bytes, new: bytes) -> bytes:
    return write_splat_ply(*_random_splats(5, 1)).replace(old, new)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "not a PLY"),
        (b"\x89PNG\r\n", "not a PLY"),
        (b"ply\nformat binary_little_endian 1.0\n", "no end"),
        (_edited(b"binary_little_endian", b"ascii"), "format"),
        (_edited(b"property float opacity\n", b""), "opacity"),
        (_edited(b"float opacity", b"list uchar int opacity"), "list"),
        (_edited(b"element vertex 5", b"element vertex 6"), "truncated"),
        (_edited(b"element vertex 5", b"element vertex 999999999999"), "truncated"),
        (_edited(b"float nx", b"float f_rest_0"), "f_rest"),
        (_edited(b"float ny", b"float x"), "distinct"),
        (_edited(b"element vertex", b"element camera"), "distinct"),
        (write_splat_ply(*_random_splats(5, 1))[:-1], "truncated"),
    ],
)
def test_other_files_are_refused_in_words(data, found):
    with pytest.raises(InvalidInput, match=found):
        read_splat_ply(data)


def test_numbers_that_are_not_finite_are_refused():
    splats = _random_splats(5, 1)
    splats.positions[1, 1] = np.nan
    with pytest.raises(InvalidInput, match="positions"):
        read_splat_ply(write_splat_ply(*splats))
