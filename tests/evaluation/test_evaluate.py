"""Whole evaluations of small objects: tables, records, resumption, failures, cancelling."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.cli import run as run_command
from backend.evaluation import evaluate as module
from backend.evaluation.evaluate import evaluate
from backend.evaluation.measure import Measured
from backend.evaluation.objects import load_object
from backend.evaluation.protocols import PROTOCOLS, Protocol, Rig, ShapeRules
from backend.evaluation.settings import Settings
from backend.evaluation.tables import columns
from backend.evaluation.trials import Objects
from backend.pipeline.options import override, preset
from shared_protocol.errors import Cancelled, StageFailed
from tests.support.shared import shared_path

TINY = Protocol(
    "tiny",
    "a test",
    Rig(6, 10.0, 2.0, 40.0, 96),
    ShapeRules("area", 2_000, 24, (0.05,)),
    "six views",
    "all",
    extra=((45.0, 40.0),),
    lit=True,
)
OPTIONS = override(
    preset("draft"),
    {
        "matting.size": 96, "orbit.size": 96, "refine.size": 96, "surface.grid": 32, "surface.faces": 800,
        "splats.gaussians": 800, "splats.steps": 20, "splats.size": 96, "texture.size": 128,
    },
)  # fmt: skip


@pytest.fixture
def objects(tmp_path):
    """A coloured ball and a torus."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for name, mesh in (
        ("ball", trimesh.creation.icosphere(3, radius=0.5)),
        ("torus", trimesh.creation.torus(0.35, 0.15)),
    ):
        colours = np.clip(mesh.vertices + 0.5, 0, 1) * 255
        mesh.visual.vertex_colors = np.column_stack([colours, np.full(len(colours), 255)]).astype(np.uint8)
        mesh.export(folder / f"{name}.ply")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path / "cache"))


def _settings(task="image", **changes):
    return dataclasses.replace(Settings(TINY, task, OPTIONS), **changes)


@pytest.fixture
def undrawn(monkeypatch):
    """Objects are read and not drawn: for tests that only pretend to measure."""
    monkeypatch.setattr(Objects, "trial", lambda self, name, *rest: load_object(name, self._found()[name]))


def _pretend(figures):
    """A `measure` that gives these figures at once."""
    picture = np.full((2, 32, 32, 4), 0.5, dtype=np.float32)
    return lambda truth, *rest: Measured(dict(figures, iou=len(truth.name) / 10), {}, {"truth": picture})


def _columns(path):
    return {row["object"]: row for row in csv.DictReader(path.read_text().splitlines())}


@pytest.mark.parametrize("task", ["image", "views"])
def test_a_ball_from_pictures_is_measured_as_a_ball(objects, tmp_path, task):
    out = tmp_path / "out"
    rows = evaluate(Objects(objects, limit=1), _settings(task), out, lambda text: None)
    (row,) = rows
    assert row.name == "ball"
    # A ball is a body of revolution, so even one picture tells its shape but for the unseen base.
    assert row.figures["chamfer"] < 0.04 and row.figures["iou"] > 0.75
    assert row.figures["input_psnr"] > 24 and row.figures["mesh_psnr"] > 15
    assert row.figures["mesh_psnr_on"] > 15 and row.figures["splats_psnr"] > 15
    assert ("frames_psnr" in row.figures) == (task == "image")
    record = json.loads((out / "objects" / "ball.json").read_text())
    assert record["status"] == "done" and record["elevation"] == 10
    assert [s["stage"] for s in record["stages"]][-1] == "export"
    with Image.open(out / "objects" / "ball.png") as sheet:
        assert sheet.height == 224 * (4 if task == "image" else 3)
    facts = json.loads((out / "environment.json").read_text())
    assert facts["protocol"]["name"] == "tiny" and facts["task"] == task and facts["seed"] == 0
    assert {"orrery", "numpy", "python"} <= set(facts["versions"])
    assert "unavailable" in facts["perceptual"] or "ST-LPIPS" in facts["perceptual"]


