"""`models pull` from a hub on loopback, then `generate --orbit hi3d` here and by the daemon."""

import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from backend.cli import run as main
from backend.weights import store
from tests.daemon.test_resume import served
from tests.support import tiny_models
from tests.support.hub import serving

SMALL = [
    "--set", "matting.size=128", "--views", "6", "--set", "orbit.size=64", "--set", "orbit.steps=2",
    "--set", "refine.size=128", "--set", "refine.steps=2", "--set", "splats.steps=4", "--set",
    "splats.gaussians=300", "--set", "splats.size=64", "--set", "surface.engine=hull", "--set",
    "surface.grid=32", "--faces", "500", "--texture-size", "128", "--set", "texture.optimise=false", "--set",
    "export.turntable=false",
]  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with Hi3D's two files, and a catalogue whose first stage lies there too."""
    files = {}
    for name, path in (("hi3d_stage1", "first_stage.pt"), ("hi3d_stage2", "second_stage.pt")):
        written = tiny_models.write(tmp_path, name, changed=tiny_models.crafted(name))
        files["hbyang/Hi3D", path] = written
    catalogue = re.sub(
        r'manual = "the drive that[^\n]*', 'sources = [{ repo = "hbyang/Hi3D", path = "first_stage.pt" }]',
        store.CATALOG_PATH.read_text(encoding="utf-8"),
    )  # fmt: skip
    path = tmp_path / "catalog.toml"
    path.write_text(catalogue, encoding="utf-8")
    monkeypatch.setattr(store, "CATALOG_PATH", path)
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.delenv("ORRERY_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    return files


@pytest.fixture
def picture(tmp_path):
    y, x = np.mgrid[:160, :160] + 0.5
    alpha = np.hypot(x - 80, y - 80) < 60
    rgba = np.dstack([x / 3, y / 3, np.full_like(x, 50), alpha * 255]).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "ball.png")
    return tmp_path / "ball.png"


def test_a_licence_is_shown_and_must_be_accepted(hub, monkeypatch, capsys):
    with serving(hub) as (endpoint, asked):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main(["models", "pull", "hi3d"]) == 2
        shown = capsys.readouterr()
        assert "MIT on its page" in shown.out and "--accept-licence" in shown.err and asked == []


def test_pulled_weights_make_a_mesh(hub, monkeypatch, capsys, picture, tmp_path):
    with serving(hub) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main(["models", "pull", "hi3d", "--accept-licence"]) == 0
    said = capsys.readouterr().out
    assert said.count("every tensor fits") == 2 and said.count("as its publisher states") == 2
    assert store.weights_present("hi3d") and store.verify("hi3d") == "ok"
    assert not list((tmp_path / "weights" / "hi3d").glob("*.pt"))  # only what is used stays
    out = tmp_path / "out"
    assert (
        main(["generate", str(picture), "-o", str(out), "--orbit", "hi3d", "--quality", "draft", *SMALL]) == 0
    )
    report = json.loads((out / "report.json").read_text())
    engines = {stage["stage"]: stage["engine"] for stage in report["stages"]}
    assert engines["orbit"] == "hi3d" and engines["refine"] == "hi3d"
    assert (out / "mesh.glb").stat().st_size > 1000


def test_an_unstated_checksum_is_recorded_and_a_gated_repository_is_explained(hub, monkeypatch, capsys):
    with serving(hub, token="secret", states_sums=False) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main(["models", "pull", "hi3d", "--accept-licence"]) == 2
        assert "gated (HTTP 401): accept its licence at" in capsys.readouterr().err
        monkeypatch.setenv("HF_TOKEN", "secret")
        assert main(["models", "pull", "hi3d"]) == 0  # accepted before
    assert capsys.readouterr().out.count("recorded now: its publisher states none") == 2
    kept = store.recorded("hi3d")["second_stage.pt"]
    assert len(kept["sha256"]) == 64 and kept["stated"] is False


def test_a_page_that_a_hub_gives_instead_of_a_file_makes_no_engine_ready(hub, monkeypatch, capsys):
    whole = hub["hbyang/Hi3D", "second_stage.pt"]
    page = whole.with_name("page.html")
    page.write_text("<!doctype html><html>Log in</html>")
    hub["hbyang/Hi3D", "second_stage.pt"] = page
    with serving(hub, states_sums=False) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main(["models", "pull", "hi3d", "--accept-licence"]) == 2
        assert "second_stage.pt is a web page" in capsys.readouterr().err
        assert not store.weights_present("hi3d")
        hub["hbyang/Hi3D", "second_stage.pt"] = whole
        assert main(["models", "pull", "hi3d"]) == 0  # what came first was not kept as the checksum
        assert store.weights_present("hi3d")


