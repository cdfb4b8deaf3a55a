"""From the trained field to one closed mesh in the world."""

import numpy as np
import torch

from backend.geometry.carving import Grid, extract_surface
from backend.pipeline.stage import StageContext
from backend.stages.surface.neus.fields import SdfField
from backend.stages.surface.neus.hash_grid import points_in_chunks
from backend.stages.surface.neus.scene import Scene
from backend.stages.surface.parts import fill_cavities

_CHUNK_ON_CUDA = 1 << 20


@torch.no_grad()
def field_to_mesh(
    field: SdfField, scene: Scene, cells: int, context: StageContext
) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes over the part of the cube where the object may be; vertices in the world, metres.

    cells  along the longest side of that part
    """
    allowed = scene.allowed.cpu().numpy()
    places = np.argwhere(allowed)
    side = 2.0 / allowed.shape[0]
    low, high = places.min(axis=0) * side - 1, (places.max(axis=0) + 1) * side - 1
    cell = float((high - low).max()) / cells
    shape = tuple(int(n) + 1 for n in np.ceil((high - low) / cell))
    axes = [low[i] + cell * np.arange(shape[i]) for i in range(3)]
    cell_of = [np.clip(((a + 1) / side).astype(int), 0, len(allowed) - 1) for a in axes]
    inside = allowed[np.ix_(*cell_of)]
    values = np.full(shape, -cell, dtype=np.float32)
    wanted = np.argwhere(inside)
    found = np.empty(len(wanted), dtype=np.float32)
    device = scene.allowed.device
    chunk = _CHUNK_ON_CUDA if device.type == "cuda" else 1 << 15
    for part in points_in_chunks(len(wanted), chunk):
        context.check()
        points = torch.as_tensor((low + cell * wanted[part]).astype(np.float32), device=device)
        found[part] = -field.distance(points).cpu().numpy()
    values[inside] = found
    context.check()
    grid = fill_cavities(Grid(values, low, cell))
    context.check()
    vertices, faces = extract_surface(grid)
    return (scene.centre + scene.scale * vertices.astype(np.float64)).astype(np.float32), faces


@torch.no_grad()
def mean_slope(field: SdfField, scene: Scene, vertices: np.ndarray) -> float:
    """Mean length of the field's gradient at world points (V, 3): 1 for a distance."""
    points = ((vertices - scene.centre) / scene.scale).astype(np.float32)
    points = torch.as_tensor(points, device=scene.allowed.device)
    lengths = [field.gradient(points[part]).norm(dim=1) for part in points_in_chunks(len(points))]
    return float(torch.cat(lengths).mean())
