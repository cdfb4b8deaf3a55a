"""Tiny checkpoints in the published layouts, made by the key rules run backwards, with weights of a rule."""

import collections
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from backend.evaluation.fixtures import rule_weight
from backend.models import clip, layouts, midas, unet, vae
from backend.models.rules import parameters_of, published_shape

VAE = vae.VaeSettings(channels=(32, 32, 32, 32), blocks=1)
CLIP = clip.ClipSettings(width=32, inner=64, layers=2, heads=2, patch=7, pixels=14, token=24)
AESTHETIC = clip.ClipSettings(width=32, inner=64, layers=1, heads=2, patch=7, pixels=14, token=16, quick=True)
DEPTH = midas.DepthSettings(
    stem=16, stages=(32, 32, 64), depths=(1, 1, 1), width=32, inner=64, heads=2, fusion=16, grid=4
)
SIZES = {
    layouts.CLIP: CLIP,
    layouts.ENCODER: VAE,
    layouts.IMAGE_DECODER: VAE,
    layouts.VIDEO_DECODER: VAE,
    layouts.AESTHETIC: AESTHETIC,
    layouts.DEPTH: DEPTH,
}
TEXT = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.weight")


@dataclass(frozen=True)
class Published:
    """How a file is wrapped: the dictionary around it, and what stands before every name."""

    wrapper: str = ""
    prefix: str = ""
    suffix: str = ".safetensors"


WRAPPED = {
    "hi3d_stage1": Published("module", "module.", ".pt"),
    "hi3d_stage2": Published("module", "module.", ".pt"),
    "v3d_object": Published("state_dict", "", ".ckpt"),
}


def settings_of(layout: layouts.Layout, part: layouts.Part):
    """Tiny sizes of a part; its UNet has the layout's own two widths."""
    if part.network is layouts.UNET:
        return unet.UNetSettings(
            in_channels=layout.in_channels,
            vector_width=layout.vector_width,
            channels=(32, 64),
            attention=(True, False),
            blocks=1,
            head_width=32,
            context_width=CLIP.token,
        )
    return SIZES[part.network]


def tensors(name: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Every tensor of a tiny file of this layout, unwrapped."""
    return {key: tensor.to(dtype, copy=True) for key, tensor in _ruled(name).items()}


@functools.cache
def _ruled(name: str) -> dict[str, torch.Tensor]:
    layout = layouts.LAYOUTS[name]
    found = {}
    for part in layout.parts:
        settings = settings_of(layout, part)
        rule = part.network.rule(settings)
        absent_are_there = not (name == "v3d_object" or part.prefix == "first_stage_model.")
        for parameter, shape in parameters_of(layouts.build_on_meta(part.network, settings)).items():
            take = rule(parameter)
            if take.absent is not None and not (absent_are_there or "image" in _decoder(layout)):
                continue
            full = part.prefix + take.source
            found[full] = torch.from_numpy(rule_weight(take.source, published_shape(take, shape)))
    if any(part.network is layouts.CLIP for part in layout.parts):
        start = layout.part("clip").prefix
        found |= {start + text: torch.zeros(3) for text in TEXT}
    return found


def _decoder(layout: layouts.Layout) -> str:
    """Whether its first stage is the image autoencoder, which has quant_conv."""
    image = any(part.network is layouts.IMAGE_DECODER and part.used for part in layout.parts)
    return "image" if image and layout.name.startswith("hi3d") else "video"


def write(folder: Path, name: str, dtype: torch.dtype = torch.float32, changed: dict | None = None) -> Path:
    """A file as its publisher wraps it; changed: tensors put in instead (None: left out)."""
    how = WRAPPED.get(name, Published())
    found = tensors(name, dtype)
    for key, value in (changed or {}).items():
        if value is None:
            del found[key]
        else:
            found[key] = value
    path = folder / f"{name}{how.suffix}"
    if how.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in found.items()}, path)
        return path
    named = collections.OrderedDict((how.prefix + key, value) for key, value in found.items())
    extras = {"param_shapes": [torch.Size([2])], "dp_world_size": 8, "ds_version": "0.10", "shared": set()}
    torch.save({how.wrapper: named, **extras} if how.prefix else {how.wrapper: named}, path)
    return path


STRENGTH = 12.0
"""Of the picture in the crafted net's answer, next to unit noise."""


def crafted(name: str) -> dict[str, torch.Tensor]:
    """Weights with which a tiny model draws the picture it is given, dark on white, in every view.

    Every residual branch is zero; one feature carries the darkness of the picture through encoder, UNet and
    decoder. What is left are norms, activations, resampling: the loops around the nets do their real work.
    """
    found = {}
    for key, tensor in tensors(name).items():
        norm = tensor.ndim == 1 and key.endswith("weight")
        found[key] = torch.ones_like(tensor) if norm else torch.zeros_like(tensor)
    for key, tensor in found.items():
        if key.endswith("quant_conv.weight"):
            tensor[:, :, 0, 0] = torch.eye(len(tensor))
        elif key.endswith(("downsample.conv.weight", "upsample.conv.weight")):
            tensor[0, 0] = 1 / 9
        elif key.endswith("encoder.conv_in.weight"):
            tensor[0, :, 1, 1] = -1 / 3
        elif key.endswith("encoder.conv_out.weight"):
            tensor[0, 0, 1, 1] = 1
        elif key.endswith("encoder.conv_out.bias"):
            tensor[4:] = -30
        elif key.endswith("decoder.conv_in.weight"):
            tensor[0, 0, 1, 1] = 1
        elif key.endswith("decoder.conv_out.weight"):
            tensor[:, 0, 1, 1] = torch.tensor([-1.0, -0.8, -0.6])
        elif key.endswith("decoder.conv_out.bias"):
            tensor[:] = 1.2
        elif key.endswith("time_mix_conv.weight"):
            tensor[:, :, 1, 0, 0] = torch.eye(3)
        elif key.endswith("input_blocks.0.0.weight"):
            tensor[0, -4, 1, 1] = 1  # the condition's first latent
        elif key.endswith("output_blocks.3.0.skip_connection.weight"):
            tensor[0, 32, 0, 0] = 1  # what the first convolution made
        elif key.endswith("diffusion_model.out.2.weight"):
            tensor[0, 0, 1, 1] = -STRENGTH
    return found


if __name__ == "__main__":  # for tests without torch of their own: FOLDER NAME ...
    for wanted in sys.argv[2:]:
        write(Path(sys.argv[1]), wanted, changed=crafted(wanted))
