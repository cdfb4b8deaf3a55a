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
from torch import nn

from backend.models.rules import Take
from shared_protocol.errors import InvalidInput

GROUPNORM_EPS = 1e-5
"""Of the residual blocks in the published nets; diffusers builds most of them with 1e-6, which shows as
4.8e-5 in the output of a net of unit-variance activations."""

_SUPPORTED = {
    "num_classes": ("sequential",),
    "use_linear_in_transformer": (True,),
    "extra_ff_mix_layer": (True,),
    "use_spatial_context": (True,),
    "merge_strategy": ("learned", "learned_with_images"),
    "spatial_transformer_attn_type": ("softmax", "softmax-xformers"),
    "use_scale_shift_norm": (False,),
    "resblock_updown": (False,),
    "conv_resample": (True,),
    "disable_self_attentions": (None,),
    "dims": (2,),
}
"""Values of the published configuration's switches that the blocks here implement."""
_WITHOUT_EFFECT = {"use_checkpoint", "dropout", "use_fp16", "legacy", "image_size", "max_ddpm_temb_period"}
"""Of the published configuration: nothing in a forward pass without training depends on them."""


@dataclass(frozen=True)
class UNetSettings:
    """Sizes of a UNet; the defaults are SVD-XT's.

    channels         of each level, the finest first
    attention        per level: whether it has transformers
    blocks           residual blocks a level
    head_width       channels of an attention head
    context_width    of the tokens that cross-attention looks at
    depth            transformer blocks in each transformer
    """

    in_channels: int = 8
    vector_width: int = 768
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    blocks: int = 2
    head_width: int = 64
    context_width: int = 1024
    depth: int = 1

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> Self:
        """From the arguments of the reference class, as its YAML files have them.

        InvalidInput for an argument that no block here implements.
        """
        config = dict(config)
        for name, allowed in _SUPPORTED.items():
            if name in config and config.pop(name) not in allowed:
                raise InvalidInput(f"the UNet's {name} is of another kind", " or ".join(map(str, allowed)))
        kernel = config.pop("video_kernel_size", [3, 1, 1])
        if list(kernel if isinstance(kernel, (list, tuple)) else [kernel]) != [3, 1, 1]:
            raise InvalidInput(f"the UNet's video_kernel_size is {kernel}", "[3, 1, 1]")
        for name in _WITHOUT_EFFECT & set(config):
            del config[name]
        base = config.pop("model_channels")
        multiples = config.pop("channel_mult")
        resolutions = config.pop("attention_resolutions")
        blocks = config.pop("num_res_blocks")
        depth = config.pop("transformer_depth", 1)
        blocks, depth = (_one_number(n, v) for n, v in (("num_res_blocks", blocks), ("depth", depth)))
        settings = cls(
            in_channels=config.pop("in_channels"),
            vector_width=config.pop("adm_in_channels"),
            out_channels=config.pop("out_channels"),
            channels=tuple(base * m for m in multiples),
            attention=tuple(2**level in resolutions for level in range(len(multiples))),
            blocks=blocks,
            head_width=config.pop("num_head_channels"),
            context_width=config.pop("context_dim"),
            depth=depth,
        )
        if config:
            raise InvalidInput(f"the UNet's settings {', '.join(config)} are unknown", "those of VideoUNet")
        return settings


def _one_number(name: str, value: Any) -> int:
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) != 1:
        raise InvalidInput(f"the UNet's {name} differs from level to level ({value})", "one number")
    return int(values.pop())


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
            transformer_layers_per_block=settings.depth,
            num_attention_heads=tuple(c // settings.head_width for c in settings.channels),
        )
        _mend_eps(self.net)

    def forward(
        self,
        sample: torch.Tensor,  # [B * T, in_channels, H, W]
        noise_level: torch.Tensor,  # [B], the sampler's c_noise
        context: torch.Tensor,  # [B, tokens, context_width]
        vector: torch.Tensor,  # [B, vector_width], or [B * T, vector_width]
        frames: int,
    ) -> torch.Tensor:
        """Returns [B * T, out_channels, H, W] in the sample's precision; inside, the parameters' is used."""
        net = self.net
        given, sample = sample.dtype, sample.to(net.conv_in.weight.dtype)
        samples = len(sample) // frames
        time = net.time_embedding(net.time_proj(noise_level.expand(samples)).to(sample.dtype))
        embedding = time.repeat_interleave(frames, dim=0)  # [B * T, E]
        vector = net.add_embedding(vector.to(sample.dtype))
        embedding = embedding + (
            vector if len(vector) == len(sample) else vector.repeat_interleave(frames, 0)
        )
        context = context.to(sample.dtype).repeat_interleave(frames, dim=0)
        still = torch.zeros(samples, frames, dtype=sample.dtype, device=sample.device)

        def known(block: nn.Module) -> dict[str, torch.Tensor]:
            words = {"temb": embedding, "image_only_indicator": still}
            return words | {"encoder_hidden_states": context} if _attends(block) else words

        hidden = net.conv_in(sample)
        skipped = (hidden,)
        for block in net.down_blocks:
            hidden, passed = block(hidden_states=hidden, **known(block))
            skipped += passed
        hidden = net.mid_block(hidden, embedding, context, still)
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
    attention_up = settings.attention[::-1]

    def rule(name: str) -> Take:
        words = name.removeprefix("net.").split(".")
        ending = words[-1]
        stem = ".".join(words[:-1])
        if stem in _ENDS:
            return Take(f"{_ENDS[stem]}.{ending}")
        if words[0] == "mid_block":
            place, rest = f"middle_block.{_MIDDLE['.'.join(words[1:3])]}", words[3:]
            return Take(f"{place}.{_inside(words[1], rest)}")
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
        return Take(f"{place}.{_inside(kind, rest)}")

    return rule


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