def test_tables_have_a_row_an_object_and_mean_and_median(objects, undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", _pretend({"mesh_psnr": 20.0, "chamfer": 0.0125, "seconds": 2.0}))
    out = tmp_path / "out"
    evaluate(Objects(objects), _settings(), out, lambda text: None)
    table = _columns(out / "results.csv")
    assert list(table) == ["ball", "torus", "mean", "median"]
    assert float(table["mean"]["iou"]) == pytest.approx(0.45) and table["ball"]["chamfer"] == "0.0125"
    text = (out / "results.md").read_text()
    assert text.startswith("# Protocol tiny: one picture -> 3D")
    header = next(line for line in text.splitlines() if line.startswith("| object"))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert {"ball", "torus", "**mean**", "**median**"} <= set(lines)
    assert all(line.count("|") == header.count("|") for line in lines.values())
    with Image.open(out / "results.png") as plot:
        assert plot.width > 1000 and len(np.unique(np.asarray(plot).reshape(-1, 3), axis=0)) > 10


def test_a_second_run_measures_only_what_is_missing_or_changed(objects, undrawn, tmp_path, monkeypatch):
    calls = []
    pretend = _pretend({"chamfer": 0.1})
    monkeypatch.setattr(module, "measure", lambda truth, *rest: calls.append(truth.name) or pretend(truth))
    out, said = tmp_path / "out", []
    evaluate(Objects(objects, limit=1), _settings(), out, said.append)
    evaluate(Objects(objects), _settings(), out, said.append)
    assert calls == ["ball", "torus"] and any("measured before" in text for text in said)
    evaluate(Objects(objects), _settings(seed=1), out, said.append)
    assert calls == ["ball", "torus"] * 2
    trimesh.creation.box().export(objects / "ball.ply")
    evaluate(Objects(objects), _settings(seed=1), out, said.append)
    assert calls[4:] == ["ball"]
    monkeypatch.setattr(module, "weights_present", lambda name: name == "stlpips")
    evaluate(Objects(objects), _settings(seed=1), out, said.append)
    assert calls[5:] == ["ball", "torus"]
    (out / "objects" / "ball.json").write_text('{"key"')
    evaluate(Objects(objects), _settings(seed=1), out, said.append)
    assert calls[7:] == ["ball"]


def test_an_object_that_fails_is_recorded_and_the_rest_goes_on(objects, undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", _pretend({"chamfer": 0.1}))
    (objects / "abroken.stl").write_text("not a mesh")
    out = tmp_path / "out"
    with pytest.raises(StageFailed, match="1 of 3 objects could not be evaluated: abroken"):
        evaluate(Objects(objects), _settings(), out, lambda text: None)
    table = _columns(out / "results.csv")
    assert table["abroken"]["error"].startswith("invalid_input") and table["ball"]["chamfer"] == "0.1"
    assert json.loads((out / "objects" / "abroken.json").read_text())["error"]["code"] == "invalid_input"
    assert "- abroken: invalid_input" in (out / "results.md").read_text()
    trimesh.creation.box().export(objects / "abroken.stl")
    assert not any(row.error for row in evaluate(Objects(objects), _settings(), out, lambda text: None))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled("cancelled")])
def test_cancelling_keeps_the_finished_objects(objects, undrawn, tmp_path, monkeypatch, error):
    pretend = _pretend({"chamfer": 0.1})

    def interrupted(truth, *rest):
        if truth.name == "torus":
            raise error
        return pretend(truth)

    monkeypatch.setattr(module, "measure", interrupted)
    out = tmp_path / "out"
    with pytest.raises(Cancelled, match="1 of 2 objects"):
        evaluate(Objects(objects), _settings(), out, lambda text: None)
    assert "ball" in _columns(out / "results.csv") and not (out / "objects" / "torus.json").exists()


def test_the_command_prints_the_table_and_says_by_its_code_what_happened(
    objects, undrawn, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "measure", _pretend({"chamfer": 0.0123}))
    command = ["evaluate", str(objects), "-o", str(tmp_path / "out")]
    for protocol in PROTOCOLS:
        assert run_command([*command, "--protocol", protocol.name, "--limit", "1"]) == 0
        shown = capsys.readouterr()
        assert f"# Protocol {protocol.name}:" in shown.out and protocol.source in shown.out
        assert "[1/1] ball" in shown.err
    assert run_command([*command, "--protocol", "nonsense"]) == 2
    assert "one of orrery, syncdreamer" in capsys.readouterr().err
    assert run_command([*command, "--limit", "-1"]) == 2
    assert run_command(["evaluate", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    (objects / "broken.obj").write_text("nothing")
    assert run_command(command) == 2
    assert "1 of 3 objects could not be evaluated: broken" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["image", "views"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_protocol_fills_its_columns(objects, tmp_path, protocol, task):
    small = dataclasses.replace(protocol, rig=dataclasses.replace(protocol.rig, size=96))
    settings = Settings(small, task, OPTIONS)
    (row,) = evaluate(Objects(objects, limit=1), settings, tmp_path / "out", lambda text: None)
    missing = [name for name in columns(settings) if name not in row.figures and "perceptual" not in name]
    assert missing == [] and np.isfinite(list(row.figures.values())).all()
    assert row.figures["input_psnr"] > 18 and row.figures["splats_psnr"] > 14
    if protocol.shape is not None:
        assert row.figures["chamfer"] < 0.05 and row.figures["iou"] > 0.6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_scans_are_evaluated_by_a_papers_protocol(tmp_path, capsys):
    scans = shared_path("data", "objects", "gso")
    command = ["evaluate", str(scans), "-o", str(tmp_path), "--protocol", "syncdreamer", "--limit", "2"]
    assert run_command([*command, "--quality", "draft"]) == 0
    table = _columns(tmp_path / "results.csv")
    for name in ("boat_shoe", "granimals_wagon"):
        assert float(table[name]["input_psnr"]) > 25
        assert 0 < float(table[name]["chamfer"]) < 0.1 and 0.1 < float(table[name]["iou"]) < 1
    assert run_command([*command, "--quality", "draft"]) == 0
    assert capsys.readouterr().err.count("measured before") == 2
