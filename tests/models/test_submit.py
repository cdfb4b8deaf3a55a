"""`submit --variations` and `submit --prompt`: what `generate` does here, done by the daemon."""

import json

import numpy as np
import pytest
from PIL import Image

from backend.cli import run
from tests.daemon.test_resume import served
from tests.models.test_commands import tiny_pipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["--quality", "draft", "--set", "orbit.size=64", "--set", "matting.size=64", "--set", "orbit.views=4"]


@pytest.fixture
def picture(tmp_path):
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[24:104, 32:96] = (200, 80, 40, 255)
    Image.fromarray(rgba).save(tmp_path / "box.png")
    return tmp_path / "box.png"


def test_variations_are_a_job_a_seed_and_their_orbits_are_used_again(picture, tmp_path, capsys):
    out = tmp_path / "out"
    with served(tmp_path) as (daemon, client):
        state = ["--state", str(daemon.state)]
        wanted = ["submit", str(picture), *state, "--variations", "2", "--seed", "5", *SMALL]
        assert run([*wanted, "-o", str(out)]) == 0
        said = json.loads((out / "variations.json").read_text())["variations"]
        assert [entry["seed"] for entry in said] == [5, 6]
        with Image.open(out / "variations.png") as sheet:
            assert sheet.size == (4 * 160, 2 * 160)
        assert {"orbit_5.png", "orbit_6.png"} < {path.name for path in out.iterdir()}
        assert [(job.recipe, job.state) for job in client.jobs()] == [("image_to_orbit", "succeeded")] * 2
        assert "with --seed SEED" in capsys.readouterr().out
        client.pause()
        again = client.submit(
            [picture], quality="draft", seed=6,
            options={"orbit.size": "64", "matting.size": "64", "orbit.views": "4"},
        )  # fmt: skip
        assert again.reused == ("matting", "orbit")
        assert run(["submit", str(picture), *state, "--variations", "99"]) == 2
        assert len(client.jobs()) == 3


def test_a_prompt_is_drawn_by_the_daemons_worker(picture, tmp_path, monkeypatch, capsys):
    pipeline = str(tiny_pipeline(tmp_path, latents=64))
    with served(tmp_path) as (daemon, client):
        state = ["--state", str(daemon.state)]
        assert "text_to_3d" not in client.hello().recipes  # Blender cannot name a pipeline
        assert run(["submit", str(picture), "--prompt", "a teapot", *state]) == 2
        assert run(["submit", "--prompt", "a teapot", "--watch", *state, *SMALL]) == 2
        assert "ORRERY_PROMPT_MODEL" in capsys.readouterr().err
        wanted = ["submit", "--prompt", "a teapot", "--prompt-model", pipeline, "--variations", "1", *SMALL]
        assert run([*wanted, "-o", str(tmp_path / "out"), *state]) == 0
        said = capsys.readouterr().out
        assert "Opening" in said or "Drawing the prompt" in said
        with Image.open(tmp_path / "out" / "orbit_0.png") as orbit:
            assert orbit.size == (4 * 160, 160)
        (job,) = [job for job in client.jobs() if job.state == "succeeded"]
        assert (job.label, job.recipe) == ("a teapot", "text_to_orbit")
    monkeypatch.setenv("ORRERY_PROMPT_MODEL", pipeline)
    with served(tmp_path / "other") as (_, client):
        assert {"text_to_3d", "text_to_orbit"} <= set(client.hello().recipes)
