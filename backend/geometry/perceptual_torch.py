"""The perceptual distance of `perceptual.py` in torch, for fits on a GPU; gradients by autograd."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry.perceptual import CONVOLUTIONS, POOLED
from backend.geometry.perceptual_term import EVERY, CropSchedule

if TYPE_CHECKING:
    import torch

_EPSILON = 1e-10


class TorchPerceptualNet:
    """ST-LPIPS AlexNet on a device.

    tensors  as `PerceptualNet.of` takes them; call that first, it checks names and shapes
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], device: str, dtype: str = "float32") -> None:
        import torch

        self._tensors = {
            name: torch.as_tensor(array).to(device=device, dtype=getattr(torch, dtype))
            for name, array in tensors.items()
        }

    def distance(self, picture: "torch.Tensor", target: "torch.Tensor") -> "torch.Tensor":
        """Scalar distance of two pictures (3, H, W) in 0..1, differentiable."""
        total = picture.new_zeros(())
        pairs = zip(self._features(picture[None]), self._features(target[None]), strict=True)
        for i, (a, b) in enumerate(pairs):
            total = total + ((a - b) ** 2 * self._tensors[f"lin{i}.model.1.weight"]).sum(1).mean()
        return total

    def _features(self, x: "torch.Tensor") -> "list[torch.Tensor]":
        """Of every layer, (1, C, h, w), of unit length over the channels."""
        import torch.nn.functional as F

        tensors = self._tensors
        x = (2 * x - 1 - tensors["scaling_layer.shift"]) / tensors["scaling_layer.scale"]
        features = []
        for i, (name, _, padding) in enumerate(CONVOLUTIONS):
            if i in POOLED:
                x = _blur_pool(F.max_pool2d(x, 3, 1))
            x = F.conv2d(x, tensors[f"net.{name}.weight"], tensors[f"net.{name}.bias"], padding=padding)
            x = F.relu(_blur_pool(x) if i == 0 else x)
            # Clamped, as the root's slope at 0 is infinite: on plain backgrounds all channels may be silent.
            length = x.square().sum(1, keepdim=True).clamp_min(_EPSILON**2).sqrt()
            features.append(x / (length + _EPSILON))
        return features


class TorchPerceptualTerm(CropSchedule):
    """`PerceptualTerm` for a fit in torch: the distance itself, scaled as there, for autograd."""

    def __init__(self, net: TorchPerceptualNet, seed: int) -> None:
        super().__init__(seed)
        self._net = net

    def __call__(self, image: "torch.Tensor", target: "torch.Tensor", step: int) -> "torch.Tensor":
        """Scalar distance of this step's crop of two pictures (3, H, W)."""
        window = self.crop(image.shape, step)
        if window is None:
            return image.new_zeros(())
        return EVERY * self._net.distance(image[window], target[window])


def _blur_pool(x: "torch.Tensor") -> "torch.Tensor":
    import torch
    import torch.nn.functional as F

    line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device) / 4
    window = (line[:, None] * line)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), window, stride=2, groups=x.shape[1])
