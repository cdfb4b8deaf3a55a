"""Perceptual distance of two pictures: ST-LPIPS with an AlexNet trunk (Ghildyal and Liu 2022).

LPIPS (Zhang 2018) compares deep features of two pictures; the shift-tolerant variant blurs before each
halving, so that an edge moved by a pixel costs little. With its gradient to the picture, for fits, and
alone, for evaluation. The weights come as a dictionary of arrays (`backend.weights.stlpips`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backend.geometry.perceptual_layers import (
    BlurredConvolution,
    Convolution,
    blur_pool,
    blur_pool_gradient,
    max3,
    max3_gradient,
    one_blas_thread,
)
from shared_protocol.errors import InvalidInput, WeightsError

SMALLEST = 32
"""Least height and width in pixels; below it the deepest features have no neighbours."""
_EPSILON = np.float32(1e-10)
CONVOLUTIONS = (
    ("slice1.0", (64, 3, 11, 11), 2),
    ("slice2.5", (192, 64, 5, 5), 2),
    ("slice3.9", (384, 192, 3, 3), 1),
    ("slice4.11", (256, 384, 3, 3), 1),
    ("slice5.13", (256, 256, 3, 3), 1),
)
"""Name, shape of the weights and zero padding of each layer."""
POOLED = (1, 2)
"""Layers with a maximum over 3 x 3 and a blur-pool in front."""

Features = tuple[np.ndarray, ...]
"""Of one picture, one array (h, w, C) a layer, of unit length over the channels."""


@dataclass(frozen=True)
class PerceptualNet:
    """The network: five convolutions of AlexNet, the weights of their channels in the distance.

    scale, shift   (3,) of the input: x = scale * picture + shift, pictures in 0..1
    first          layer 0 with its blur-pool
    others         layers 1 to 4, the first two behind a maximum over 3 x 3 and a blur-pool
    heads[i]       (C_i,) weighs the squared differences of layer i
    """

    scale: np.ndarray
    shift: np.ndarray
    first: BlurredConvolution
    others: tuple[Convolution, ...]
    heads: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> "PerceptualNet":
        """From the tensors of `alex_shift_tolerant.pth`; WeightsError when one is missing or misshapen."""

        def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
            array = tensors.get(name)
            if array is None or array.shape != shape:
                found = f"no {name}" if array is None else f"{name} of shape {array.shape}"
                raise WeightsError(
                    f"the perceptual weights have {found}",
                    f"{name} of shape {shape}",
                    "Run: python -m backend models verify stlpips",
                )
            return np.ascontiguousarray(array, np.float32)

        layers, heads = [], []
        for i, (name, shape, padding) in enumerate(CONVOLUTIONS):
            weight, bias = take(f"net.{name}.weight", shape), take(f"net.{name}.bias", shape[:1])
            layers.append((weight, bias, padding))
            heads.append(take(f"lin{i}.model.1.weight", (1, shape[0], 1, 1)).reshape(-1))
        shift = take("scaling_layer.shift", (1, 3, 1, 1)).reshape(3)
        scale = take("scaling_layer.scale", (1, 3, 1, 1)).reshape(3)
        first, *others = layers
        return cls(
            2 / scale,
            (-1 - shift) / scale,
            BlurredConvolution.of(*first),
            tuple(Convolution.of(*layer) for layer in others),
            tuple(heads),
        )

    def features(self, picture: np.ndarray) -> Features:
        """Of a picture (3, H, W), sRGB-encoded 0..1; InvalidInput below 32 x 32 pixels."""
        with one_blas_thread:
            return tuple(unit for unit, _ in map(_normalise, self._forward(picture).taps))

    def distance(self, picture: np.ndarray, target: Features) -> float:
        """Distance of a picture (3, H, W) to the one of these features; 0 for the same picture."""
        with one_blas_thread:
            return sum(
                float(np.mean((_normalise(tap)[0] - goal) ** 2 @ head, dtype=np.float64))
                for tap, goal, head in zip(self._forward(picture).taps, target, self.heads, strict=True)
            )

    def distance_and_gradient(self, picture: np.ndarray, target: Features) -> tuple[float, np.ndarray]:
        """Distance, and its gradient to the picture (3, H, W)."""
        with one_blas_thread:
            return self._there_and_back(picture, target)

    def _there_and_back(self, picture: np.ndarray, target: Features) -> tuple[float, np.ndarray]:
        state = self._forward(picture)
        total = 0.0
        g = np.float32(0)
        for i in reversed(range(len(self.heads))):
            value, slope = _tap_gradient(state.taps[i], target[i], self.heads[i])
            total += value
            slope += g
            slope *= state.taps[i] > 0
            if i == 0:
                break
            g = self.others[i - 1].gradient(slope)
            if i in POOLED:
                result, along = state.maxima[i]
                g = blur_pool_gradient(g, *result.shape[:2])
                g = max3_gradient(g, state.taps[i - 1], along, result)
        g = self.first.gradient(slope, *picture.shape[1:])
        return total, np.ascontiguousarray((g * self.scale).transpose(2, 0, 1))

    def _forward(self, picture: np.ndarray) -> "_State":
        if picture.ndim != 3 or picture.shape[0] != 3 or min(picture.shape[1:]) < SMALLEST:
            raise InvalidInput(
                f"a picture of shape {picture.shape} for the perceptual distance",
                f"(3, height, width) of at least {SMALLEST} pixels each way",
            )
        x = np.ascontiguousarray(picture.transpose(1, 2, 0), np.float32) * self.scale + self.shift
        taps, maxima = [], {}
        for i, layer in enumerate((self.first, *self.others)):
            if i in POOLED:
                maxima[i] = max3(x)
                x = blur_pool(maxima[i][0])
            x = layer(x)
            x = np.maximum(x, 0, out=x)
            taps.append(x)
        return _State(taps, maxima)


@dataclass(frozen=True)
class _State:
    """What the way back needs: outputs of the convolutions after the ReLU, maxima before the blur-pools."""

    taps: list[np.ndarray]
    maxima: dict[int, tuple[np.ndarray, np.ndarray]]


def _normalise(tap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, C) -> of unit length over the channels, and the length (h, w, 1)."""
    length = np.sqrt(np.einsum("hwc,hwc->hw", tap, tap))[..., None]
    return tap / (length + _EPSILON), length


def _tap_gradient(tap: np.ndarray, goal: np.ndarray, head: np.ndarray) -> tuple[float, np.ndarray]:
    """One layer's part of the distance and its gradient to the tap, ReLU not yet undone."""
    unit, length = _normalise(tap)
    difference = unit - goal
    weighted = difference * head
    value = float(np.einsum("hwc,hwc->", weighted, difference, dtype=np.float64)) / length.size
    weighted *= np.float32(2 / length.size)
    # unit = tap / length: its gradient has no part along the tap; where the tap is 0 there is no direction.
    weighted -= unit * np.einsum("hwc,hwc->hw", weighted, unit)[..., None]
    weighted /= np.maximum(length, np.float32(1e-6))
    return value, weighted


def perceptual_distance(net: PerceptualNet, picture: np.ndarray, target: np.ndarray) -> float:
    """ST-LPIPS of two pictures (3, H, W), sRGB-encoded 0..1, of one size: 0 for the same picture."""
    return net.distance(picture, net.features(target))
