"""The commands around the models: dry run at full size, variations, prompts."""

import json

import numpy as np
import pytest
from PIL import Image

from backend.cli import run
from backend.models import dry_run
from backend.weights import store
from shared_protocol.errors import EngineUnavailable


def test_a_dry_run_knows_the_full_size_without_weights(capsys):
    assert run(["doctor", "--dry-run", "hi3d", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["unet"] == pytest.approx(1524.62e6, rel=1e-5)
    assert found["parameters"]["clip"] == 632076800
    assert found["gigabytes"]["float16"] == pytest.approx(found["parameters"]["all"] * 2 / 1e9)
    assert found["steps"] == 25 and found["teraflop_per_step"] > 10
    assert found["placement"] == {"8": "sequential", "12": "sequential", "16": "parts", "24": "parts"}
    assert found["estimated_seconds"]["H100"] < found["estimated_seconds"]["RTX 3060"]


def test_the_list_says_how_large_a_model_is_and_what_it_asks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    assert run(["models", "list", "v3d", "sv3d_u", "u2netp"]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[0].startswith("v3d 6.5 GB not here V3D: 18 views") and said[1].startswith(
        "licence: none stated"
    )
    assert (
        said[2].startswith("sv3d_u about 9.4 GB") and "accept its terms on the hub first: https:" in said[4]
    )
    assert said[5].startswith("u2netp 4.6 MB")


def test_an_address_of_a_hub_that_is_none_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "nowhere")
    monkeypatch.delenv("ORRERY_OFFLINE", raising=False)
    assert run(["models", "pull", "sv3d_u", "--accept-licence"]) == 2
    assert "HF_ENDPOINT is 'nowhere'; expected an address" in capsys.readouterr().err
    from backend.weights import hub

    monkeypatch.setenv("HF_ENDPOINT", "")
    assert hub.address(store.find_entry("sv3d_u").files[0].sources[0]).startswith(hub.DEFAULT_ENDPOINT)


def test_a_dry_run_of_nothing_published_lists_what_is(capsys):
    assert run(["doctor", "--dry-run", "inflate"]) == 2
    assert "sv3d_p" in capsys.readouterr().err


def test_a_step_on_random_weights_needs_a_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(EngineUnavailable, match="no GPU"):
        dry_run.random_step("v3d")


@pytest.mark.gpu
@pytest.mark.parametrize("engine", dry_run.ENGINES)
def test_a_full_size_step_on_random_weights_fits_the_gpu(engine):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    step = dry_run.random_step(engine)
    assert step["seconds"] > 0 and step["peak_gigabytes"] > 3


@pytest.fixture
def picture(tmp_path):
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[24:104, 32:96] = (200, 80, 40, 255)
    Image.fromarray(rgba).save(tmp_path / "box.png")
    return str(tmp_path / "box.png")


def test_variations_are_orbits_to_choose_from_and_the_chosen_one_is_used_again(picture, tmp_path, capsys):
    out = tmp_path / "out"
    small = ["--quality", "draft", "--set", "orbit.size=64", "--set", "matting.size=64", "--views", "4"]
    assert run(["generate", picture, "-o", str(out), "--variations", "3", "--seed", "5", *small]) == 0
    said = json.loads((out / "variations.json").read_text())["variations"]
    assert [entry["seed"] for entry in said] == [5, 6, 7]
    with Image.open(out / "variations.png") as sheet:
        assert sheet.size == (4 * 160, 3 * 160)
    assert {path.name for path in out.iterdir()} >= {"orbit_5.png", "orbit_6.png", "orbit_7.png"}
    assert not (out / "mesh.glb").exists()
    again = tmp_path / "again"
    assert run(["generate", picture, "-o", str(again), "--variations", "1", "--seed", "6", *small]) == 0
    assert json.loads((again / "variations.json").read_text())["variations"][0]["reused"]
    assert run(["generate", picture, "-o", str(out), "--variations", "99"]) == 2


def tiny_pipeline(folder, latents=16):
    """A Stable Diffusion of a few thousand parameters, saved as diffusers saves one; its pictures have twice
    `latents` pixels."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz,"]
    words += [f"{word}</w>" for word in words[2:]]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=32,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
        unet=UNet2DConditionModel(
            sample_size=latents, block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, norm_num_groups=4,
            attention_head_dim=4, layers_per_block=1,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.mark.slow
def test_a_prompt_is_drawn_by_a_pipeline_of_diffusers_by_name(tmp_path):
    from backend.prompt import draw

    model = str(tiny_pipeline(tmp_path))
    first, again, other = (draw("a teapot", model, seed).rgba for seed in (1, 1, 2))
    assert first.shape == (32, 32, 4) and (first[..., 3] == 1).all()
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_prompt_without_a_pipeline_and_a_pipeline_that_is_none_are_explained(tmp_path, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert run(["generate", "--prompt", "a teapot", *out]) == 2
    assert "--prompt-model" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["generate", "--prompt", "a teapot", "--prompt-model", str(tmp_path / "empty"), *out]) == 2
    assert "cannot be opened as a text-to-image pipeline" in capsys.readouterr().err
    assert run(["generate", *out]) == 2
    assert "a picture or a prompt" in capsys.readouterr().err
