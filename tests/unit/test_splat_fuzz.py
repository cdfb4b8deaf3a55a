"""No bytes make a reader raise anything but our errors."""

import gzip
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_protocol.errors import OrreryError
from shared_protocol.splats.arrays import usable
from shared_protocol.splats.files import FORMATS, decode_stored, encode_stored
from tests.support.splats import random_splats

VALID = {kind: encode_stored(random_splats(5, 4), kind) for kind in FORMATS}
RAW_SPZ = gzip.decompress(VALID["spz"])
ASCII = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n2\n"
MAGICS = (b"", b"ply\n", b"ply\nformat ascii 1.0\n", b"NGSP", b"\x1f\x8b\x08")
edits = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=6)), min_size=1, max_size=5)


def _read(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            stored = decode_stored(data, drop_broken=True)
        except OrreryError as error:
            assert error.found and error.expected
        else:
            assert usable(stored).all()
            assert all(values.dtype == np.float32 for values in stored)


def _edited(data, changes):
    data = bytearray(data)
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    return bytes(data)


@given(st.sampled_from(MAGICS), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes(magic, rest):
    _read(magic + rest)


@pytest.mark.parametrize("kind", FORMATS)
@given(changes=edits, cut=st.integers(0, 4000))
@settings(max_examples=150, deadline=None)
def test_edited_and_truncated_files(kind, changes, cut):
    data = VALID[kind]
    _read(_edited(data, changes))
    _read(data[: cut % len(data)])


@given(changes=edits)
@settings(max_examples=150, deadline=None)
def test_edited_content_of_a_gzip_stream(changes):
    _read(gzip.compress(_edited(RAW_SPZ, changes), 1))


@given(changes=edits)
@settings(max_examples=150, deadline=None)
def test_edited_text(changes):
    _read(_edited(ASCII, changes))


LINES = (
    *("element vertex 3", "element chunk 1", "element sh 3", "element vertex 99999999999", "element"),
    *("property float x", "property uint packed_position", "property list uchar int y", "property"),
    *("property double opacity", "property uchar f_rest_0", "comment"),
    *("format ascii 1.0", "format binary_big_endian 1.0"),
)


@given(st.lists(st.sampled_from(LINES), max_size=14), st.binary(max_size=64))
@settings(max_examples=300, deadline=None)
def test_headers_of_any_lines(lines, body):
    _read("\n".join(["ply", *lines, "end_header\n"]).encode() + body)
