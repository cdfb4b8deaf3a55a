"""Where samples are worth it: equal steps along rays, kept in cells near the surface and inside the hull."""

from dataclasses import dataclass

import torch

from backend.stages.surface.neus.fields import SdfField
from backend.stages.surface.neus.hash_grid import points_in_chunks

_EMPTY, _NEAR, _DEEP = 0, 1, 2


@dataclass(frozen=True)
class Samples:
    """ray (P,) int64, not falling; along (P,) distance from the ray's origin, rising along each ray."""

    ray: torch.Tensor
    along: torch.Tensor


class Occupancy:
    """Cells of the cube -1..1: empty, near the surface, or so deep inside that no ray goes on.

    NeuS' weights follow the logistic of distance * sharpness, so a sample farther than log(1/threshold) /
    sharpness from the surface has a weight below the threshold on either side. The distance at a cell's
    middle says what it is in the whole cell to half a diagonal.
    """

    def __init__(self, allowed: torch.Tensor, threshold: float) -> None:
        self.cells = allowed.shape[0]
        self._reach = float(torch.log(torch.tensor(1 / threshold)))
        self._places = torch.nonzero(allowed)
        self._kind = torch.zeros(allowed.shape, dtype=torch.int8, device=allowed.device)
        self._kind[allowed] = _NEAR

    @torch.no_grad()
    def update(self, field: SdfField, sharpness: float) -> None:
        """Look at the field's distances at the middles of all allowed cells."""
        points = (self._places + 0.5) / self.cells * 2 - 1
        distances = torch.cat([field.distance(points[part]) for part in points_in_chunks(len(points))])
        band = self._reach / sharpness + 3**0.5 / self.cells
        kind = torch.full_like(distances, _NEAR, dtype=torch.int8)
        kind[distances > band] = _EMPTY
        kind[distances < -band] = _DEEP
        self._kind[tuple(self._places.T)] = kind

    @torch.no_grad()
    def march(
        self, origins: torch.Tensor, directions: torch.Tensor, steps: int, generator: torch.Generator
    ) -> Samples:
        """Samples on rays (R, 3) through the unit ball: `steps` to a diameter, each ray shifted at random."""
        length = 2.0 / steps
        nearest = -(origins * directions).sum(1)  # of the ray to the ball's centre
        squared = 1 - ((origins + nearest[:, None] * directions) ** 2).sum(1)
        half = torch.sqrt(squared.clamp_min(0))
        shift = torch.rand(len(origins), generator=generator).to(origins.device)
        number = torch.arange(steps, device=origins.device)
        along = (nearest - half)[:, None] + (number + shift[:, None]) * length  # (R, steps)
        points = origins[:, None] + along[..., None] * directions[:, None]
        cell = ((points + 1) * (self.cells / 2)).long().clamp_(0, self.cells - 1)
        kind = self._kind[cell[..., 0], cell[..., 1], cell[..., 2]]
        inside = (along < (nearest + half)[:, None]) & (squared > 0)[:, None] & (along > 0)
        passed = torch.cumsum((kind == _DEEP) & inside, dim=1) > 0
        ray, place = torch.nonzero((kind == _NEAR) & inside & ~passed, as_tuple=True)
        return Samples(ray, along[ray, place])
