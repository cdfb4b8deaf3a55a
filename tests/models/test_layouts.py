"""Published layouts at full size on the meta device, and how misfits are named."""

import gzip
import json

import pytest

from backend.models import layouts, unet
from backend.models.layouts import LAYOUTS, fit, lay_beside, recognise
from shared_protocol.errors import WeightsError
from tests.support import tiny_models
from tests.support.shared import shared_path

FILES = {
    "svd_xt": ("svd_xt", 2446),
    "svd_xt_image_decoder": ("svd_xt_image_decoder", 2322),
    "sv3d_u": ("sv3d_u", 2212),
    "sv3d_p": ("sv3d_p", 2212),
    "hi3d_stage1": ("hi3d_stage1", 2634),
    "hi3d_stage2": ("hi3d_stage2", 2690),
    "v3d_object": ("v3d_object", 1800),
    "v3d_scene": ("v3d_scene_derived", 1550),
    "midas_dpt_hybrid": ("midas_dpt_hybrid", 368),
}


def shapes_of(file):
    with gzip.open(shared_path("statedicts", f"{file}.json.gz")) as stream:
        return {name: tuple(shape) for name, shape in json.load(stream)["keys"].items()}


@pytest.mark.parametrize("name", FILES)
def test_every_name_of_a_published_file_has_its_place_at_full_size(name):
    file, count = FILES[name]
    shapes = shapes_of(file)
    found, whole = lay_beside(LAYOUTS[name], shapes)
    assert len(shapes) == count and whole.exact
    for part in LAYOUTS[name].parts:
        if part.used:
            assert found.settings[part.name] == LAYOUTS[name].published(part)
            assert found.comparisons[part.name].exact
    assert recognise(shapes) == LAYOUTS[name].words


def test_the_unets_names_are_those_of_diffusers_with_three_shapes_of_their_own():
    target = shapes_of("diffusers_svd_unet")
    for name, (file, _) in FILES.items():
        layout = LAYOUTS[name]
        if not layout.in_channels:
            continue
        settings = layout.published(layout.part("unet"))
        ours = layouts.parameters_of(layouts.build_on_meta(layouts.UNET, settings))
        ours = {key.removeprefix("net."): tuple(shape) for key, shape in ours.items()}
        assert set(ours) == set(target) and len(ours) == 1428, file
        other = {key for key, shape in ours.items() if shape != target[key]}
        assert other <= {"conv_in.weight", "add_embedding.linear_1.weight"}


def tiny(name):
    return {key: tuple(value.shape) for key, value in tiny_models.tensors(name).items()}


def test_missing_unknown_and_misshapen_tensors_are_named_each():
    shapes = tiny("hi3d_stage1")
    lost = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    bent = "first_stage_model.decoder.mid.attn_1.q.weight"
    del shapes[lost]
    shapes[bent] = (7, 7, 1, 1)
    shapes["first_stage_model.decoder.extra"] = (3,)
    with pytest.raises(WeightsError) as caught:
        fit(LAYOUTS["hi3d_stage1"], shapes, "first_stage.pt")
    details = caught.value.details
    assert details["missing"] == [lost]
    assert details["unknown"] == ["first_stage_model.decoder.extra"]
    assert details["misshapen"] == [f"{bent} has shape (7, 7, 1, 1), expected (32, 32, 1, 1)"]
    for name in (lost, bent, "first_stage_model.decoder.extra"):
        assert name in str(caught.value)


def test_a_full_size_file_with_one_bent_tensor_is_measured_by_the_published_sizes():
    shapes = shapes_of("v3d_object")
    shapes["model.diffusion_model.out.2.weight"] = (4, 321, 3, 3)
    shapes["model.diffusion_model.input_blocks.1.0.out_layers.3.weight"] = (11, 320, 3, 3)
    with pytest.raises(WeightsError) as caught:
        fit(LAYOUTS["v3d_object"], shapes, "V3D.ckpt")
    assert len(caught.value.details["misshapen"]) == 2


@pytest.mark.parametrize(
    ("given", "wanted", "words"),
    [
        ("v3d_object", "hi3d_stage1", "V3D"),
        ("hi3d_stage2", "hi3d_stage1", "second stage"),
        ("sv3d_p", "sv3d_u", "SV3D_p"),
        ("svd_xt", "v3d_object", "Stable Video Diffusion"),
    ],
)
def test_another_models_file_is_called_by_its_name(given, wanted, words):
    with pytest.raises(WeightsError, match=words):
        fit(LAYOUTS[wanted], tiny(given), "file.pt")


def test_a_lora_is_called_a_lora():
    shapes = {"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 320)}
    with pytest.raises(WeightsError, match="LoRA"):
        fit(LAYOUTS["sv3d_u"], shapes, "style.safetensors")


def test_an_absent_quant_conv_is_the_identity_and_a_missing_one_elsewhere_is_no_error():
    import torch

    from backend.models.rules import identity_kernel

    kernel = identity_kernel(torch.Size((4, 4, 1, 1)))
    picture = torch.randn(1, 4, 5, 5)
    assert torch.equal(torch.nn.functional.conv2d(picture, kernel), picture)
    shapes = tiny("v3d_object")
    assert not any("quant_conv" in name for name in shapes)
    assert lay_beside(LAYOUTS["v3d_object"], shapes)[1].exact


def test_hi3ds_second_stage_grows_out_of_svd_by_the_rule_of_zeros():
    import torch

    svd = unet.UNetSettings(channels=(32, 64), attention=(True, False), blocks=1, head_width=32)
    grown = unet.UNetSettings(**vars(svd) | {"in_channels": 17, "vector_width": 512})
    vector, first = torch.randn(128, 768), torch.randn(32, 8, 3, 3)
    changed = unet.second_stage_start(
        {"label_emb.0.0.weight": vector, "input_blocks.0.0.weight": first, "out.2.bias": torch.ones(4)}
    )
    assert torch.equal(changed["label_emb.0.0.weight"][:, :256], torch.zeros(128, 256))
    assert torch.equal(changed["label_emb.0.0.weight"][:, 256:], vector[:, 512:])
    assert changed["input_blocks.0.0.weight"].shape[1] == grown.in_channels
    assert torch.equal(changed["input_blocks.0.0.weight"][:, :4], first[:, :4])
    assert not changed["input_blocks.0.0.weight"][:, 4:13].any()
    assert torch.equal(changed["input_blocks.0.0.weight"][:, 13:], first[:, 4:])


def test_v3ds_scene_net_keeps_svds_first_columns_and_its_output():
    import torch

    settings = unet.UNetSettings(
        vector_width=96, channels=(32, 32), attention=(True, False), blocks=1, head_width=32, context_width=24
    )
    wide = unet.UNetSettings(**vars(settings) | {"in_channels": 136})
    plain, grown = unet.VideoUNet(settings).eval(), unet.VideoUNet(wide).eval()
    state = plain.state_dict()
    state["net.conv_in.weight"] = unet.widened_input(state["net.conv_in.weight"], 136)
    grown.load_state_dict(state)
    assert torch.equal(grown.net.conv_in.weight[:, :8], plain.net.conv_in.weight)
    sample, features = torch.randn(2, 8, 8, 8), torch.randn(2, 128, 8, 8)
    rest = (torch.zeros(1), torch.randn(1, 1, 24), torch.randn(1, 96), 2)
    with torch.no_grad():
        torch.testing.assert_close(
            grown(torch.cat([sample, features], dim=1), *rest), plain(sample, *rest), atol=1e-5, rtol=0
        )
