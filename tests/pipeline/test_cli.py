"""The command line as a user meets it: real processes, exit codes, one sentence an error."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "rocket.png"


def backend(*arguments, **environment):
    """Run `python -m backend ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "backend", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=280,
    )


def _noise(size, mode, dtype=np.uint8):
    generator = np.random.default_rng(0)
    channels = {"RGB": 3, "RGBA": 4, "L": None, "CMYK": 4}[mode]
    shape = (size, size) if channels is None else (size, size, channels)
    return generator.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def _bomb(path):
    """A 30,000 x 30,000 PNG of one colour: 900 megapixels in about a megabyte."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(b"\0" * (3750 + 1)) for _ in range(30000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _write(kind, path):
    if kind == "text":
        path.write_text("this is no picture")
    elif kind == "one pixel":
        Image.new("RGB", (1, 1), "red").save(path)
    elif kind == "fully transparent":
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)
    elif kind == "one colour":
        Image.new("RGB", (64, 64), "white").save(path)
    elif kind == "bomb":
        _bomb(path)
    elif kind == "truncated":
        path.write_bytes(EXAMPLE.read_bytes()[:20000])
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "not a picture"),
        ("one pixel", "1 x 1"),
        ("fully transparent", "fully transparent"),
        ("one colour", "object"),
        ("bomb", "900 megapixels"),
        ("truncated", "damaged|truncated|cut"),
        ("folder", "folder"),
        ("missing", "does not exist|no such|not exist"),
    ],
)
def test_a_bad_picture_gets_one_sentence_exit_code_2_and_leaves_nothing(kind, words, tmp_path):
    picture = tmp_path / "in.png"
    _write(kind, picture)
    before = sorted(tmp_path.iterdir())
    done = backend("generate", picture, "-o", tmp_path / "out", "--quality", "draft")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line[:1].isdigit()]
    assert len(lines) == 1
    assert re.search(words, lines[0]), lines[0]
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--orbit", "magic"), "inflate"),
        (("--set", "texture.size=big"), "does not fit"),
        (("--set", "texture.size"), "no value"),
        (("--set", "texture.sise=3"), "is unknown"),
        (("--orbit", "sv3d_u"), "unavailable"),
    ],
)
def test_wrong_options_are_named_before_work_starts(arguments, words, tmp_path):
    told = "generate", EXAMPLE, "-o", tmp_path / "out", "--quality", "draft", *arguments
    done = backend(*told, ORRERY_WEIGHTS=str(tmp_path / "none"))
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_path_that_is_a_file_is_refused_before_work_starts(tmp_path):
    (tmp_path / "out").write_text("mine")
    done = backend("generate", EXAMPLE, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "is a file" in done.stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_engines_lists_every_engine_with_reason_and_remedy():
    rows = json.loads(backend("engines", "--json").stdout)
    assert {row["stage"] for row in rows} == {
        "matting", "orbit", "refine", "splats", "surface", "texture", "export",
    }  # fmt: skip
    assert all(row["ready"] for row in rows if row["embedded"])
    assert all(row["reason"] and row["remedy"] for row in rows if not row["ready"])


def test_doctor_speaks_of_memory_folders_and_gpu():
    done = backend("doctor")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("memory", "weights", "GPU", "cores"))


@pytest.mark.slow
def test_a_draft_run_writes_all_files_and_a_second_one_reuses_all_but_the_texture(tmp_path):
    out = tmp_path / "out"
    assert backend("generate", EXAMPLE, "-o", out, "--quality", "draft").returncode == 0
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    expected = {f"orbit/{i:03d}.png" for i in range(16)} | {
        "cutout.png", "cameras.json", "splats.ply", "mesh.glb",
        "turntable.png", "turntable.mp4", "report.json",
    }  # fmt: skip
    assert names == expected
    first = json.loads((out / "report.json").read_text())
    assert first["silhouette_iou"] >= 0.97
    assert first["front_psnr"] >= 28
    assert first["fit_psnr"] >= 32
    done = backend("generate", EXAMPLE, "-o", out, "--quality", "draft", "--texture-size", "512")
    assert done.returncode == 0
    second = json.loads((out / "report.json").read_text())
    assert [s["stage"] for s in second["stages"] if not s["reused"]] == ["texture", "export"]
    assert second["sizes"]["texture_pixels"] == 512


@pytest.mark.slow
def test_two_runs_with_fresh_stores_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        done = backend(
            "generate", EXAMPLE, "-o", tmp_path / name, "--quality", "draft", "--seed", "7",
            ORRERY_CACHE=str(tmp_path / f"store-{name}"),
        )  # fmt: skip
        assert done.returncode == 0
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file() and path.name != "report.json":
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT as a POSIX shell does")
@pytest.mark.parametrize("seconds", [1.5, 6.0])
def test_ctrl_c_stops_within_a_second_and_leaves_nothing(seconds, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", "generate", str(EXAMPLE), "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, stderr = process.communicate(timeout=20)
    # the promise is one second; the bound leaves room for a loaded machine to schedule the process
    assert time.monotonic() - start < 3
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with ulimit")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A small limit on file sizes is what a full disk looks like to the program."""
    generate = f"{sys.executable} -m backend generate {EXAMPLE} -o {tmp_path / 'out'} --quality draft"
    command = f"ulimit -f 200; exec {generate}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 2, done.stderr
    assert "no space is left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
