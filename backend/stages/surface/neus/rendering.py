"""Volume rendering of signed distances: NeuS' opacity (section 3.1), and rays of samples packed in a row."""

import torch


def opacity(
    distance: torch.Tensor, cosine: torch.Tensor, length: float, sharpness: torch.Tensor, anneal: float
) -> torch.Tensor:
    """Opacity (P,) of the sections around samples, equation 13 of NeuS.

    distance (P,) signed, at the middle; cosine (P,) between ray and gradient, < 0 where the ray enters;
    length of the sections; anneal 0..1: how far the slope is taken as it is, see NeuS' released code:
    at first a ray that leaves counts too, so that its gradient is not lost.
    """
    slope = -(torch.relu(0.5 - 0.5 * cosine) * (1 - anneal) + torch.relu(-cosine) * anneal)  # never positive
    before = torch.sigmoid((distance - slope * length / 2) * sharpness)
    after = torch.sigmoid((distance + slope * length / 2) * sharpness)
    return ((before - after + 1e-5) / (before + 1e-5)).clamp(0, 1)


def ray_weights(alpha: torch.Tensor, ray: torch.Tensor) -> torch.Tensor:
    """Weight (P,) of each sample: its opacity times what passes the samples before it on its ray.

    ray (P,) int64, not falling: the ray of each sample; along a ray the nearest comes first.
    """
    passed = torch.log1p(-alpha.double().clamp_max(1 - 1e-10))  # float64: the sums run over all rays
    total = torch.cumsum(passed, dim=0) - passed
    first = torch.ones_like(ray, dtype=torch.bool)
    first[1:] = ray[1:] != ray[:-1]
    starts = torch.nonzero(first)[:, 0]
    before = total[starts][torch.cumsum(first, dim=0) - 1]
    return alpha * torch.exp(total - before).to(alpha.dtype)


def accumulate(values: torch.Tensor, ray: torch.Tensor, rays: int) -> torch.Tensor:
    """Sums (rays, ...) of values (P, ...) over each ray."""
    return torch.zeros((rays, *values.shape[1:]), dtype=values.dtype, device=values.device).index_add(
        0, ray, values
    )
