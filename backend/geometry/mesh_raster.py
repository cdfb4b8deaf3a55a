"""Z-buffer rasterisation of triangle meshes on the CPU: which face, where in it, how far.

Used by texture baking (visibility), the orbit prior (rendering its shape) and the contact sheets.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from backend.geometry.jit import kernel
from backend.geometry.parallel import for_bands


@dataclass(frozen=True)
class Fragments:
    """What one camera sees of a mesh.

    face        (H, W) int32, index into faces, -1 where nothing is
    barycentric (H, W, 3) float32, perspective-correct weights of the face's corners
    depth       (H, W) float32, metres along the camera axis, inf where nothing is
    """

    face: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray

    @classmethod
    def nothing(cls, width: int, height: int) -> Self:
        """An empty picture."""
        return cls(
            np.full((height, width), -1, dtype=np.int32),
            np.zeros((height, width, 3), dtype=np.float32),
            np.full((height, width), np.inf, dtype=np.float32),
        )

    def interpolate(self, attribute: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Per-vertex `attribute` (V, C) at each pixel: (H, W, C) float32, 0 where nothing is."""
        corners = np.asarray(attribute, dtype=np.float32)[faces[np.maximum(self.face, 0)]]
        values = np.einsum("hwk,hwkc->hwc", self.barycentric, corners)
        values[self.face < 0] = 0
        return values


@kernel
def _rasterize_rows(points, faces, top, row_start, row_stop, width, face_out, bary_out, depth_out):
    """points (V, 3) float64: pixel x, pixel y, depth; fills rows row_start..row_stop.

    The first row of the pictures that are filled is row `top`.
    """
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        za, zb, zc = points[a, 2], points[b, 2], points[c, 2]
        if za <= 1e-6 or zb <= 1e-6 or zc <= 1e-6:
            continue
        xa, ya, xb, yb, xc, yc = (
            points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1],
        )  # fmt: skip
        y_low, y_high = min(ya, yb, yc), max(ya, yb, yc)
        first = max(row_start, int(np.ceil(y_low - 0.5)))
        last = min(row_stop - 1, int(np.floor(y_high - 0.5)))
        if first > last:
            continue
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area == 0.0:
            continue
        left = max(0, int(np.ceil(min(xa, xb, xc) - 0.5)))
        right = min(width - 1, int(np.floor(max(xa, xb, xc) - 0.5)))
        inverse = 1.0 / area
        for row in range(first, last + 1):
            y = row + 0.5
            for column in range(left, right + 1):
                x = column + 0.5
                wa = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * inverse
                wb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * inverse
                wc = 1.0 - wa - wb
                # Rounding may put a sample on a shared edge outside both faces: no pinholes.
                if wa < -1e-9 or wb < -1e-9 or wc < -1e-9:
                    continue
                pa, pb, pc = wa / za, wb / zb, wc / zc
                depth = 1.0 / (pa + pb + pc)
                at = row - top
                if depth < depth_out[at, column]:
                    depth_out[at, column] = depth
                    face_out[at, column] = f
                    bary_out[at, column, 0] = pa * depth
                    bary_out[at, column, 1] = pb * depth
                    bary_out[at, column, 2] = pc * depth


def rasterize_pixels(points: np.ndarray, faces: np.ndarray, width: int, height: int) -> Fragments:
    """Rasterise a mesh that is already in pixels: points (V, 3) = x, y, depth; faces (F, 3).

    Both sides are drawn; a face with a corner at depth <= 0 is left out; ties go to the lower index.
    Laying UV coordinates out as pixels at depth 1 rasterises a texture atlas.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    drawn = Fragments.nothing(width, height)
    for_bands(
        lambda start, stop: _rasterize_rows(
            points, faces, 0, start, stop, width, drawn.face, drawn.barycentric, drawn.depth
        ),
        height,
    )
    return drawn


def rasterize_rows(points: np.ndarray, faces: np.ndarray, width: int, start: int, stop: int) -> Fragments:
    """Rows start..stop of `rasterize_pixels`, on this thread; points float64 and faces int32, contiguous."""
    drawn = Fragments.nothing(width, stop - start)
    _rasterize_rows(points, faces, start, start, stop, width, drawn.face, drawn.barycentric, drawn.depth)
    return drawn


def rasterize_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    width: int,
    height: int,
) -> Fragments:
    """Rasterise a world-space mesh: vertices (V, 3) metres, faces (F, 3), one camera (4, 4), (3, 3)."""
    return rasterize_pixels(mesh_in_pixels(vertices, world_from_camera, intrinsics), faces, width, height)


def mesh_in_pixels(vertices: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(V, 3) float64: pixel x, pixel y and depth of vertices (V, 3) in metres."""
    view = np.linalg.inv(world_from_camera)
    local = np.asarray(vertices, dtype=np.float64) @ view[:3, :3].T + view[:3, 3]
    depth = local[:, 2]
    image = local @ np.asarray(intrinsics, dtype=np.float64).T
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    return np.column_stack([image[:, 0] / safe, image[:, 1] / safe, depth])
