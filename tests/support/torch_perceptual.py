"""Weights for tests of the perceptual distance, and its gradient by autograd."""

import numpy as np
import torch

from backend.geometry.perceptual_torch import TorchPerceptualNet

SHAPES = {"slice1.0": (64, 3, 11), "slice2.5": (192, 64, 5), "slice3.9": (384, 192, 3),
          "slice4.11": (256, 384, 3), "slice5.13": (256, 256, 3)}  # fmt: skip


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors with the names and shapes of alex_shift_tolerant.pth; activations keep their size."""
    random = np.random.default_rng(seed)
    tensors = {
        "scaling_layer.shift": np.float32([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1),
        "scaling_layer.scale": np.float32([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1),
    }
    for i, (name, (out, channels, size)) in enumerate(SHAPES.items()):
        weight = random.standard_normal((out, channels, size, size)) * (2 / (channels * size**2)) ** 0.5
        tensors[f"net.{name}.weight"] = weight.astype(np.float32)
        tensors[f"net.{name}.bias"] = (0.1 * random.standard_normal(out)).astype(np.float32)
        tensors[f"lin{i}.model.1.weight"] = random.random((1, out, 1, 1)).astype(np.float32)
    return tensors


def distance(arrays, picture, target):
    """Pictures (3, H, W) in 0..1 -> distance, gradient to the picture (3, H, W); float64."""
    x = torch.from_numpy(picture).double().requires_grad_()
    total = TorchPerceptualNet(arrays, "cpu", "float64").distance(x, torch.from_numpy(target).double())
    total.backward()
    return float(total.detach()), x.grad.numpy()
