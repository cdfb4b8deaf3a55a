"""ST-LPIPS AlexNet in plain torch, for gradients by autograd: the oracle of backend.geometry.perceptual."""

import numpy as np
import torch
import torch.nn.functional as F

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


def _blur_pool(x):
    line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    kernel = (line[:, None] * line)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _taps(tensors, x):
    def convolve(x, name, padding):
        return F.conv2d(x, tensors[f"net.{name}.weight"], tensors[f"net.{name}.bias"], padding=padding)

    x = (2 * x - 1 - tensors["scaling_layer.shift"]) / tensors["scaling_layer.scale"]
    taps = [F.relu(_blur_pool(convolve(x, "slice1.0", 2)))]
    taps.append(F.relu(convolve(_blur_pool(F.max_pool2d(taps[-1], 3, 1)), "slice2.5", 2)))
    taps.append(F.relu(convolve(_blur_pool(F.max_pool2d(taps[-1], 3, 1)), "slice3.9", 1)))
    taps.append(F.relu(convolve(taps[-1], "slice4.11", 1)))
    taps.append(F.relu(convolve(taps[-1], "slice5.13", 1)))
    return taps


def distance(arrays, picture, target, dtype=torch.float64):
    """Pictures (3, H, W) in 0..1 -> distance, gradient to the picture (3, H, W)."""
    tensors = {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}
    x = torch.from_numpy(picture)[None].to(dtype).requires_grad_()
    y = torch.from_numpy(target)[None].to(dtype)
    total = torch.zeros((), dtype=dtype)
    for i, (a, b) in enumerate(zip(_taps(tensors, x), _taps(tensors, y), strict=True)):
        a = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-10)
        b = b / (b.square().sum(1, keepdim=True).sqrt() + 1e-10)
        total = total + ((a - b) ** 2 * tensors[f"lin{i}.model.1.weight"]).sum(1).mean()
    total.backward()
    return float(total.detach()), x.grad[0].numpy()
