"""The views as rays in the unit ball around the object, and where in the ball the object can be."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from backend.geometry.carving import Grid, bounds_of, field_of, silhouettes
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.surface.base import cut_base

BALL = 0.95
"""Radius of the hull after scaling: the ball of 1 has room for what the hull lacks."""
_HULL_CELLS = 96
_MARGIN = 0.03
"""How far beyond the hull samples are taken: masks of generated views do not agree to the pixel."""


@dataclass(frozen=True)
class Scene:
    """What training looks at.

    centre, scale  world = centre + scale * x for x in the unit ball; metres
    rays           picked by `batch`
    allowed        (R, R, R) bool: cells of the cube -1..1 that are in the hull or just outside
    hull           the hull's signed distance, > 0 outside, on (H, H, H) points over the cube -1..1
    """

    centre: np.ndarray
    scale: float
    rays: "Rays"
    allowed: torch.Tensor
    hull: torch.Tensor

    def hull_distance(self, points: torch.Tensor) -> torch.Tensor:
        """The hull's signed distance (P,) at points (P, 3) of the cube."""
        volume = self.hull.permute(2, 1, 0)[None, None]  # grid_sample's x is the last axis
        sampled = torch.nn.functional.grid_sample(
            volume, points[None, None, None], mode="bilinear", align_corners=True
        )
        return sampled[0, 0, 0, 0]

    def hull_cells(self) -> torch.Tensor:
        """(P, 3) int64: points of `hull` within a cell and a half of its surface."""
        return torch.nonzero(self.hull.abs() < 3.0 / self.hull.shape[0])

    def near_hull(
        self, cells: torch.Tensor, count: int, spread: float, generator: torch.Generator
    ) -> torch.Tensor:
        """(count, 3) points about `spread` away from the hull's surface; `cells` of `hull_cells`."""
        chosen = torch.randint(len(cells), (count,), generator=generator).to(cells.device)
        points = cells[chosen] * (2.0 / (self.hull.shape[0] - 1)) - 1
        nudge = spread * torch.randn((count, 3), generator=generator)
        return (points + nudge.to(points.device)).clamp(-1, 1)


@dataclass(frozen=True)
class Rays:
    """The pixels worth a ray, of all views.

    view (P,) int64; local (P, 3) direction in the camera, not of unit length; colors (P, 3) over black;
    alpha (P,); weights (P,), mean 1
    rotations (N, 3, 3) ball from camera; origins (N, 3)
    """

    view: torch.Tensor
    local: torch.Tensor
    colors: torch.Tensor
    alpha: torch.Tensor
    weights: torch.Tensor
    rotations: torch.Tensor
    origins: torch.Tensor

    def batch(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count,) int64: random pixels."""
        chosen = torch.randint(len(self.view), (count,), generator=generator)
        return chosen.to(self.view.device)

    def through(
        self, pixels: torch.Tensor, motions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Origins and unit directions (R, 3) of the rays through these pixels.

        motions  (N, 6) small corrections of the cameras: rotation vector about the camera's centre,
                 translation, both in the ball's axes; differentiable
        """
        view = self.view[pixels]
        directions = torch.einsum("rij,rj->ri", self.rotations[view], self.local[pixels])
        directions = torch.nn.functional.normalize(directions, dim=1)
        origins = self.origins[view]
        if motions is not None:
            turn, shift = motions[view].split(3, dim=1)
            directions = _rotated(directions, turn)
            origins = origins + shift
        return origins, directions


