"""LPIPS with VGG-16 (Zhang 2018), the perceptual distance in V3D's released fits.

V3D gives it pictures of 0..1 as they are in the fit of Gaussians, and brought to [-1, 1], as the weights were
trained, in the refinement of textures. The trunk is torchvision's file, the heads are those of LPIPS 0.1.
"""

from typing import Any

import torch
from torch import nn

from backend.pipeline.stage import StageContext
from backend.weights import lpips_vgg

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions between two halvings."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST = 16
"""Pixels: the trunk halves four times."""
_EPSILON = 1e-10


class VggTrunk(nn.Module):
    """The convolutions of VGG-16, with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        before = 3
        for block, widths in enumerate(WIDTHS):
            layers += [nn.MaxPool2d(2, 2)] if block else []
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """[N, 3, H, W], shifted and scaled -> the features before each halving, and the last."""
        found = []
        for number, layer in enumerate(self.features):
            pictures = layer(pictures)
            if number + 1 in self.ends:
                found.append(pictures)
        return found


class LpipsHeads(nn.Module):
    """How much each channel counts, with the names of the LPIPS package."""

    def __init__(self) -> None:
        super().__init__()
        for number, widths in enumerate(WIDTHS):
            head = nn.Module()
            head.model = nn.Sequential(nn.Identity(), nn.Conv2d(widths[-1], 1, 1, bias=False))
            self.add_module(f"lin{number}", head)

    def forward(self, number: int, squares: torch.Tensor) -> torch.Tensor:
        """Squared differences of layer `number`, [N, C, h, w] -> [N, 1, h, w]."""
        return self.get_submodule(f"lin{number}").model(squares)


class Lpips:
    """The distance of two pictures; also a term of a fit, over the whole picture at every step.

    centred  whether pictures of 0..1 are brought to [-1, 1] first
    """

    def __init__(self, trunk: Any, heads: Any, centred: bool) -> None:
        self._trunk, self._heads, self._centred = trunk, heads, centred

    def wanted(self, step: int, share: float) -> bool:
        """Whether this step has the term: each has."""
        return True

    def __call__(self, image: torch.Tensor, target: torch.Tensor, step: int = 0) -> torch.Tensor:
        """Scalar distance of pictures (3, H, W) in 0..1, differentiable; 0 below 16 pixels a side."""
        total = image.new_zeros(())
        if min(image.shape[1:]) < SMALLEST:
            return total
        pairs = zip(self._features(image), self._features(target), strict=True)
        for number, (ours, theirs) in enumerate(pairs):
            total = total + self._heads(number, (ours - theirs) ** 2).mean()
        return total

    def _features(self, picture: torch.Tensor) -> list[torch.Tensor]:
        """Of each layer, of unit length over the channels."""
        shift, scale = (picture.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        given = 2 * picture - 1 if self._centred else picture
        found = []
        for features in self._trunk(((given - shift) / scale)[None]):
            # Clamped, as the root's slope at 0 is infinite.
            length = features.square().sum(1, keepdim=True).clamp_min(_EPSILON**2).sqrt()
            found.append(features / (length + _EPSILON))
        return found


def load(context: StageContext, *, centred: bool) -> Lpips:
    """On the GPU where there is one; WeightsError where the files are not here."""
    from backend.models.engine import opened  # its table of layouts has the modules of this file

    nets = []
    for layout, part in (("vgg16", "trunk"), ("lpips_vgg_heads", "heads")):
        with opened(lpips_vgg.NAME, layout, "full", context).using(part) as net:
            nets.append(net)
    return Lpips(*nets, centred)
