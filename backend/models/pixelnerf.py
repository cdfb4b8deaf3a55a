"""V3D's scene condition: features of source pictures, gathered along the rays of the views to make.

V3D section 3.4 (pixelNeRF, Yu 2021) with the sizes of its released code: 64 channels at a quarter of the
picture, 128 samples a ray, weights over the samples by softmax instead of densities.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

RGB, FEATURES, HIDDEN = 3, 128, 128


def _norm(channels: int) -> nn.BatchNorm2d:
    """The published nets keep no running statistics: what comes out depends on the whole batch."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _conv(channels: int, out: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=bias, padding_mode="reflect")


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, out, 3, stride), _norm(out)
        self.conv2, self.bn2 = _conv(out, out, 3), _norm(out)
        shortened = stride != 1 or channels != out
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), _norm(out)) if shortened else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + kept)


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.bn = _conv(channels, out, 3, bias=True), _norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.elu(self.bn(self.conv(x)))


class _Up(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = _ConvNorm(channels, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class ImageFeatures(nn.Module):
    """Pictures [N, 3, H, W] -> features [N, 64, H/4, W/4]; a ResNet-34 of three levels, half decoded."""

    def __init__(self, out: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 7, 2), _norm(64)
        self.layer1 = _level(64, 64, 3)
        self.layer2 = _level(64, 128, 4)
        self.layer3 = _level(128, 256, 6)
        self.upconv3, self.iconv3 = _Up(256, 128), _ConvNorm(256, 128)
        self.upconv2, self.iconv2 = _Up(128, 64), _ConvNorm(128, out)
        self.out_conv = nn.Conv2d(out, out, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        quarter = self.layer1(F.relu(self.bn1(self.conv1(pictures))))
        eighth = self.layer2(quarter)
        x = self.upconv3(self.layer3(eighth))
        x = self.upconv2(self.iconv3(_beside(eighth, x)))
        return self.out_conv(self.iconv2(_beside(quarter, x)))


def _level(channels: int, out: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Residual(channels, out, 2), *(_Residual(out, out, 1) for _ in range(blocks - 1)))


def _beside(kept: torch.Tensor, raised: torch.Tensor) -> torch.Tensor:
    """Channels of both, the decoder's first; `kept` is padded or cut to the size of `raised`."""
    rows, columns = (raised.shape[i] - kept.shape[i] for i in (2, 3))
    border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.cat([raised, F.pad(kept, border)], dim=1)


class PositionalEncoding(nn.Module):
    """[..., 3] -> [..., 39]: x, and sin and cos of pi 2^k x for k of 0..5, frequency by frequency."""

    def __init__(self, octaves: int = 6) -> None:
        super().__init__()
        frequencies = (math.pi * 2.0 ** torch.arange(octaves)).repeat_interleave(2)
        phases = torch.tensor([0.0, math.pi / 2]).repeat(octaves)
        self.register_buffer("_freqs", frequencies.view(1, -1, 1))
        self.register_buffer("_phases", phases.view(1, -1, 1))
        self.width = 3 + 6 * octaves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        waves = torch.sin(x[..., None, :] * self._freqs[0] + self._phases[0])
        return torch.cat([x, waves.flatten(-2)], dim=-1)


class PixelNerf(nn.Module):
    """Features and colours of target views, from features of source views.

    use_std       also the standard deviation over the sources
    use_position  also where the sample lies
    """

    def __init__(
        self, feature_width: int = 64, samples: int = 128, use_std: bool = False, use_position: bool = False
    ) -> None:
        super().__init__()
        self.samples, self.use_std, self.use_position = samples, use_std, use_position
        self.positional_encoder = PositionalEncoding()
        width = feature_width * (2 if use_std else 1)
        width += self.positional_encoder.width if use_position else 0
        self.feature_aggregator = _perceptron(width, FEATURES + 1)
        self.decoder = _perceptron(FEATURES, RGB + FEATURES)

    def forward(
        self,
        features: torch.Tensor,  # [B, S, C, h, w]
        sources: torch.Tensor,  # [B, S, 4, 4] world_from_camera, OpenGL axes
        source_intrinsics: torch.Tensor,  # [B, S, 3, 3], of pictures whose edge is 1
        targets: torch.Tensor,  # [B, N, 4, 4]
        target_intrinsics: torch.Tensor,  # [B, N, 3, 3]
        size: int,
        jitter: torch.Tensor | None = None,  # like the samples' depths, 0..1; None: random
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns colours [B, N, 3, size, size], 0..1, and features [B, N, 128, size, size]."""
        batch, count = targets.shape[:2]
        origins, directions = rays(targets.flatten(0, 1), target_intrinsics.flatten(0, 1), size)
        depths = sample_depths(origins, directions, self.samples, jitter)  # [B * N, P, samples]
        points = origins[:, :, None] + directions[:, :, None] * depths[..., None]
        points = points.reshape(batch, count, size * size, self.samples, RGB)
        gathered = self._gather(features, points, sources, source_intrinsics)  # [B, S, N, P, samples, C]
        mixed = [gathered.mean(dim=1)]
        if self.use_std:
            alone = gathered.shape[1] == 1
            mixed.append(torch.zeros_like(mixed[0]) if alone else gathered.std(dim=1))
        if self.use_position:
            mixed.append(self.positional_encoder(points))
        along, weight = self.feature_aggregator(torch.cat(mixed, dim=-1)).split([FEATURES, 1], dim=-1)
        pooled = (along * weight.softmax(dim=-2)).sum(dim=-2)  # [B, N, P, 128]
        rgb, out = self.decoder(pooled).split([RGB, FEATURES], dim=-1)
        shape = (batch, count, -1, size, size)
        return rgb.sigmoid().transpose(2, 3).reshape(shape), out.transpose(2, 3).reshape(shape)

    def _gather(
        self, features: torch.Tensor, points: torch.Tensor, sources: torch.Tensor, intrinsics: torch.Tensor
    ) -> torch.Tensor:
        """The sources' features where the points project to; beyond a picture its border counts."""
        batch, views = sources.shape[:2]
        flat = points.flatten(1, 3)  # [B, Q, 3]
        camera = torch.linalg.inv(sources)
        local = flat[:, None] @ camera[..., :3, :3].transpose(-1, -2) + camera[..., None, :3, 3]
        plane = -local[..., :2] / local[..., 2:]  # OpenGL: in front is -z
        x = plane[..., 0] * intrinsics[..., 0, 0, None] + intrinsics[..., 0, 2, None]
        y = -plane[..., 1] * intrinsics[..., 1, 1, None] + intrinsics[..., 1, 2, None]
        grid = torch.stack([x, y], dim=-1).flatten(0, 1)[:, None] * 2 - 1  # [B * S, 1, Q, 2]
        found = F.grid_sample(
            features.flatten(0, 1), grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        found = found[:, :, 0].transpose(1, 2)  # [B * S, Q, C]
        return found.reshape(batch, views, *points.shape[1:4], -1)


def _perceptron(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, out)
    )


def rays(poses: torch.Tensor, intrinsics: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and unit directions [M, size * size, 3] through pixel centres; poses OpenGL [M, 4, 4]."""
    place = (torch.arange(size, dtype=poses.dtype, device=poses.device) + 0.5) / size
    y, x = torch.meshgrid(place, place, indexing="ij")
    focal_x, focal_y = intrinsics[:, 0, 0, None], intrinsics[:, 1, 1, None]
    centre_x, centre_y, skew = intrinsics[:, 0, 2, None], intrinsics[:, 1, 2, None], intrinsics[:, 0, 1, None]
    rise = (y.reshape(1, -1) - centre_y) / focal_y
    side = (x.reshape(1, -1) - centre_x - skew * rise) / focal_x
    local = torch.stack([side, -rise, -torch.ones_like(side)], dim=-1)
    directions = F.normalize(local @ poses[:, :3, :3].transpose(1, 2), dim=2)
    return poses[:, None, :3, 3].expand_as(directions), directions


def sample_depths(
    origins: torch.Tensor, directions: torch.Tensor, count: int, jitter: torch.Tensor | None = None
) -> torch.Tensor:
    """[M, P, count] along rays [M, P, 3] through the box [-1, 1]^3, each moved by up to a step.

    Rays that miss the box get the nearest entry of those that meet it as their start and the farthest as
    their end, as the published code does.
    """
    near_far = torch.stack([(-1 - origins) / directions, (1 - origins) / directions])
    start = near_far.amin(dim=0).amax(dim=-1)
    end = near_far.amax(dim=0).amin(dim=-1)
    met = end > start
    if met.any():
        start, end = (
            torch.where(met, start, start[met].min()),
            torch.where(met, end, start[met].max()),
        )
    even = torch.linspace(0, 1, count, dtype=start.dtype, device=start.device)
    depths = start[..., None] + even * (end - start)[..., None]
    jitter = torch.rand_like(depths) if jitter is None else jitter.expand_as(depths)
    return depths + jitter * (end - start)[..., None] / (count - 1)
