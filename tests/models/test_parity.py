"""Our networks against recorded outputs of the reference code, and the command that says so."""

import json
import re
import shutil
import zlib

import numpy as np
import pytest

from backend.evaluation import fixtures, parity
from tests.support.shared import shared_path

FAMILY = (
    "sgm_unet_8ch",
    "sgm_unet_17ch_hi3d2",
    "sgm_unet_8ch_perframe_vector_sv3dp",
    "sgm_unet_12ch_3tokens_v3dscene",
    "sgm_vae",
    "sgm_scalars",
    "sgm_sampler",
    "hi3d_depth_embedder",
    "v3d_pixelnerf",
    "v3d_poses",
)


@pytest.mark.parametrize("name", FAMILY)
def test_a_recorded_output_is_met_within_its_bound(name):
    outcome = parity.examine(shared_path("golden", f"{name}.npz"))
    assert outcome.fault == "" and outcome.error <= outcome.bound, outcome


def test_the_bound_of_the_unet_is_broken_without_the_published_eps(monkeypatch):
    from diffusers.models.resnet import SpatioTemporalResBlock

    from backend.models import unet

    def as_diffusers_builds_it(net):
        for module in net.modules():
            if isinstance(module, SpatioTemporalResBlock):
                for block in (module.spatial_res_block, module.temporal_res_block):
                    block.norm1.eps = block.norm2.eps = 1e-6

    monkeypatch.setattr(unet, "_mend_eps", as_diffusers_builds_it)
    outcome = parity.examine(shared_path("golden", "sgm_unet_8ch.npz"))
    assert outcome.error > 2e-5


def test_the_command_ends_with_json_and_with_one_where_a_fixture_is_not_understood(tmp_path, capsys):
    shutil.copy(shared_path("golden", "v3d_poses.npz"), tmp_path / "poses.npz")
    assert parity.main([str(tmp_path)]) == 0
    np.savez(
        tmp_path / "other.npz", meta=np.frombuffer(b'{"cfg": "of another model"}', np.uint8), out=np.ones(3)
    )
    assert parity.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "other: not understood" in lines[-3] and "poses: poses, maximal error" in lines[-2]
    summary = json.loads(lines[-1])
    assert [f["passed"] for f in summary["fixtures"]] == [False, True] and not summary["passed"]


def test_a_changed_number_breaks_the_bound(tmp_path):
    with np.load(shared_path("golden", "v3d_poses.npz")) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["cv"] = arrays["cv"] + np.float32(1e-5)
    np.savez(tmp_path / "poses.npz", **arrays)
    outcome = parity.examine(tmp_path / "poses.npz")
    assert outcome.error > outcome.bound and "BEYOND" in outcome.line()


CONFIG = {
    "num_classes": "sequential", "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": 1, "channel_mult": [1, 2], "num_head_channels": 16, "context_dim": 12,
    "use_linear_in_transformer": True, "transformer_depth": 1, "in_channels": 8, "adm_in_channels": 40,
    "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images",
    "video_kernel_size": [3, 1, 1],
}  # fmt: skip


def inputs_of(config, frames=2, samples=1, size=(8, 12), framed=()):
    """Of a UNet's fixture; framed: the inputs that have a row a frame."""
    import torch

    random = torch.Generator().manual_seed(1)
    shapes = {"in_ts": (), "in_ctx": (2, config["context_dim"]), "in_y": (config["adm_in_channels"],)}
    made = {"in_x": torch.randn(samples * frames, config["in_channels"], *size, generator=random)}
    for name, shape in shapes.items():
        row = torch.randn(samples, *shape, generator=random)
        made[name] = row.repeat_interleave(frames, dim=0) if name in framed else row
    return {name: value.numpy() for name, value in made.items()}


def answer(config, inputs, **more):
    """What ours says to a fixture of this configuration."""
    return parity._unet({"cfg": config, **more}, inputs)["out"]


def write(path, config, **arrays):
    meta = json.dumps(config if "cfg" in config else {"cfg": config}).encode()
    np.savez(path, meta=np.frombuffer(meta, np.uint8), **arrays)
    return path


def without(config, *names):
    return {name: value for name, value in config.items() if name not in names}


