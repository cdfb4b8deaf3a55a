"""Our networks against recorded outputs of the reference code, and the command that says so."""

import json
import shutil

import numpy as np
import pytest

from backend.evaluation import parity
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
