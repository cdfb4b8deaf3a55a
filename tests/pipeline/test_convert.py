"""`convert` as a user meets it."""

import numpy as np
import pytest

from backend.cli import run
from shared_protocol.splats.files import FORMATS, decode_stored, encode_stored, recognise
from tests.support.splats import random_splats


@pytest.fixture
def garden(tmp_path):
    path = tmp_path / "garden.ply"
    path.write_bytes(encode_stored(random_splats(40, 16), "ply"))
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_it_writes_the_format_of_the_name_and_says_so(garden, kind, capsys):
    target = garden.with_name(f"out.{kind}")
    assert run(["convert", str(garden), str(target)]) == 0
    assert recognise(target.read_bytes()) == kind
    said = capsys.readouterr().out
    assert "40 Gaussians, SH degree " + ("0 (of 3)" if kind == "splat" else "3") in said
    assert "from ply of 0.0 MB" in said


def test_ply_to_ply_keeps_every_byte_even_in_place(garden):
    before = garden.read_bytes()
    assert run(["convert", str(garden), str(garden)]) == 0
    assert before == garden.read_bytes()


def test_degree_and_axes(garden, capsys):
    target = garden.with_name("out.spz")
    assert run(["convert", str(garden), str(target), "--degree", "1", "--keep-axes"]) == 0
    assert "SH degree 1 (of 3)" in capsys.readouterr().out
    found = decode_stored(target.read_bytes(), keep_axes=True)
    assert found.degree == 1
    np.testing.assert_allclose(random_splats(40, 16).positions, found.positions, atol=1e-3)


def test_broken_gaussians_are_dropped_on_request(tmp_path, capsys):
    stored = random_splats(40, 1)
    stored.positions[:7] = np.nan
    source = tmp_path / "a.ply"
    source.write_bytes(encode_stored(stored, "ply"))
    assert run(["convert", str(source), str(tmp_path / "b.ply")]) == 2
    assert "7 of 40 Gaussians" in capsys.readouterr().err
    assert run(["convert", str(source), str(tmp_path / "b.ply"), "--drop-broken"]) == 0
    assert "33 Gaussians" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.obj", "missing/out.ply"])
def test_errors_leave_no_file_and_exit_2(garden, name, capsys):
    target = garden.with_name(name) if "/" not in name else garden.parent / name
    assert run(["convert", str(garden), str(target)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [garden] == list(garden.parent.iterdir())


def test_a_picture_is_refused_in_one_sentence(garden, capsys):
    garden.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert run(["convert", str(garden), str(garden.with_name("out.spz"))]) == 2
    assert "not one of Gaussians" in capsys.readouterr().err