@pytest.mark.parametrize(
    "other",
    [
        without(CONFIG, "num_head_channels") | {"num_heads": 2, "channel_mult": [1, 1]},
        CONFIG | {"channel_mult": [1, 1], "num_heads": 7},
        CONFIG | {"channel_mult": [1, 1], "transformer_depth": [1, 1]},
        CONFIG | {"channel_mult": [1, 1], "transformer_depth_middle": 1},
        CONFIG | {"channel_mult": [1, 1], "merge_strategy": "learned", "merge_factor": 0.3},
        without(CONFIG, "extra_ff_mix_layer") | {"channel_mult": [1, 1], "max_ddpm_temb_period": 10000},
        CONFIG | {"channel_mult": [1, 1], "use_linear_in_transformer": False},  # 1x1 convolutions: the same
        without(CONFIG, "use_linear_in_transformer") | {"channel_mult": [1, 1]},
    ],
    ids=["heads", "both", "depths", "middle", "learned", "left out", "convolutions", "its default"],
)
def test_the_same_net_said_otherwise_gives_the_same_numbers(other):
    config = CONFIG | {"channel_mult": [1, 1]}
    inputs = inputs_of(config)
    assert np.abs(answer(config, inputs) - answer(other, inputs)).max() < 1e-5


def test_a_row_a_frame_says_the_same_as_a_row_a_sample():
    inputs = inputs_of(CONFIG, frames=3, samples=2)
    expected = answer(CONFIG, inputs)
    framed = inputs_of(CONFIG, frames=3, samples=2, framed=("in_ts", "in_ctx", "in_y"))
    assert np.abs(answer(CONFIG, framed, T=3) - expected).max() < 1e-5
    alone = {name: value[:3] if name == "in_x" else value[:1] for name, value in inputs.items()}
    assert np.abs(answer(CONFIG, alone) - expected[:3]).max() < 1e-5


def test_depths_may_differ_from_level_to_level_and_in_the_middle():
    from backend.models.unet import UNetSettings, VideoUNet

    settings = UNetSettings.from_published(
        CONFIG | {"transformer_depth": [1, 2], "transformer_depth_middle": 3}
    )
    net = VideoUNet(settings).net
    counts = [
        len(block.attentions[0].transformer_blocks)
        for block in (*net.down_blocks, net.mid_block, *net.up_blocks)
    ]
    assert counts == [1, 2, 3, 2, 1]
    heads = UNetSettings.from_published(without(CONFIG, "num_head_channels") | {"num_heads": 4}).heads_at
    assert heads == (4, 4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG | {"use_spatial_context": False}, "use_spatial_context is False"),
        (without(CONFIG, "video_kernel_size"), "video_kernel_size is 3"),
        (without(CONFIG, "merge_strategy"), "merge_strategy is fixed"),
        (CONFIG | {"video_kernel_size": [5, 1, 1]}, r"video_kernel_size is \[5, 1, 1\]"),
        (CONFIG | {"max_ddpm_temb_period": 1000}, "max_ddpm_temb_period is 1000"),
        (CONFIG | {"disable_temporal_crossattention": True}, "disable_temporal_crossattention is True"),
        (CONFIG | {"use_scale_shift_norm": True}, "use_scale_shift_norm is True"),
        (CONFIG | {"num_classes": None}, "num_classes is None"),
        (CONFIG | {"surprise": 1}, "settings surprise are unknown"),
        (CONFIG | {"channel_mult": [2, 4]}, "channel_mult begins with 2"),
        ({"ch": 32, "ch_mult": [2, 4], "num_res_blocks": 1, "z_channels": 4}, "ch_mult begins with 2"),
        (
            {"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "z_channels": 4, "attn_resolutions": [16]},
            r"attn_resolutions is \[16\]",
        ),
        (CONFIG | {"model_channels": 40}, "40 channels; expected a multiple of 32"),
        (CONFIG | {"num_head_channels": 24}, "do not divide into"),
        (without(CONFIG, "num_head_channels"), "has no heads"),
        (CONFIG | {"transformer_depth": [1, 2, 3]}, r"transformer_depth is \[1, 2, 3\]"),
        (without(CONFIG, "context_dim"), "lacks 'context_dim'"),
    ],
)
def test_what_our_blocks_do_not_have_is_named(tmp_path, config, words, capsys):
    write(tmp_path / "a.npz", config, out=np.zeros((2, 4, 8, 12), np.float32), **inputs_of(CONFIG))
    assert parity.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("a: not understood: ")
    assert re.search(words, said[0]), said[0]


