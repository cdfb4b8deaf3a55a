"""The autoencoder of Stable Video Diffusion: encoder, image decoder, temporal decoder.

Latents are at 1/8 size with 4 channels. What the sampler works on is 0.18215 times the encoder's mean; the
latent that a picture is conditioned on is not scaled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.unets.unet_3d_blocks import MidBlockTemporalDecoder
from torch import nn

from backend.models.rules import Rule, Take, identity_kernel, squeezed
from shared_protocol.errors import InvalidInput

LATENT_SCALE = 0.18215
NORM_GROUPS = 32

_SUPPORTED = {
    "attn_type": ("vanilla", "vanilla-xformers"),
    "attn_resolutions": ([], ()),
    "double_z": (True,),
    "resamp_with_conv": (True,),
    "use_linear_attn": (False,),
    "tanh_out": (False,),
    "give_pre_end": (False,),
    "time_mode": ("conv-only",),
    "alpha": (0.0,),
    "merge_strategy": ("learned",),
}
_WITHOUT_EFFECT = {"resolution", "dropout", "ignorekwargs"}


@dataclass(frozen=True)
class VaeSettings:
    """Sizes; the defaults are the published ones.

    channels  of each level, the finest first
    blocks    residual blocks a level (one more in the decoders)
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    in_channels: int = 3
    out_channels: int = 3

    @property
    def factor(self) -> int:
        """Pixels of a latent's edge."""
        return 2 ** (len(self.channels) - 1)

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> Self:
        """From the reference's `ddconfig`; InvalidInput for what the modules here do not implement."""
        config = dict(config)
        for name, allowed in _SUPPORTED.items():
            if name in config and (value := config.pop(name)) not in allowed:
                raise InvalidInput(f"the autoencoder's {name} is {value}", f"{allowed[0]}")
        kernel = config.pop("video_kernel_size", [3, 1, 1])
        if list(kernel) != [3, 1, 1]:
            raise InvalidInput(f"the autoencoder's video_kernel_size is {kernel}", "[3, 1, 1]")
        for name in _WITHOUT_EFFECT & set(config):
            del config[name]
        base, multiples = config.pop("ch"), tuple(config.pop("ch_mult"))
        if multiples[0] != 1:  # the blocks' first convolution makes the first level's channels
            raise InvalidInput(f"the autoencoder's ch_mult begins with {multiples[0]}", "1")
        if base % NORM_GROUPS:
            raise InvalidInput(f"the autoencoder's ch is {base}", f"a multiple of {NORM_GROUPS}")
        settings = cls(
            channels=tuple(base * m for m in multiples),
            blocks=config.pop("num_res_blocks"),
            latent_channels=config.pop("z_channels"),
            in_channels=config.pop("in_channels", 3),
            out_channels=config.pop("out_ch", 3),
        )
        if config:
            raise InvalidInput(f"the autoencoder's settings {', '.join(config)} are unknown", "ddconfig's")
        return settings


class VaeEncoder(nn.Module):
    """Pictures to latents."""

    def __init__(self, settings: VaeSettings) -> None:
        super().__init__()
        self.encoder = Encoder(
            in_channels=settings.in_channels,
            out_channels=settings.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(settings.channels),
            block_out_channels=settings.channels,
            layers_per_block=settings.blocks,
        )
        self.quant_conv = nn.Conv2d(2 * settings.latent_channels, 2 * settings.latent_channels, 1)

    def moments(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, H, W] in [-1, 1] -> mean and standard deviation of the latents, [N, 4, H/8, W/8] each."""
        inner = pictures.to(self.quant_conv.weight.dtype)
        mean, log_variance = self.quant_conv(self.encoder(inner)).to(pictures.dtype).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))


class ImageDecoder(nn.Module):
    """Latents to pictures, each frame alone (Hi3D, SV3D)."""

    def __init__(self, settings: VaeSettings) -> None:
        super().__init__()
        self.decoder = Decoder(
            in_channels=settings.latent_channels,
            out_channels=settings.out_channels,
            up_block_types=("UpDecoderBlock2D",) * len(settings.channels),
            block_out_channels=settings.channels,
            layers_per_block=settings.blocks,
        )
        self.post_quant_conv = nn.Conv2d(settings.latent_channels, settings.latent_channels, 1)

    def forward(self, latents: torch.Tensor, frames: int) -> torch.Tensor:
        """[B * T, 4, h, w], already divided by LATENT_SCALE -> [B * T, 3, 8h, 8w]."""
        inner = latents.to(self.post_quant_conv.weight.dtype)
        return self.decoder(self.post_quant_conv(inner)).to(latents.dtype)


class VideoDecoder(nn.Module):
    """Latents to frames that look at their neighbours (SVD, V3D)."""

    def __init__(self, settings: VaeSettings) -> None:
        super().__init__()
        self.decoder = TemporalDecoder(
            in_channels=settings.latent_channels,
            out_channels=settings.out_channels,
            block_out_channels=settings.channels,
            layers_per_block=settings.blocks,
        )
        # The published middle has two residual blocks whatever the levels have.
        width = settings.channels[-1]
        self.decoder.mid_block = MidBlockTemporalDecoder(width, width, attention_head_dim=width, num_layers=2)

    def forward(self, latents: torch.Tensor, frames: int) -> torch.Tensor:
        """[B * T, 4, h, w], already divided by LATENT_SCALE -> [B * T, 3, 8h, 8w]; frames: T."""
        inner = latents.to(self.decoder.conv_in.weight.dtype)
        still = torch.zeros(len(latents) // frames, frames, dtype=inner.dtype, device=latents.device)
        return self.decoder(inner, image_only_indicator=still, num_frames=frames).to(latents.dtype)


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
_RESAMPLE = {"downsamplers": "downsample", "upsamplers": "upsample"}
_TEMPORAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}


def vae_rule(settings: VaeSettings) -> Rule:
    """The published names, below "first_stage_model." or a conditioner's "encoder.", for the modules here."""
    levels = len(settings.channels)

    def rule(name: str) -> Take:
        words = name.split(".")
        ending = words[-1]
        if words[0] in ("quant_conv", "post_quant_conv"):
            return Take(name, absent=identity_kernel)
        half, rest = words[0], words[1:]
        if rest[0] == "conv_norm_out":
            return Take(f"{half}.norm_out.{ending}")
        if rest[0] == "time_conv_out":
            return Take(f"{half}.conv_out.time_mix_conv.{ending}")
        if rest[0] == "mid_block" and rest[1] == "attentions":
            return Take(f"{half}.mid.attn_1.{_ATTENTION[rest[3]]}.{ending}", change=squeezed)
        if rest[0] == "mid_block":
            return Take(f"{half}.mid.block_{int(rest[2]) + 1}.{_residual(rest[3:])}")
        if rest[0] in ("down_blocks", "up_blocks"):
            level = int(rest[1])
            side = f"down.{level}" if rest[0] == "down_blocks" else f"up.{levels - 1 - level}"
            if rest[2] == "resnets":
                return Take(f"{half}.{side}.block.{rest[3]}.{_residual(rest[4:])}")
            return Take(f"{half}.{side}.{_RESAMPLE[rest[2]]}.conv.{ending}")
        return Take(name)

    return rule


def _residual(words: list[str]) -> str:
    if words[0] == "temporal_res_block":
        return f"time_stack.{_TEMPORAL[words[1]]}.{words[2]}"
    words = [word for word in words if word not in ("spatial_res_block", "time_mixer")]
    return ".".join("nin_shortcut" if word == "conv_shortcut" else word for word in words)