def test_files_that_the_user_has_are_taken_whatever_they_are_called(hub, tmp_path, capsys):
    first, second = (tmp_path / name for name in ("a.pt", "b.pt"))
    hub["hbyang/Hi3D", "first_stage.pt"].rename(first)
    hub["hbyang/Hi3D", "second_stage.pt"].rename(second)
    assert main(["models", "pull", "hi3d", "--accept-licence", "--from", str(second)]) == 0
    assert "Still missing: first_stage.pt" in capsys.readouterr().out
    assert main(["models", "pull", "hi3d", "--from", str(first)]) == 0
    assert store.weights_present("hi3d") and first.exists()
    assert main(["models", "pull", "v3d", "--accept-licence", "--from", str(first)]) == 2
    assert "is Hi3D's first stage; expected V3D" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_of_the_daemon_shows_previews_is_cancelled_and_comes_to_its_end(
    hub, monkeypatch, picture, tmp_path
):
    with serving(hub) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main(["models", "pull", "hi3d", "--accept-licence"]) == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pairs = itertools.pairwise(SMALL)
    options = dict(value.split("=") for flag, value in pairs if flag == "--set")
    options |= {"orbit.engine": "hi3d", "orbit.views": 6, "surface.faces": 500, "texture.size": 128}
    with served(tmp_path / "daemon") as (_, client):
        # The daemon's own catalogue asks for no more than converted networks.
        assert ("orbit", "hi3d", True) in [(e.stage, e.name, e.ready) for e in client.status().engines]
        job = client.submit([picture], quality="draft", options=options | {"orbit.steps": 60}, seed=1).job
        names = set()
        for event in client.events(job, previews=True):
            if event.kind == "preview":
                names.add(event.text)
                _, data = client.preview(job, event.text)
                if event.text == "orbit" and data:
                    shown = Image.open(io.BytesIO(data))
                    client.cancel(job)
        assert client.job(job).state == "cancelled" and "orbit" in names and min(shown.size) >= 8
        job = client.submit([picture], quality="draft", options=options, seed=1).job
        assert client.wait(job).state == "succeeded"
        assert {"mesh.glb", "splats.ply"} <= {file.name for file in client.manifest(job)}


@pytest.mark.slow
def test_v3d_and_sv3d_draw_their_orbits_for_the_daemon(hub, picture, tmp_path, monkeypatch, capsys):
    given = {
        "svd_xt": ["svd_xt"], "v3d": ["v3d_object"], "sv3d_u": ["sv3d_u"], "sv3d_p": ["sv3d_p"],
    }  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = {"matting.size": 64, "orbit.size": 64, "orbit.steps": 2, "orbit.views": 5}
    engines = {
        "v3d": {"orbit.engine": "v3d"},
        "sv3d_u": {"orbit.engine": "sv3d_u"},
        "sv3d_p": {"orbit.engine": "sv3d_p", "orbit.path": "0:10, 90:40, 180:-20, 270:0"},
    }
    with served(tmp_path / "daemon") as (_, client):
        names = {(e.stage, e.name): (e.ready, e.remedy) for e in client.status().engines}
        for engine in engines:
            assert names["orbit", engine] == (False, f"Run: python -m backend models pull {engine}") or (
                engine == "v3d" and names["orbit", engine][1].endswith("models pull v3d svd_xt")
            )
        for name, layouts in given.items():  # the daemon runs already: nothing is started anew
            paths = [
                str(tiny_models.write(tmp_path, layout, changed=tiny_models.crafted(layout)))
                for layout in layouts
            ]
            sources = [word for path in paths for word in ("--from", path)]
            assert main(["models", "pull", name, "--accept-licence", *sources]) == 0
        for engine, options in engines.items():
            job = client.submit(
                [picture], recipe="image_to_orbit", quality="draft", options=small | options, seed=2
            ).job
            shown = {event.text for event in client.events(job, previews=True) if event.kind == "preview"}
            record = client.job(job)
            assert record.state == "succeeded", record.error
            assert "orbit" in shown
            files = {file.name: bytes(client.read(file)) for file in client.manifest(job)}
            report = json.loads(files["report.json"])
            assert [stage["engine"] for stage in report["stages"]][-1] == engine
            assert report["sizes"]["views"] == (4 if engine == "sv3d_p" else 5)
            with Image.open(io.BytesIO(files["orbit.png"])) as orbit:
                assert orbit.size == (160 * report["sizes"]["views"], 160)
                assert np.asarray(orbit).std() > 10  # something dark on white
