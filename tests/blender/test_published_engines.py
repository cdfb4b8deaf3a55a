"""Hi3D from the add-on: its weights come while the backend runs, the engine is chosen, watched, cancelled,
and its result stands in the scene. The checkpoints are tiny, in the published layouts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

import blender_addon  # noqa: E402
from blender_addon import properties, session  # noqa: E402
from blender_addon.jobs import Link, State  # noqa: E402
from tests.support.blender_pump import pump_until  # noqa: E402
from tests.support.hub import serving  # noqa: E402

pytestmark = [pytest.mark.blender, pytest.mark.slow, pytest.mark.timeout(2700)]

ROOT = Path(__file__).resolve().parents[2]
BACKEND = os.environ.get("ORRERY_BACKEND_PYTHON") or str(
    ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
)
SMALL = {
    "matting.size": 128, "orbit.views": 6, "orbit.size": 64, "orbit.steps": 2, "refine.size": 128,
    "refine.steps": 2, "splats.steps": 4, "splats.gaussians": 300, "splats.size": 64,
    "surface.engine": "hull",
    "surface.grid": 32, "surface.faces": 500, "texture.size": 128, "texture.optimise": False,
    "export.turntable": False,
}  # fmt: skip


def backend(*arguments):
    return subprocess.run(
        [BACKEND, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture
def files(tmp_path):
    """Tiny first_stage.pt and second_stage.pt."""
    if not Path(BACKEND).exists():
        pytest.skip(f"no backend at {BACKEND}; set ORRERY_BACKEND_PYTHON")
    made = backend("tests.support.tiny_models", str(tmp_path), "hi3d_stage1", "hi3d_stage2")
    if "No module named" in made.stderr:
        pytest.skip("the backend's Python lacks torch or diffusers")
    assert made.returncode == 0, made.stderr
    return tmp_path / "hi3d_stage1.pt", tmp_path / "hi3d_stage2.pt"


@pytest.fixture
def addon(blender, tmp_path, monkeypatch):
    for name, value in {
        "ORRERY_PYTHON": BACKEND,
        "PYTHONPATH": str(ROOT),
        "ORRERY_STATE": str(tmp_path / "state"),
        "ORRERY_CACHE": str(tmp_path / "cache"),
        "ORRERY_WEIGHTS": str(tmp_path / "weights"),
        "HF_HUB_CACHE": str(tmp_path / "none"),
        "HF_TOKEN_PATH": str(tmp_path / "none"),
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("ORRERY_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(session, "user_folder", lambda: tmp_path / "user")
    blender_addon.register()
    yield session.current()
    blender_addon.unregister()


def offered(current):
    """What the add-on shows of Hi3D: stage -> (ready, remedy)."""
    return {e["stage"]: (e["ready"], e["remedy"]) for e in current.jobs.engines if e["name"] == "hi3d"}


def generate(current, monkeypatch, **more):
    monkeypatch.setattr(properties.OrrerySettings, "options", lambda self: SMALL | more)
    bpy.ops.orrery.generate()
    return current.jobs.latest


def test_hi3d_is_pulled_chosen_watched_cancelled_and_imported(addon, files, tmp_path, monkeypatch):
    bpy.ops.orrery.connect()
    pump_until(addon, lambda: addon.jobs.link is Link.READY, 120)
    pull = "Run: python -m backend models pull hi3d"
    assert offered(addon) == {"orbit": (False, pull), "refine": (False, pull)}
    with serving({("hbyang/Hi3D", "second_stage.pt"): files[1]}) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        taken = backend("backend", "models", "pull", "hi3d", "--accept-licence", "--from", str(files[0]))
        assert taken.returncode == 0, taken.stderr
        assert "Still missing: second_stage.pt" in taken.stdout
        taken = backend("backend", "models", "pull", "hi3d")
        assert taken.returncode == 0, taken.stderr
    addon.reconnect()
    pump_until(addon, lambda: offered(addon) == {"orbit": (True, ""), "refine": (True, "")}, 60)

    bpy.ops.orrery.choose_engine(stage="orbit", engine="hi3d")
    bpy.context.scene.orrery.path = str(ROOT / "examples" / "rocket.png")
    bpy.context.scene.orrery.quality = "draft"
    job = generate(addon, monkeypatch, **{"orbit.steps": 2000})
    texts = set()

    def watched():
        texts.add(job.text)
        return job.final or (bool(job.previews.get("orbit")) and 0 < job.done < job.total == 2000)

    pump_until(addon, watched, 900)
    assert any(text.startswith("Hi3D, first stage") for text in texts if text)
    assert job.previews["orbit"][0].stat().st_size > 100
    bpy.ops.orrery.cancel()
    pump_until(addon, lambda: job.final, 60)
    assert job.state is State.CANCELLED and not bpy.data.objects

    job = generate(addon, monkeypatch)
    pump_until(addon, lambda: job.final, 900)
    assert job.state is State.IMPORTED, job.error
    report = json.loads((job.folder / "report.json").read_text())
    engines = {stage["stage"]: stage["engine"] for stage in report["stages"]}
    assert (engines["orbit"], engines["refine"]) == ("hi3d", "hi3d")
    assert {item.type for item in bpy.data.collections["rocket"].objects} >= {"MESH"}
    assert sys.modules.get("torch") is None
