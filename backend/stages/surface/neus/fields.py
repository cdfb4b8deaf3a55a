"""The networks of NeuS: signed distance, colour, sharpness."""

import itertools
import math

import torch
from torch.nn.functional import softplus

from backend.stages.surface.neus.settings import ANALYTIC, Settings

_SHARPNESS_OF_SOFTPLUS = 100.0


class NormedLinear(torch.nn.Module):
    """A linear layer with weight normalisation (Salimans 2016): each row is gain * direction."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.direction = torch.nn.Parameter(weight)
        self.gain = torch.nn.Parameter(weight.norm(dim=1, keepdim=True))
        self.bias = torch.nn.Parameter(bias)

    @property
    def weight(self) -> torch.Tensor:
        return self.gain * torch.nn.functional.normalize(self.direction, dim=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self.weight, self.bias)


class SdfField(torch.nn.Module):
    """Points of the cube -1..1 -> signed distance, > 0 outside, and features for the colour.

    One hidden layer over position and hash features. It starts as a sphere ("geometric initialisation",
    Atzmon 2020): hidden neurons look in evenly spread directions, their rectified mean is the radius.
    """

    def __init__(self, settings: Settings, grid: torch.nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.grid, self.gradient_kind = grid, settings.gradient
        hidden, outputs = settings.hidden, settings.sdf_outputs
        first = torch.zeros(hidden, 3 + grid.outputs)
        gain = math.sqrt(6.0 / hidden)
        first[:, :3] = gain * _even_directions(hidden)
        second = torch.randn(outputs, hidden, generator=generator) * math.sqrt(2.0 / hidden)
        second[0] = 4.0 / (hidden * gain)  # the mean of a rectified cosine over the sphere is 1/4
        self.hidden = NormedLinear(first, torch.zeros(hidden))
        self.output = NormedLinear(second, torch.zeros(outputs))
        with torch.no_grad():
            ball = settings.start_radius * _even_directions(256)
            raw = self.output(softplus(ball @ first[:, :3].T, _SHARPNESS_OF_SOFTPLUS))[:, 0]
            self.output.bias[0] = -raw.mean()

    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """points (P, 3) -> distance (P,), features (P, outputs) with the distance first, gradient (P, 3)."""
        if self.gradient_kind == ANALYTIC:
            return self._with_slopes(points)
        outputs = self._outputs(points)
        return outputs[:, 0], outputs, self._differences(points)

    def distance(self, points: torch.Tensor) -> torch.Tensor:
        """(P, 3) -> (P,)."""
        return self._outputs(points)[:, 0]

    def gradient(self, points: torch.Tensor) -> torch.Tensor:
        """(P, 3) -> (P, 3)."""
        return self._with_slopes(points)[2] if self.gradient_kind == ANALYTIC else self._differences(points)

    @property
    def reach(self) -> float:
        """Half the width of the finite differences: a cell of the finest level in use."""
        return 2.0 / self.grid.resolutions[self.grid.active - 1]

    def _outputs(self, points: torch.Tensor) -> torch.Tensor:
        features, _ = self.grid((points + 1) / 2)
        hidden = self.hidden(torch.cat([points, features], dim=1))
        return self.output(softplus(hidden, _SHARPNESS_OF_SOFTPLUS))

    def _with_slopes(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradient written out, so that training needs no second derivative by autograd."""
        features, slopes = self.grid((points + 1) / 2, slopes=True)
        hidden = self.hidden(torch.cat([points, features], dim=1))
        outputs = self.output(softplus(hidden, _SHARPNESS_OF_SOFTPLUS))
        back = torch.sigmoid(_SHARPNESS_OF_SOFTPLUS * hidden) * self.output.weight[0]
        back = back @ self.hidden.weight  # (P, 3 + L F)
        gradient = back[:, :3] + 0.5 * torch.einsum("pf,pfc->pc", back[:, 3:], slopes)
        return outputs[:, 0], outputs, gradient

    def _differences(self, points: torch.Tensor) -> torch.Tensor:
        """Central differences (Neuralangelo 2023), which see more than the one cell a point lies in."""
        steps = self.reach * torch.eye(3, dtype=points.dtype, device=points.device)
        taps = torch.cat([points[:, None] + steps, points[:, None] - steps], dim=1)  # (P, 6, 3)
        ahead, behind = self.distance(taps.reshape(-1, 3)).reshape(-1, 2, 3).unbind(1)
        return (ahead - behind) / (2 * self.reach)


class ColorField(torch.nn.Module):
    """What a point looks like from everywhere: features and normal in, colour 0..1 out; two hidden layers."""

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__()
        widths = [settings.sdf_outputs + 3, settings.hidden, settings.hidden, 3]
        layers = []
        for inputs, outputs in itertools.pairwise(widths):
            layer = torch.nn.Linear(inputs, outputs)
            with torch.no_grad():
                bound = math.sqrt(6.0 / inputs)  # He 2015
                layer.weight.copy_((2 * torch.rand(outputs, inputs, generator=generator) - 1) * bound)
                layer.bias.zero_()
            layers += [layer, torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, features: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """(P, F), (P, 3) -> (P, 3)."""
        return torch.sigmoid(self.layers(torch.cat([features, normals], dim=1)))


class Sharpness(torch.nn.Module):
    """NeuS' s: the inverse width of the surface, one learned number."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.exponent = torch.nn.Parameter(torch.tensor(settings.inverse_scale_start))

    def forward(self) -> torch.Tensor:
        return torch.exp(10 * self.exponent).clamp(1e-6, 1e6)


def _even_directions(count: int) -> torch.Tensor:
    """(count, 3) unit vectors on a Fibonacci spiral."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5.0)) * index
    radius = torch.sqrt(1 - height**2)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), height], dim=1).float()
