"""The video UNet of Stable Video Diffusion and all that was trained from it: one class, three settings.

    in_channels       8 (noise 4, condition latent 4), 17 (Hi3D stage 2: noise 4, depth 9, latent 4),
                      136 (V3D scenes: noise 4, latent 4, features 128)
    vector_width      of the conditioning vector: 768, 512, 1280, 256 (see `conditioning`)
    vector per sample, or per frame (SV3D_p)

Built of diffusers' blocks; the forward pass is ours, because diffusers' takes three equally wide numbers per
sample only. Stable Video Diffusion, Blattmann 2023; layout of generative-models' VideoUNet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.unets.unet_3d_blocks import UNetMidBlockSpatioTemporal
from torch import nn

from backend.models.rules import Change, Take, squeezed, unchanged
from shared_protocol.errors import InvalidInput

GROUPNORM_EPS = 1e-5
"""Of the residual blocks in the published nets; diffusers builds most of them with 1e-6, which shows as
4.8e-5 in the output of a net of unit-variance activations."""
NORM_GROUPS = 32

_REFERENCE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "num_classes": (None, ("sequential",)),
    "use_spatial_context": (False, (True,)),
    "merge_strategy": ("fixed", ("learned", "learned_with_images")),
    "video_kernel_size": (3, ([3, 1, 1], (3, 1, 1))),
    "spatial_transformer_attn_type": ("softmax", ("softmax", "softmax-xformers")),
    "use_scale_shift_norm": (False, (False,)),
    "resblock_updown": (False, (False,)),
    "conv_resample": (True, (True,)),
    "dims": (2, (2,)),
    "time_downup": (False, (False,)),
    "time_context_dim": (None, (None,)),
    "disable_temporal_crossattention": (False, (False, None)),
    "disable_self_attentions": (None, (None, False)),
    "max_ddpm_temb_period": (10000, (10000,)),
}
"""Switches of the published configuration: what the reference class takes where one is absent, and the values
that the blocks here implement."""
_WITHOUT_EFFECT = {
    "use_checkpoint",
    "dropout",
    "use_fp16",
    "legacy",
    "image_size",
    "merge_factor",  # where the learned mixing starts
    "num_heads_upsample",  # read by no block of the reference
    "extra_ff_mix_layer",  # the reference's blocks have that layer either way
}
"""Of the published configuration: nothing in a forward pass without training depends on them."""


@dataclass(frozen=True)
class UNetSettings:
    """Sizes of a UNet; the defaults are SVD-XT's.

    channels         of each level, the finest first
    attention        per level: whether it has transformers
    blocks           residual blocks a level
    head_width       channels of an attention head
    heads            of every transformer, whatever its width; 0: as many as `head_width` gives
    context_width    of the tokens that cross-attention looks at
    depth            transformer blocks in each transformer; where they differ, of each level, then of the
                     middle
    linear           whether transformers begin and end with linear layers; False: 1x1 convolutions
    """

    in_channels: int = 8
    vector_width: int = 768
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    blocks: int = 2
    head_width: int = 64
    context_width: int = 1024
    depth: int | tuple[int, ...] = 1
    heads: int = 0
    linear: bool = True

    @property
    def depths(self) -> tuple[int, ...]:
        """Of each level, then of the middle."""
        return (self.depth,) * (len(self.channels) + 1) if isinstance(self.depth, int) else self.depth

    @property
    def heads_at(self) -> tuple[int, ...]:
        """Heads of each level's transformers; the middle has the last level's."""
        return tuple(self.heads or width // self.head_width for width in self.channels)

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> Self:
        """From the arguments of the reference class, as its YAML files have them.

        InvalidInput for an argument that no block here implements.
        """
        config = dict(config)
        for name, (absent, allowed) in _REFERENCE.items():
            value = config.pop(name, absent)
            if value not in allowed:
                raise InvalidInput(f"the UNet's {name} is {value}", " or ".join(map(str, allowed)))
        for name in _WITHOUT_EFFECT & set(config):
            del config[name]
        base = config.pop("model_channels")
        channels = tuple(base * multiple for multiple in config.pop("channel_mult", (1, 2, 4, 8)))
        if channels[0] != base:  # the reference's last convolution takes model_channels
            raise InvalidInput(f"the UNet's channel_mult begins with {channels[0] // base}", "1")
        resolutions = config.pop("attention_resolutions")
        middle = config.pop("transformer_depth_middle", None)
        width, heads = config.pop("num_head_channels", -1), config.pop("num_heads", -1)
        settings = cls(
            in_channels=config.pop("in_channels"),
            vector_width=config.pop("adm_in_channels"),
            out_channels=config.pop("out_channels"),
            channels=channels,
            attention=tuple(2**level in resolutions for level in range(len(channels))),
            blocks=_one_number("num_res_blocks", config.pop("num_res_blocks")),
            head_width=0 if width == -1 else width,
            context_width=config.pop("context_dim"),
            depth=_depth(config.pop("transformer_depth", 1), middle, len(channels)),
            heads=heads if width == -1 else 0,  # the reference looks at the number only without a width
            linear=bool(config.pop("use_linear_in_transformer", False)),
        )
        if config:
            raise InvalidInput(f"the UNet's settings {', '.join(config)} are unknown", "those of VideoUNet")
        settings._check()
        return settings

    def _check(self) -> None:
        """InvalidInput for sizes that the reference class could not be built with either."""
        if self.heads < 0 or self.head_width < 0 or not (self.heads or self.head_width):
            raise InvalidInput("the UNet's attention has no heads", "num_head_channels or num_heads")
        for width, heads in zip(self.channels, self.heads_at, strict=True):
            if width % NORM_GROUPS:
                raise InvalidInput(
                    f"the UNet has a level of {width} channels", f"a multiple of {NORM_GROUPS}"
                )
            if not heads or width % heads or (self.head_width and width % self.head_width):
                raise InvalidInput(
                    f"{width} channels do not divide into {heads or 'no'} heads of equal width",
                    "num_head_channels or num_heads that divide every level's channels",
                )


def _one_number(name: str, value: Any) -> int:
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) != 1:
        raise InvalidInput(f"the UNet's {name} differs from level to level ({value})", "one number")
    return int(values.pop())


def _depth(levels: Any, middle: int | None, count: int) -> int | tuple[int, ...]:
    """`UNetSettings.depth` of the published transformer_depth and transformer_depth_middle."""
    given = [int(d) for d in levels] if isinstance(levels, (list, tuple)) else [int(levels)] * count
    if len(given) != count:
        raise InvalidInput(
            f"the UNet's transformer_depth is {levels}", f"a number, or one for each of {count}"
        )
    depths = (*given, given[-1] if middle is None else int(middle))
    return depths[0] if len(set(depths)) == 1 else depths


class VideoUNet(nn.Module):
    """Predicts what `sampling.denoise` asks of it, for frames that look at one another."""

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        down = [
            "CrossAttnDownBlockSpatioTemporal" if a else "DownBlockSpatioTemporal" for a in settings.attention
        ]
        up = ["CrossAttnUpBlockSpatioTemporal" if a else "UpBlockSpatioTemporal" for a in settings.attention]
        self.net = UNetSpatioTemporalConditionModel(
            in_channels=settings.in_channels,
            out_channels=settings.out_channels,
            down_block_types=tuple(down),
            up_block_types=tuple(reversed(up)),
            block_out_channels=settings.channels,
            projection_class_embeddings_input_dim=settings.vector_width,
            layers_per_block=settings.blocks,
            cross_attention_dim=settings.context_width,
            transformer_layers_per_block=settings.depths[:-1],
            num_attention_heads=settings.heads_at,
        )
        if settings.depths[-1] != settings.depths[-2]:
            self.net.mid_block = UNetMidBlockSpatioTemporal(
                settings.channels[-1],
                temb_channels=4 * settings.channels[0],
                transformer_layers_per_block=settings.depths[-1],
                cross_attention_dim=settings.context_width,
                num_attention_heads=settings.heads_at[-1],
            )
        _mend_eps(self.net)

    def forward(
        self,
        sample: torch.Tensor,  # [B * T, in_channels, H, W]
        noise_level: torch.Tensor,  # [B] or [B * T], the sampler's c_noise
        context: torch.Tensor,  # [B or B * T, tokens, context_width]
        vector: torch.Tensor,  # [B or B * T, vector_width]
        frames: int,
        alone: torch.Tensor | None = None,  # [B, T]: 1 for pictures that look at no other frame
    ) -> torch.Tensor:
        """Returns [B * T, out_channels, H, W] in the sample's precision; inside, the parameters' is used."""
        net = self.net
        given, sample = sample.dtype, sample.to(net.conv_in.weight.dtype)
        samples = len(sample) // frames

        def framed(rows: torch.Tensor) -> torch.Tensor:
            return rows if len(rows) == len(sample) else rows.repeat_interleave(frames, dim=0)

        time = net.time_embedding(net.time_proj(noise_level).to(sample.dtype))
        embedding = framed(time) + framed(net.add_embedding(vector.to(sample.dtype)))  # [B * T, E]
        context = framed(context.to(sample.dtype))
        if alone is None:
            alone = torch.zeros(samples, frames, dtype=sample.dtype, device=sample.device)

        def known(block: nn.Module) -> dict[str, torch.Tensor]:
            words = {"temb": embedding, "image_only_indicator": alone}
            return words | {"encoder_hidden_states": context} if _attends(block) else words

        hidden = net.conv_in(sample)
        skipped = (hidden,)
        for block in net.down_blocks:
            hidden, passed = block(hidden_states=hidden, **known(block))
            skipped += passed
        hidden = net.mid_block(hidden, embedding, context, alone)
        for number, block in enumerate(net.up_blocks):
            count = len(block.resnets)
            passed, skipped = skipped[-count:], skipped[:-count]
            size = tuple(skipped[-1].shape[2:]) if number < len(net.up_blocks) - 1 else None
            hidden = block(
                hidden_states=hidden, res_hidden_states_tuple=passed, upsample_size=size, **known(block)
            )
        return net.conv_out(net.conv_act(net.conv_norm_out(hidden))).to(given)


def _attends(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _mend_eps(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, (ResnetBlock2D, TemporalResnetBlock)):
            module.norm1.eps = module.norm2.eps = GROUPNORM_EPS


_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_rule(settings: UNetSettings):
    """The names of the published files, below "model.diffusion_model.", for `VideoUNet` of these settings."""
    level_blocks = settings.blocks + 1
    ends = unchanged if settings.linear else squeezed
    attention_up = settings.attention[::-1]

    def rule(name: str) -> Take:
        words = name.removeprefix("net.").split(".")
        ending = words[-1]
        stem = ".".join(words[:-1])
        if stem in _ENDS:
            return Take(f"{_ENDS[stem]}.{ending}")
        if words[0] == "mid_block":
            place, rest = f"middle_block.{_MIDDLE['.'.join(words[1:3])]}", words[3:]
            return Take(f"{place}.{_inside(words[1], rest)}", _change(rest, ends))
        level, kind, number = int(words[1]), words[2], int(words[3])
        rest = words[4:]
        if words[0] == "down_blocks":
            first = 1 + level * level_blocks
            if kind == "downsamplers":
                return Take(f"input_blocks.{first + settings.blocks}.0.op.{ending}")
            place = f"input_blocks.{first + number}.{0 if kind == 'resnets' else 1}"
        else:
            first = level * level_blocks
            if kind == "upsamplers":
                behind = 2 if attention_up[level] else 1
                return Take(f"output_blocks.{first + settings.blocks}.{behind}.conv.{ending}")
            place = f"output_blocks.{first + number}.{0 if kind == 'resnets' else 1}"
        return Take(f"{place}.{_inside(kind, rest)}", _change(rest, ends))

    return rule


def _change(words: list[str], ends: Change) -> Change:
    """Of a transformer's first or last layer; any other parameter is taken as it is."""
    return ends if words[0] in ("proj_in", "proj_out") and words[1] == "weight" else unchanged


