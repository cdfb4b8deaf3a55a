"""Which parts of a reconstruction are the object: no inner shells, no floaters, no lost pieces."""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid
from backend.geometry.decimate import compact
from backend.geometry.mesh_check import component_volumes, face_components
from backend.geometry.mesh_raster import rasterize_mesh

_KEPT_SHARE = 0.01
_SEEN_SHARE = 2e-3
"""Of the picture: smaller crumbs, as tips of antennas too thin for the grid, look like floaters."""
_MOST_TESTED = 24


def fill_cavities(grid: Grid) -> Grid:
    """The grid with hollows that no path of empty cells joins to the outside made solid."""
    from scipy.ndimage import label

    empty = grid.field <= 0
    labels, count = label(empty)
    outside = labels[0, 0, 0]  # the border layer is empty and connected
    hollow = empty & (labels != outside)
    if count < 2 or not hollow.any():
        return grid
    field = grid.field.copy()
    field[hollow] = grid.cell
    return Grid(field, grid.origin, grid.cell)


def drop_floaters(
    vertices: np.ndarray, faces: np.ndarray, alpha: np.ndarray, cameras: Cameras
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the parts that hold 1 % of the volume, and small ones that the front picture shows alone.

    vertices (V, 3), faces (F, 3) closed; alpha (N, H, W), view 0 is the front. A lamp's cord has little
    volume, but its pixels are in the picture and no larger part covers them.
    """
    component = face_components(faces)
    volumes = component_volumes(vertices, faces, component)
    solid = np.maximum(volumes, 0)
    kept = solid >= _KEPT_SHARE * solid.sum()
    if kept.all():
        return vertices, faces
    small = [c for c in np.argsort(-solid, kind="stable") if not kept[c] and solid[c] > 0][:_MOST_TESTED]

    def covered(selected: np.ndarray) -> np.ndarray:
        camera = cameras.world_from_camera[0], cameras.intrinsics[0], cameras.width, cameras.height
        return rasterize_mesh(vertices, faces[selected], *camera).face >= 0

    mask = alpha[0] >= 0.5
    missing = mask & ~covered(kept[component])
    for c in small:
        seen = covered(component == c) & missing
        if seen.sum() > _SEEN_SHARE * mask.sum():
            kept[c] = True
            missing &= ~seen
    return compact(vertices, faces[kept[component]])