def test_fixtures_that_are_not_whole_are_named(tmp_path):
    inputs, out = inputs_of(CONFIG), np.zeros((2, 4, 8, 12), np.float32)
    lacking = write(tmp_path / "lacking.npz", CONFIG, out=out, **without(inputs, "in_y", "in_ts"))
    assert "lacks in_ts, in_y" in parity.examine(lacking).fault
    odd = inputs_of(CONFIG, size=(8, 9))
    assert "multiples of 2" in parity.examine(write(tmp_path / "odd.npz", CONFIG, out=out, **odd)).fault
    whole = {"cfg": CONFIG, "T": 3}
    assert "samples of 3" in parity.examine(write(tmp_path / "t.npz", whole, out=out, **inputs)).fault
    rows = inputs | {"in_y": np.zeros((5, 40))}
    assert "in_y has 5 rows" in parity.examine(write(tmp_path / "y.npz", CONFIG, out=out, **rows)).fault
    half = write(tmp_path / "half.npz", CONFIG, out=out.astype(np.float16), **inputs)
    assert "half precision" in parity.examine(half).fault
    shaped = write(tmp_path / "shaped.npz", CONFIG, out=out[:1], **inputs)
    assert "out has shape (1, 4, 8, 12), ours (2, 4, 8, 12)" in parity.examine(shaped).fault
    np.savez(tmp_path / "bare.npz", out=out)
    assert "holds no meta" in parity.examine(tmp_path / "bare.npz").fault
    (tmp_path / "cut.npz").write_bytes(half.read_bytes()[:900])
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("cut", "text"):
        assert parity.examine(tmp_path / f"{name}.npz").fault
    assert parity.main([str(tmp_path)]) == 1


def test_guidance_is_read_in_words_and_in_json():
    from backend.models.sampling import Guidance

    text = '"sigma_max 700; linear 1.0 to 2.0, triangle max 3.5, constant 4"'
    assert fixtures.guidance_in(text, "linear") == Guidance("linear", 1.0, 2.0)
    assert fixtures.guidance_in(text, "triangle") == Guidance("triangle", 1.0, 3.5)
    assert fixtures.guidance_in(text, "constant") == Guidance("constant", last=4.0)
    text = '{"linear": {"max_scale": 2.0, "min_scale": 0.5}, "triangle": [1.0, 3], "T": 5, "steps": 6}'
    assert fixtures.guidance_in(text, "linear") == Guidance("linear", 0.5, 2.0)
    assert fixtures.guidance_in(text, "triangle") == Guidance("triangle", 1.0, 3.0)


def test_inputs_may_be_given_by_their_rule():
    meta = {"inputs": "x=rnd('depthin', 1, 3, 2, 4, 4) as b c t h w; ts=rnd('when',2)"}
    spoken = fixtures.spoken_inputs(meta)
    assert spoken["in_x"].shape == (1, 3, 2, 4, 4) and spoken["in_ts"].shape == (2,)
    seed = zlib.crc32(b"when")
    assert np.array_equal(spoken["in_ts"], np.random.RandomState(seed).standard_normal(2))


def test_sizes_come_from_the_file(tmp_path):
    """Another width, depth, frame count and a non-square size: a fixture of our own net is met exactly."""
    import torch

    from backend.models.unet import UNetSettings, VideoUNet, unet_rule

    config = {
        "num_classes": "sequential", "out_channels": 4, "model_channels": 64, "attention_resolutions": [2, 1],
        "num_res_blocks": 1, "channel_mult": [1, 1, 2], "num_head_channels": 32, "context_dim": 12,
        "use_linear_in_transformer": True, "transformer_depth": 2, "in_channels": 9, "adm_in_channels": 40,
        "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images",
        "video_kernel_size": [3, 1, 1],
    }  # fmt: skip
    settings = UNetSettings.from_published(config)
    net = parity.ruled(VideoUNet(settings), unet_rule(settings))
    random = torch.Generator().manual_seed(1)
    inputs = {
        "in_x": torch.randn(3, 9, 8, 12, generator=random),
        "in_ts": torch.randn(1, generator=random),
        "in_ctx": torch.randn(1, 2, 12, generator=random),
        "in_y": torch.randn(1, 40, generator=random),
    }
    out = net(*inputs.values(), frames=3)
    meta = np.frombuffer(json.dumps({"cfg": config}).encode(), np.uint8)
    np.savez(
        tmp_path / "own.npz", meta=meta, out=out, **{name: value.numpy() for name, value in inputs.items()}
    )
    outcome = parity.examine(tmp_path / "own.npz")
    assert outcome.error == 0 and outcome.kind == "video UNet"


