"""The nets that look at pictures, CLIP and MiDaS, against plain functions of the published tensors."""

import pytest
import torch

from backend.evaluation.fixtures import rule_weight
from backend.evaluation.parity import ruled
from backend.models import clip, midas
from backend.models.rules import parameters_of, published_shape
from tests.support.plain_nets import clip_vision, midas_depth

BOUND = 2e-5


def built(module, rule):
    """The module with rule-made weights, and the same under their published names."""
    net = ruled(module, rule)
    takes = [(rule(name), shape) for name, shape in parameters_of(net).items()]
    shapes = {take.source: published_shape(take, shape) for take, shape in takes}
    return net, {name: torch.from_numpy(rule_weight(name, shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("width", "heads", "quick"), [(48, 3, False), (32, 2, True), (64, 4, False)], ids=["48", "quick", "64"]
)
def test_clips_tokens_are_those_of_the_plain_transformer(width, heads, quick):
    settings = clip.ClipSettings(
        width=width, inner=3 * width, layers=3, heads=heads, patch=7, pixels=28, token=20, quick=quick
    )
    net, weights = built(clip.ClipVision(settings), clip.clip_rule)
    weights = {name.removeprefix("visual."): value for name, value in weights.items()}
    pictures = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = clip_vision(pictures, weights, heads, quick)
        assert (net.tokens(pictures) - expected).abs().max() < BOUND


def test_pictures_are_made_small_for_clip_as_the_published_pipeline_does():
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,
    )

    pictures = torch.rand(1, 3, 96, 120, generator=torch.Generator().manual_seed(2)) * 2 - 1
    for size in ((28, 28), (96, 120), (200, 150)):
        expected = _resize_with_antialiasing(pictures, size)
        assert (clip.resized(pictures, size) - expected).abs().max() < 1e-6


def test_the_aesthetic_score_is_a_plain_chain_of_layers_over_clips_unit_features():
    settings = clip.ClipSettings(
        width=32, inner=64, layers=2, heads=2, patch=4, pixels=28, token=24, quick=True
    )
    net, weights = built(clip.Aesthetic(settings), clip.aesthetic_rule)
    visual = {
        name.removeprefix("aesthetic_model.visual."): value
        for name, value in weights.items()
        if name.startswith("aesthetic_model.")
    }
    picture = torch.rand(2, 3, 28, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    prepared = clip.normalised(picture[..., 10:38])  # columns 80 to 304 of 384, at an eighth
    with torch.no_grad():
        x = clip_vision(prepared, visual, 2, quick=True)
        x = x / x.norm(dim=-1, keepdim=True)
        for place in (0, 2, 4, 6, 7):
            layer = f"aesthetic_mlp.layers.{place}"
            x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        assert (net(picture) - x[:, 0]).abs().max() < BOUND


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 64)], ids=["its own grid", "wide", "small"])
def test_depth_is_that_of_the_plain_dpt_hybrid(size):
    settings = midas.DepthSettings(
        stem=16, stages=(32, 48, 64), depths=(2, 1, 2), width=48, inner=96, heads=3, fusion=24, grid=4
    )
    net, weights = built(midas.DepthNet(settings), midas.depth_rule)
    # Positive on the last layer: its ReLU must not hide what comes before it.
    for weight in (weights["scratch.output_conv.4.bias"], net.net.head.head[4].bias):
        weight.data += 3
    pictures = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = midas_depth(pictures, weights, 3, groups=8)
        found = net(pictures)
    assert found.shape == (2, *size) and expected.std() > 0.01
    assert (found - expected).abs().max() < BOUND * max(1.0, float(expected.abs().max()))
