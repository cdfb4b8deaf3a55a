"""OpenCLIP's vision transformer and MiDaS' DPT-hybrid written out in plain functions of their published
tensors: oracles for the modules that are built of a library's blocks.

`weights` is what a file holds: name -> tensor. Written from the papers and the published names: Radford
2021; Ranftl 2021 over Dosovitskiy 2021 (hybrid) and Kolesnikov 2020 (weight standardisation, group norm).
"""

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


def _linear(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _layer_norm(x: torch.Tensor, weights: Weights, name: str, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def _attention(packed: torch.Tensor, heads: int) -> torch.Tensor:
    """[N, L, 3 W] query, key, value side by side -> [N, L, W]."""
    count, length, wide = packed.shape
    query, key, value = packed.reshape(count, length, 3, heads, wide // 3 // heads).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, length, wide // 3)


def clip_vision(pictures: torch.Tensor, weights: Weights, heads: int, quick: bool = False) -> torch.Tensor:
    """Prepared pictures [N, 3, H, H] -> projected tokens; names below "visual."."""
    patch = weights["conv1.weight"].shape[-1]
    x = F.conv2d(pictures, weights["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    first = weights["class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], dim=1) + weights["positional_embedding"]
    x = _layer_norm(x, weights, "ln_pre", 1e-5)
    layer = 0
    while f"transformer.resblocks.{layer}.ln_1.weight" in weights:
        block = f"transformer.resblocks.{layer}"
        inner = _layer_norm(x, weights, f"{block}.ln_1", 1e-5)
        packed = F.linear(
            inner, weights[f"{block}.attn.in_proj_weight"], weights[f"{block}.attn.in_proj_bias"]
        )
        x = x + _linear(_attention(packed, heads), weights, f"{block}.attn.out_proj")
        inner = _linear(_layer_norm(x, weights, f"{block}.ln_2", 1e-5), weights, f"{block}.mlp.c_fc")
        inner = inner * torch.sigmoid(1.702 * inner) if quick else F.gelu(inner)
        x = x + _linear(inner, weights, f"{block}.mlp.c_proj")
        layer += 1
    return _layer_norm(x[:, 0], weights, "ln_post", 1e-5) @ weights["proj"]


def _same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Padded so that ceil(edge / stride) places come out, the odd pixel behind."""
    sides = []
    for edge in (x.shape[3], x.shape[2]):
        short = max((-(-edge // stride) - 1) * stride + kernel - edge, 0)
        sides += [short // 2, short - short // 2]
    return F.pad(x, sides, value=value)


def _standard_conv(x: torch.Tensor, weight: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """A convolution whose kernels have mean 0 and variance 1."""
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return F.conv2d(
        _same(x, weight.shape[-1], stride), (weight - mean) / (variance + 1e-8).sqrt(), None, stride
    )


def _group_norm(x: torch.Tensor, weights: Weights, name: str, groups: int) -> torch.Tensor:
    return F.group_norm(x, groups, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def _resnet(x: torch.Tensor, weights: Weights, groups: int) -> list[torch.Tensor]:
    """What the three stages give; names below "pretrained.model.patch_embed.backbone."."""
    root = "pretrained.model.patch_embed.backbone."
    x = _standard_conv(x, weights[f"{root}stem.conv.weight"], 2)
    x = F.relu(_group_norm(x, weights, f"{root}stem.norm", groups))
    x = F.max_pool2d(_same(x, 3, 2, -float("inf")), 3, 2)
    found = []
    for stage in range(3):
        number = 0
        while f"{root}stages.{stage}.blocks.{number}.conv1.weight" in weights:
            block = f"{root}stages.{stage}.blocks.{number}"
            stride = 2 if stage and not number else 1
            kept = x
            if f"{block}.downsample.conv.weight" in weights:
                kept = _standard_conv(x, weights[f"{block}.downsample.conv.weight"], stride)
                kept = _group_norm(kept, weights, f"{block}.downsample.norm", groups)
            for part, step in ((1, 1), (2, stride), (3, 1)):
                x = _standard_conv(x, weights[f"{block}.conv{part}.weight"], step)
                x = _group_norm(x, weights, f"{block}.norm{part}", groups)
                x = F.relu(x) if part < 3 else F.relu(x + kept)
            number += 1
        found.append(x)
    return found


def _conv(x: torch.Tensor, weights: Weights, name: str, stride: int = 1) -> torch.Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight, weights.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def midas_depth(pictures: torch.Tensor, weights: Weights, heads: int, groups: int) -> torch.Tensor:
    """[N, 3, H, W] -> [N, H, W]; the names of dpt_hybrid_384.pt."""
    first, second, third = _resnet(pictures, weights, groups)
    vit = "pretrained.model."
    rows, columns = third.shape[2:]
    x = _conv(third, weights, f"{vit}patch_embed.proj").flatten(2).transpose(1, 2)
    places = weights[f"{vit}pos_embed"]
    edge = round((places.shape[1] - 1) ** 0.5)
    grid = places[:, 1:].reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (rows, columns), mode="bilinear").flatten(2).transpose(1, 2)
    x = torch.cat([weights[f"{vit}cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + torch.cat([places[:, :1], grid], dim=1)
    read = []
    for number in range(12):
        block = f"{vit}blocks.{number}"
        packed = _linear(_layer_norm(x, weights, f"{block}.norm1", 1e-6), weights, f"{block}.attn.qkv")
        x = x + _linear(_attention(packed, heads), weights, f"{block}.attn.proj")
        inner = _linear(_layer_norm(x, weights, f"{block}.norm2", 1e-6), weights, f"{block}.mlp.fc1")
        x = x + _linear(F.gelu(inner), weights, f"{block}.mlp.fc2")
        if number in (8, 11):
            post = f"pretrained.act_postprocess{3 if number == 8 else 4}"
            beside = torch.cat([x[:, 1:], x[:, :1].expand_as(x[:, 1:])], dim=-1)
            tokens = F.gelu(_linear(beside, weights, f"{post}.0.project.0"))
            picture = tokens.transpose(1, 2).unflatten(2, (rows, columns))
            picture = _conv(picture, weights, f"{post}.3")
            read.append(_conv(picture, weights, f"{post}.4", 2) if number == 11 else picture)

    def unit(x: torch.Tensor, name: str) -> torch.Tensor:
        inner = _conv(F.relu(x), weights, f"{name}.conv1")
        return x + _conv(F.relu(inner), weights, f"{name}.conv2")

    path = None
    for level, picture in ((4, read[1]), (3, read[0]), (2, second), (1, first)):
        here = _conv(picture, weights, f"scratch.layer{level}_rn")
        block = f"scratch.refinenet{level}"
        path = here if path is None else path + unit(here, f"{block}.resConfUnit1")
        path = _conv(_twice(unit(path, f"{block}.resConfUnit2")), weights, f"{block}.out_conv")
    out = _twice(_conv(path, weights, "scratch.output_conv.0"))
    out = F.relu(_conv(out, weights, "scratch.output_conv.2"))
    return F.relu(_conv(out, weights, "scratch.output_conv.4"))[:, 0]