def _inside(kind: str, words: list[str]) -> str:
    """The published name of what lies inside a residual block or a transformer."""
    if kind == "resnets":
        if words[0] == "time_mixer":
            return ".".join(words)
        block = "time_stack." if words[0] == "temporal_res_block" else ""
        return f"{block}{_RESIDUAL[words[1]]}.{words[2]}"
    if words[0] == "temporal_transformer_blocks":
        return ".".join(["time_stack", *words[1:]])
    if words[0] == "time_pos_embed":
        return f"time_pos_embed.{ {'linear_1': 0, 'linear_2': 2}[words[1]] }.{words[2]}"
    return ".".join(words)


def widened_input(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """The first convolution [O, C, 3, 3] for more channels behind the old ones, which it does not see yet."""
    grown = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    grown[:, : weight.shape[1]] = weight
    return grown


def second_stage_start(svd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hi3D's second stage before its training, from SVD's tensors (names below "model.diffusion_model.").

    Vector: 256 columns of zeros for the elevation, then SVD's of cond_aug. Input: SVD's noise, nine channels
    of zeros for the depth, SVD's condition.
    """
    vector, first = svd["label_emb.0.0.weight"], svd["input_blocks.0.0.weight"]
    depth = first.new_zeros(first.shape[0], 9, *first.shape[2:])
    return dict(svd) | {
        "label_emb.0.0.weight": torch.cat([torch.zeros_like(vector[:, :256]), vector[:, 512:]], dim=1),
        "input_blocks.0.0.weight": torch.cat([first[:, :4], depth, first[:, 4:]], dim=1),
    }
