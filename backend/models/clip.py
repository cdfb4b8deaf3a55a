"""CLIP's picture encoder: the token that the video nets' cross-attention looks at; Hi3D's aesthetic score.

OpenCLIP ViT-H/14 (laion2b) in the SVD family, OpenAI's ViT-L/14 under the aesthetic predictor; both through
transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from backend.models.rules import Take, Third, transposed

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipSettings:
    """Sizes; the defaults are ViT-H/14's.

    pixels  edge of the pictures; token  width of what comes out; quick  OpenAI's approximate GELU
    """

    width: int = 1280
    inner: int = 5120
    layers: int = 32
    heads: int = 16
    patch: int = 14
    pixels: int = 224
    token: int = 1024
    quick: bool = False


VIT_L = ClipSettings(width=1024, inner=4096, layers=24, heads=16, token=768, quick=True)


class ClipVision(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1] -> tokens [N, token]."""

    def __init__(self, settings: ClipSettings) -> None:
        super().__init__()
        self.settings = settings
        self.net = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=settings.width,
                intermediate_size=settings.inner,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                patch_size=settings.patch,
                image_size=settings.pixels,
                projection_dim=settings.token,
                hidden_act="quick_gelu" if settings.quick else "gelu",
            )
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        edge = self.settings.pixels
        return self.tokens(normalised(resized(pictures, (edge, edge))))

    def tokens(self, prepared: torch.Tensor) -> torch.Tensor:
        """Of pictures that have CLIP's size and statistics already."""
        kind = self.net.visual_projection.weight.dtype
        return self.net(pixel_values=prepared.to(kind)).image_embeds.to(prepared.dtype)


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> CLIP's statistics."""
    mean, std = (torch.tensor(values).to(pictures)[:, None, None] for values in (MEAN, STD))
    return ((pictures + 1) / 2 - mean) / std


def resized(pictures: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bicubic after a Gaussian blur of (factor - 1) / 2 pixels, as in the published preprocessing."""
    factors = [have / want for have, want in zip(pictures.shape[2:], size, strict=True)]
    channels = pictures.shape[1]
    for axis, factor in enumerate(factors):
        sigma = max((factor - 1) / 2, 0.001)
        width = int(max(4 * sigma, 3)) // 2 * 2 + 1
        place = torch.arange(width, dtype=pictures.dtype, device=pictures.device) - width // 2
        kernel = torch.exp(-(place**2) / (2 * torch.tensor(sigma).to(place) ** 2))
        kernel = kernel / kernel.sum()
        shape = (width, 1) if axis == 0 else (1, width)
        half = width // 2
        border = (0, 0, half, half) if axis == 0 else (half, half, 0, 0)
        padded = F.pad(pictures, border, mode="reflect")
        pictures = F.conv2d(padded, kernel.reshape(1, 1, *shape).repeat(channels, 1, 1, 1), groups=channels)
    return F.interpolate(pictures, size=tuple(size), mode="bicubic", align_corners=True)


_ATTENTION = ("q_proj", "k_proj", "v_proj")
_PLAIN = {
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}
_EMBEDDINGS = {
    "class_embedding": "class_embedding",
    "patch_embedding.weight": "conv1.weight",
    "position_embedding.weight": "positional_embedding",
}

TEXT_LEFTOVERS = frozenset(
    {
        "positional_embedding",
        "text_projection",
        "logit_scale",
        "token_embedding.weight",
        "ln_final.weight",
        "ln_final.bias",
    }
)
"""Of the text half, which the published files carry along unused."""


def clip_rule(name: str) -> Take:
    """Names below "...open_clip.model." (or "aesthetic_model.") for `ClipVision`."""
    name = name.removeprefix("net.")
    if name == "visual_projection.weight":
        return Take("visual.proj", transposed)
    words = name.removeprefix("vision_model.").split(".")
    if words[0] == "embeddings":
        return Take(f"visual.{_EMBEDDINGS['.'.join(words[1:])]}")
    if words[0] in _PLAIN:
        return Take(f"visual.{_PLAIN[words[0]]}.{words[1]}")
    layer, inside, ending = f"visual.transformer.resblocks.{words[2]}", words[3:-1], words[-1]
    if inside[0] == "self_attn" and inside[1] in _ATTENTION:
        return Take(f"{layer}.attn.in_proj_{ending}", Third(_ATTENTION.index(inside[1])))
    if inside[0] == "self_attn":
        return Take(f"{layer}.attn.out_proj.{ending}")
    return Take(f"{layer}.{_PLAIN[inside[-1]]}.{ending}")


class Aesthetic(nn.Module):
    """Hi3D's score of a picture: ViT-L/14 and LAION's predictor, 768-1024-128-64-16-1."""

    WIDTHS = (1024, 128, 64, 16, 1)
    PLACES = (0, 2, 4, 6, 7)
    """Of the linear layers in the published sequence; dropouts stand between, nothing bends."""

    def __init__(self, settings: ClipSettings = VIT_L) -> None:
        super().__init__()
        self.aesthetic_model = ClipVision(settings)
        widths = (settings.token, *self.WIDTHS)
        self.aesthetic_mlp = nn.ModuleDict(
            {str(place): nn.Linear(*widths[i : i + 2]) for i, place in enumerate(self.PLACES)}
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N]: stretched to 224 x 384, the middle 224 columns looked at."""
        edge = self.aesthetic_model.settings.pixels
        wide = edge * 12 // 7
        side = (wide - edge) // 2
        small = F.interpolate(pictures, (edge, wide), mode="bilinear")[..., side : side + edge]
        features = F.normalize(self.aesthetic_model.tokens(normalised(small)), dim=-1)
        for place in self.PLACES:
            layer = self.aesthetic_mlp[str(place)]
            features = layer(features.to(layer.weight.dtype))
        return features[:, 0].float()


def aesthetic_rule(name: str) -> Take:
    """Names below "conditioner.embedders.1." for `Aesthetic`."""
    if name.startswith("aesthetic_mlp."):
        return Take(name.replace("aesthetic_mlp.", "aesthetic_mlp.layers."))
    return clip_rule(name.removeprefix("aesthetic_model.")).below("aesthetic_model.")
