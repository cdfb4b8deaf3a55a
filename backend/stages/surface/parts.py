"""Which parts of a reconstruction are the object: no inner shells, no floaters, no lost pieces."""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.carving import Grid
from backend.geometry.decimate import compact
from backend.geometry.mesh_check import component_volumes, face_components
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import map_parallel

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
    """Keep the parts that the pictures need, and drop floaters.

    vertices (V, 3), faces (F, 3) closed; alpha (N, H, W), view 0 is the front. Of the parts that hold 1 % of
    the volume, the largest is kept and others if two views show them where no larger part is: what stands
    in the middle of a ring, behind the ring in every view, is what the hull could not carve. Smaller parts
    are kept if the front shows them alone: a lamp's cord has little volume, but its pixels are in the
    picture and no larger part covers them.
    """
    component = face_components(faces)
    volumes = component_volumes(vertices, faces, component)
    solid = np.maximum(volumes, 0)
    if len(solid) == 1:
        return vertices, faces
    large = np.argsort(-solid, kind="stable")
    large = large[solid[large] >= _KEPT_SHARE * solid.sum()][:_MOST_TESTED]
    kept = np.zeros(len(solid), dtype=bool)
    kept[large] = True
    if len(large) > 1:
        kept[large] = _needed(vertices, faces, component, large, alpha, cameras)
    small = [c for c in np.argsort(-solid, kind="stable") if not kept[c] and solid[c] > 0][:_MOST_TESTED]

    if small:
        camera = cameras.world_from_camera[0], cameras.intrinsics[0], cameras.width, cameras.height
        large_faces, small_faces = faces[kept[component]], faces[np.isin(component, small)]
        mask = alpha[0] >= 0.5
        missing = mask & (rasterize_mesh(vertices, large_faces, *camera).face < 0)
        front = rasterize_mesh(vertices, small_faces, *camera).face
        owner = component[np.isin(component, small)][front[missing & (front >= 0)]]
        kept |= np.bincount(owner, minlength=len(solid)) > _SEEN_SHARE * mask.sum()
    return compact(vertices, faces[kept[component]])


def _needed(
    vertices: np.ndarray,
    faces: np.ndarray,
    component: np.ndarray,
    large: np.ndarray,
    alpha: np.ndarray,
    cameras: Cameras,
) -> np.ndarray:
    """(C,) bool for the parts `large` (C,), the largest first: do pictures show it beside those before?"""

    def alone(view: int) -> np.ndarray:
        camera = cameras.world_from_camera[view], cameras.intrinsics[view], cameras.width, cameras.height
        left = alpha[view] >= 0.5
        least = _SEEN_SHARE * left.sum()
        shown = []
        for c in large:
            mine = left & (rasterize_mesh(vertices, faces[component == c], *camera).face >= 0)
            shown.append(mine.sum() > least)
            left = left & ~mine
        return np.array(shown)

    votes = np.sum(map_parallel(alone, range(len(cameras))), axis=0)
    needed = votes >= min(2, len(cameras))
    needed[0] = True
    return needed
