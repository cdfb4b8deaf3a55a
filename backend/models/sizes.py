"""The sizes of a model, read off the shapes of its file's tensors.

Published files have the sizes of the settings' defaults; smaller ones of the same layout load as well. What
shapes cannot tell follows a rule: attention heads of the video UNet are 64 channels wide (fewer where a net
has fewer), CLIP's are 16 in number from width 1024 on, and 16 channels wide below.
"""

import re
from collections.abc import Mapping

from backend.models.clip import ClipSettings
from backend.models.midas import DepthSettings
from backend.models.unet import UNetSettings
from backend.models.vae import VaeSettings

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape, below the part's prefix. All functions raise KeyError or ValueError for other networks."""


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds."""
    numbers = [int(found[1]) for name in shapes if (found := re.match(pattern, name))]
    return max(numbers) + 1 if numbers else 0


def unet_sizes(shapes: Shapes) -> UNetSettings:
    """Of the names below "model.diffusion_model."."""
    downs = sorted(int(m[1]) for n in shapes if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.weight", n)))
    blocks = downs[0] - 1 if downs else _count(shapes, r"input_blocks\.(\d+)\.") - 1
    firsts = [1 + level * (blocks + 1) for level in range(len(downs) + 1)]
    channels = tuple(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts)
    return UNetSettings(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        vector_width=shapes["label_emb.0.0.weight"][1],
        out_channels=shapes["out.2.weight"][0],
        channels=channels,
        attention=tuple(f"input_blocks.{i}.1.norm.weight" in shapes for i in firsts),
        blocks=blocks,
        head_width=min(64, min(channels)),
        context_width=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        depth=_count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
    )


def vae_sizes(shapes: Shapes) -> VaeSettings:
    """Of an encoder's or a decoder's names; the encoder's are enough."""
    if "encoder.conv_in.weight" in shapes:
        levels, blocks = _count(shapes, r"encoder\.down\.(\d+)\."), _count(
            shapes, r"encoder\.down\.0\.block\.(\d+)\."
        )  # fmt: skip
        channels = tuple(shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels))
        pictures, latents = shapes["encoder.conv_in.weight"][1], shapes["encoder.conv_out.weight"][0] // 2
        return VaeSettings(channels, blocks, latents, pictures, pictures)
    levels = _count(shapes, r"decoder\.up\.(\d+)\.")
    blocks = _count(shapes, r"decoder\.up\.0\.block\.(\d+)\.") - 1
    channels = tuple(shapes[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels))
    pictures = shapes["decoder.conv_out.weight"][0]
    return VaeSettings(channels, blocks, shapes["decoder.conv_in.weight"][1], pictures, pictures)


def clip_sizes(shapes: Shapes, quick: bool = False) -> ClipSettings:
    """Of the names below "...open_clip.model."."""
    width, patch = (shapes["visual.conv1.weight"][i] for i in (0, 3))
    places = shapes["visual.positional_embedding"][0] - 1
    layers = _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\.")
    return ClipSettings(
        width=width,
        inner=shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0],
        layers=layers,
        heads=16 if width >= 1024 else max(1, width // 16),
        patch=patch,
        pixels=patch * round(places**0.5),
        token=shapes["visual.proj"][1],
        quick=quick,
    )


def depth_sizes(shapes: Shapes) -> DepthSettings:
    """Of MiDaS' names."""
    backbone = "pretrained.model.patch_embed.backbone"
    stages = range(3)
    width = shapes["pretrained.model.cls_token"][2]
    return DepthSettings(
        stem=shapes[f"{backbone}.stem.conv.weight"][0],
        stages=tuple(shapes[f"{backbone}.stages.{i}.blocks.0.conv3.weight"][0] for i in stages),
        depths=tuple(
            _count(shapes, rf"pretrained\.model\.patch_embed\.backbone\.stages\.{i}\.blocks\.(\d+)\.")
            for i in stages
        ),
        width=width,
        inner=shapes["pretrained.model.blocks.0.mlp.fc1.weight"][0],
        heads=12 if width >= 768 else max(1, width // 16),
        fusion=shapes["scratch.layer1_rn.weight"][0],
        grid=round((shapes["pretrained.model.pos_embed"][1] - 1) ** 0.5),
    )