def test_inputs_that_a_fixture_does_not_hold_are_made_by_the_rule(tmp_path):
    """A fixture of our own net, with and without its inputs: the same; half of them is not understood."""
    from backend.models.unet import UNetSettings, VideoUNet, unet_rule

    given = inputs_of(CONFIG)
    names = ("in_x", "in_ts", "in_ctx", "in_y")
    made = {
        name: np.random.RandomState(zlib.crc32(name[3:].encode())).standard_normal(given[name].shape)
        for name in names
    }
    settings = UNetSettings.from_published(CONFIG)
    net = parity.ruled(VideoUNet(settings), unet_rule(settings))
    rows, samples = len(made["in_x"]), len(made["in_ts"])
    out = net(*(parity._tensor(made[name]) for name in names), frames=rows // samples).numpy()
    meta = {"cfg": CONFIG, "T": rows // samples, "tokens": made["in_ctx"].shape[1], "who": "knows"}
    whole = parity.examine(write(tmp_path / "whole.npz", meta, out=out, **made))
    bare = parity.examine(write(tmp_path / "bare.npz", meta, out=out))
    assert whole.error == bare.error == 0
    vae = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 4}
    found = fixtures.ruled_inputs(
        {"cfg": vae}, {"enc": np.zeros((2, 8, 3, 5)), "dec": np.zeros((2, 3, 6, 10))}
    )
    assert {name: array.shape for name, array in found.items()} == {
        "in_img": (2, 3, 6, 10),
        "in_z": (2, 4, 3, 5),
    }


def test_pictures_that_look_at_no_other_frame_are_told_by_their_indicator(tmp_path):
    from backend.models.unet import UNetSettings, VideoUNet, unet_rule

    config = CONFIG | {"merge_strategy": "learned_with_images"}
    given = inputs_of(config)
    rows, samples = len(given["in_x"]), len(given["in_ts"])
    settings = UNetSettings.from_published(config)
    net = parity.ruled(VideoUNet(settings), unet_rule(settings))
    tensors = [parity._tensor(given[name]) for name in ("in_x", "in_ts", "in_ctx", "in_y")]
    alone = np.ones((samples, rows // samples), np.float32)
    out = net(*tensors, frames=rows // samples, alone=parity._tensor(alone)).numpy()
    changed = [*tensors]
    changed[0] = tensors[0].clone()
    changed[0][-1] += 1
    other = net(*changed, frames=rows // samples, alone=parity._tensor(alone)).numpy()
    assert np.array_equal(out[0], other[0]) and not np.array_equal(out[-1], other[-1])
    told = write(tmp_path / "a.npz", config, out=out, in_image_only_indicator=alone, **given)
    assert parity.examine(told).error == 0
    assert parity.examine(write(tmp_path / "b.npz", config, out=out, **given)).error > 1e-3
    wrong = write(tmp_path / "c.npz", config, out=out, in_image_only_indicator=alone[:, :1], **given)
    assert "image_only_indicator has shape" in parity.examine(wrong).fault


def test_fixtures_of_models_that_are_not_here_are_named(tmp_path, capsys):
    zeros = np.zeros(3)
    write(tmp_path / "a.npz", {"inputs": "same"}, pts1=zeros, conf1=zeros, in_img1=zeros)
    write(tmp_path / "b.npz", {"steps": 5}, alphas_cumprod=zeros)
    write(tmp_path / "c.npz", {"note": "?"}, thing=zeros)
    assert parity.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("a: not understood: it is of DUSt3R, a model that is not here; expected")
    assert said[1].startswith("b: not understood: it is of DynamiCrafter, a model that is not here; expected")
    assert said[2].startswith("c: not understood: it is of a model that is not here; expected")
    assert json.loads(said[3])["passed"] is False