def _rotated(vectors: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rodrigues' formula; differentiable at no rotation."""
    squared = (turn * turn).sum(1, keepdim=True)
    angle = torch.sqrt(squared + 1e-20)
    across = torch.linalg.cross(turn, vectors)
    twice = torch.linalg.cross(turn, across)
    return (
        vectors + torch.sinc(angle / torch.pi) * across + (1 - torch.cos(angle)) / (squared + 1e-20) * twice
    )


def make_scene(views: Views, occupancy: int, device: str, context: StageContext) -> Scene:
    """Scale the object into the unit ball and list its rays. StageFailed where the masks show no object."""
    alpha = np.ascontiguousarray(views.rgba[..., 3])
    masks = silhouettes(alpha, views.cameras)
    if len(masks.focal) < len(views):
        context.warn(f"{len(views) - len(masks.focal)} of {len(views)} views are empty and were not used.")
    cameras = views.cameras.take(masks.used)
    context.check()
    low, high = bounds_of(masks, views.cameras)
    grid = cut_base(field_of(masks, low, high, _HULL_CELLS), masks, cameras)
    context.check()
    points = np.argwhere(grid.field > 0)
    points = grid.origin + grid.cell * points
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    scale = float(np.linalg.norm(points - centre, axis=1).max() + grid.cell) / BALL
    distance = _signed_distance(grid)
    hull = _resampled(distance, grid, centre, scale, np.linspace(-1, 1, 2 * _HULL_CELLS + 1)) / scale
    context.check()
    middles = (np.arange(occupancy) + 0.5) / occupancy * 2 - 1
    half_diagonal = np.sqrt(3.0) / occupancy
    allowed = _resampled(distance, grid, centre, scale, middles) / scale < _MARGIN + half_diagonal
    return Scene(
        centre,
        scale,
        _rays(views, masks.used, centre, scale, device, context),
        torch.from_numpy(allowed).to(device),
        torch.from_numpy(hull.astype(np.float32)).to(device),
    )


def _signed_distance(grid: Grid) -> np.ndarray:
    """The hull's field as a distance everywhere, metres, > 0 outside: its own values near the surface."""
    inside = grid.field > 0
    far = distance_transform_edt(~inside) - distance_transform_edt(inside)
    far = (far - 0.5 * np.sign(far)) * grid.cell
    near = np.abs(far) < 2 * grid.cell
    return np.where(near, -grid.field, far).astype(np.float32)


def _resampled(
    distance: np.ndarray, grid: Grid, centre: np.ndarray, scale: float, axis: np.ndarray
) -> np.ndarray:
    """`distance` at the points axis^3 of the cube -1..1; beyond the grid, farther by as much."""
    points = [(centre[i] + scale * axis - grid.origin[i]) / grid.cell for i in range(3)]
    inner = [np.clip(p, 0, n - 1) for p, n in zip(points, distance.shape, strict=True)]
    beyond = [np.abs(p - q) * grid.cell for p, q in zip(points, inner, strict=True)]
    found = distance
    for i, place in enumerate(inner):  # linear, one axis after the other
        low = np.minimum(place.astype(int), distance.shape[i] - 2)
        share = (place - low).astype(np.float32).reshape([-1 if j == i else 1 for j in range(3)])
        found = found.take(low, axis=i) * (1 - share) + found.take(low + 1, axis=i) * share
    outside = np.sqrt(
        beyond[0][:, None, None] ** 2 + beyond[1][None, :, None] ** 2 + beyond[2][None, None, :] ** 2
    )
    return found + outside


def _rays(
    views: Views, used: np.ndarray, centre: np.ndarray, scale: float, device: str, context: StageContext
) -> Rays:
    """Pixels of the object and of a band around it: those further off no sample's ray goes through."""
    cameras = views.cameras
    _, depth = cameras.project(centre[None])
    parts = []
    for n in used:
        context.check()
        rgba = views.rgba[n]
        band = int(np.ceil(2 * _MARGIN * scale * cameras.intrinsics[n, 0, 0] / depth[n, 0])) + 2
        empty = (rgba[..., 3] <= 0.5 / 255).astype(np.uint8)
        near = cv2.distanceTransform(empty, cv2.DIST_L2, 3) <= band
        row, column = np.nonzero(near)
        pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))], axis=1)
        local = pixels @ np.linalg.inv(cameras.intrinsics[n]).T
        weights = np.full(len(row), views.confidence[n])
        if views.pixel_confidence is not None:
            weights = weights * views.pixel_confidence[n][near]
        alpha = rgba[..., 3][near]
        parts.append((np.full(len(row), n), local, rgba[..., :3][near] * alpha[:, None], alpha, weights))
    view, local, colors, alpha, weights = (np.concatenate(a) for a in zip(*parts, strict=True))
    weights = weights / max(float(weights.mean()), 1e-9)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array.astype(np.float32), device=device)

    return Rays(
        torch.as_tensor(view, dtype=torch.int64, device=device),
        tensor(local),
        tensor(colors),
        tensor(alpha),
        tensor(weights),
        tensor(cameras.world_from_camera[:, :3, :3]),
        tensor((cameras.centres - centre) / scale),
    )
