"""The terms of the loss, as V3D's configuration names them (mesh_recon/configs/videonvs.yaml)."""

import torch


def color_loss(colors: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean squared error of (R, 3) colours over black, each ray times its weight (R,)."""
    return (weights[:, None] * (colors - targets) ** 2).mean()


def mask_loss(opacity: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of the rays' opacities (R,) and alpha (R,), each ray times its weight (R,)."""
    opacity = opacity.clamp(1e-3, 1 - 1e-3)
    return (-weights * (targets * torch.log(opacity) + (1 - targets) * torch.log(1 - opacity))).mean()


def eikonal_loss(gradients: torch.Tensor) -> torch.Tensor:
    """Mean of (|gradient| - 1)^2 over (P, 3): a distance rises by one a unit."""
    return ((gradients.norm(dim=1) - 1) ** 2).mean()


def smoothness_loss(gradients: torch.Tensor, nearby: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the gradients (P, 3) at points and at points close to them."""
    return (gradients - nearby).abs().mean()


def sparsity_loss(distances: torch.Tensor, scale: float = 100.0) -> torch.Tensor:
    """Mean of exp(-100 |distance|) over (P,) at random points: no surface where none is needed."""
    return torch.exp(-scale * distances.abs()).mean()


def hull_loss(distances: torch.Tensor, hull: torch.Tensor) -> torch.Tensor:
    """Mean of how far the surface is outside the hull, from (P,) both signed distances."""
    return torch.relu(hull - distances).mean()
