"""MiDaS DPT-hybrid, the depth net inside Hi3D's second stage, through transformers.

Vision Transformers for Dense Prediction, Ranftl 2021: three stages of a ResNet with weight standardisation
under a ViT-B, read out after two of the stages and the transformer's blocks 9 and 12.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import BitConfig, DPTConfig, DPTForDepthEstimation

from backend.models.rules import Take, Third

READ_OUT = (2, 5, 8, 11)
"""Blocks; the hybrid takes the ResNet's stages in place of the first two."""


@dataclass(frozen=True)
class DepthSettings:
    """Sizes; the defaults are the published ones.

    stem    channels after the first convolution; stages  channels of the ResNet's three
    depths  its blocks; width, inner, heads  of the transformer; fusion  channels of the decoder
    grid    edge of the table of positions, in patches of 16 pixels
    """

    stem: int = 64
    stages: tuple[int, ...] = (256, 512, 1024)
    depths: tuple[int, ...] = (3, 4, 9)
    width: int = 768
    inner: int = 3072
    heads: int = 12
    fusion: int = 256
    grid: int = 24


class DepthNet(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1], edges multiples of 32 -> [N, H, W], larger is nearer."""

    def __init__(self, settings: DepthSettings) -> None:
        super().__init__()
        backbone = BitConfig(
            embedding_size=settings.stem,
            hidden_sizes=list(settings.stages),
            depths=list(settings.depths),
            layer_type="bottleneck",
            num_groups=min(32, settings.stem // 2),
            global_padding="same",
            embedding_dynamic_padding=True,
            out_features=["stage1", "stage2", "stage3"],
        )
        self.net = DPTForDepthEstimation(
            DPTConfig(
                is_hybrid=True,
                backbone_config=backbone,
                backbone_featmap_shape=[1, settings.stages[-1], settings.grid, settings.grid],
                hidden_size=settings.width,
                intermediate_size=settings.inner,
                num_hidden_layers=max(READ_OUT) + 1,
                num_attention_heads=settings.heads,
                image_size=16 * settings.grid,
                patch_size=16,
                layer_norm_eps=1e-6,  # timm's; transformers' own default is 1e-12
                backbone_out_indices=list(READ_OUT),
                neck_hidden_sizes=[settings.stages[0], settings.stages[1], settings.width, settings.width],
                reassemble_factors=[1, 1, 1, 0.5],
                fusion_hidden_size=settings.fusion,
                readout_type="project",
                use_batch_norm_in_fusion_residual=False,
            )
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        kind = self.net.head.head[0].weight.dtype
        rows, columns = (edge // 16 for edge in pictures.shape[2:])
        embedded = self.net.dpt.embeddings(pictures.to(kind), interpolate_pos_encoding=True)
        read = list(embedded.intermediate_activations)
        hidden = embedded.last_hidden_states
        for number, block in enumerate(self.net.dpt.encoder.layer):
            hidden = block(hidden)
            if number in READ_OUT[2:]:
                read.append(hidden)
        return self.net.head(self.net.neck(read, rows, columns)).to(pictures.dtype)


_ATTENTION = ("query", "key", "value")
_BLOCK = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_ENDS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
UNUSED = frozenset({"pretrained.model.head.weight", "pretrained.model.head.bias"})
"""The classifier of the pretrained transformer."""


def depth_rule(name: str) -> Take:
    """Names of dpt_hybrid_384.pt, or below "conditioner.embedders.2.model.model." in Hi3D's second stage."""
    name = name.removeprefix("net.")
    words = name.split(".")
    ending = words[-1]
    if name.startswith("dpt."):
        inner = name.removeprefix("dpt.")
        if inner in _ENDS:
            return Take(f"pretrained.model.{_ENDS[inner]}")
        if words[1] == "embeddings":  # embeddings.backbone.bit.(embedder | encoder).…
            place, rest = words[4], words[5:]
            rest = ["conv" if word == "convolution" else word for word in rest]
            rest = ["blocks" if word == "layers" else word for word in rest]
            rest = rest if place == "encoder" else ["stem", *rest]
            return Take("pretrained.model.patch_embed.backbone." + ".".join(rest))
        block, rest = f"pretrained.model.blocks.{words[3]}", ".".join(words[4:-1])
        if words[-2] in _ATTENTION:
            return Take(f"{block}.attn.qkv.{ending}", Third(_ATTENTION.index(words[-2])))
        return Take(f"{block}.{_BLOCK[rest]}.{ending}")
    if name.startswith("head.head."):
        return Take(name.replace("head.head.", "scratch.output_conv."))
    if words[1] == "convs":
        return Take(f"scratch.layer{int(words[2]) + 1}_rn.{ending}")
    if words[1] == "fusion_stage":
        unit = words[4].replace("residual_layer", "resConfUnit").replace("projection", "out_conv")
        rest = [word.replace("convolution", "conv") for word in words[5:]]
        return Take(".".join([f"scratch.refinenet{4 - int(words[3])}", unit, *rest]))
    stage = int(words[3])  # neck.reassemble_stage.(readout_projects | layers).i.…
    place = f"pretrained.act_postprocess{stage + 1}"
    if words[2] == "readout_projects":
        return Take(f"{place}.0.project.{words[4]}.{ending}")
    return Take(f"{place}.{3 if words[4] == 'projection' else 4}.{ending}")
