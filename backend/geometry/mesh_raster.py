"""Z-buffer rasterisation of triangle meshes on the CPU: which face, where in it, how far.

Used by texture baking (visibility), the orbit prior (rendering its shape) and the contact sheets.

One pass over the faces fills a buffer of inverse depth, which is linear in the picture: an addition and a
comparison a sample, no division. Where in its face a sample lies is found afterwards, of visible samples
alone and only where somebody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from backend.geometry.jit import inline_kernel, kernel, merged_kernel
from backend.geometry.parallel import for_bands


@dataclass(frozen=True)
class Fragments:
    """What one camera sees of a mesh.

    face        (H, W) int32, index into faces, -1 where nothing is
    depth       (H, W) float32, metres along the camera axis, inf where nothing is
    """

    face: np.ndarray
    depth: np.ndarray
    _weigh: Callable[[], np.ndarray] = field(repr=False)

    @cached_property
    def barycentric(self) -> np.ndarray:
        """(H, W, 3) float32, perspective-correct weights of the face's corners; 0 where nothing is."""
        return self._weigh()

    def interpolate(self, attribute: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Per-vertex `attribute` (V, C) at each pixel: (H, W, C) float32, 0 where nothing is."""
        corners = np.asarray(attribute, dtype=np.float32)[faces[np.maximum(self.face, 0)]]
        values = np.einsum("hwk,hwkc->hwc", self.barycentric, corners)
        values[self.face < 0] = 0
        return values


@merged_kernel
def _clipped(weight, slope, low, high):
    """The part of low..high in which weight + slope x is positive; high below low where there is none."""
    if slope > 0.0:
        low = max(low, (-1e-9 - weight) / slope)
    elif slope < 0.0:
        high = min(high, (-1e-9 - weight) / slope)
    elif weight < -1e-9:
        high = -1.0
    return low, high


@kernel
def _cover_rows(points, faces, top, row_start, row_stop, width, face_out, near_out):
    """points (V, 3) float64: pixel x, pixel y, depth; fills rows row_start..row_stop.

    face_out holds -1 and near_out, 1 / depth, holds 0 where nothing is. The first row of the pictures that
    are filled is row `top`.
    """
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ya, yb, yc = points[a, 1], points[b, 1], points[c, 1]
        first = max(row_start, int(np.ceil(min(ya, yb, yc) - 0.5)))
        last = min(row_stop - 1, int(np.floor(max(ya, yb, yc) - 0.5)))
        if first > last:
            continue
        za, zb, zc = points[a, 2], points[b, 2], points[c, 2]
        if za <= 1e-6 or zb <= 1e-6 or zc <= 1e-6:
            continue
        xa, xb, xc = points[a, 0], points[b, 0], points[c, 0]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area == 0.0:
            continue
        left = max(0, int(np.ceil(min(xa, xb, xc) - 0.5)))
        right = min(width - 1, int(np.floor(max(xa, xb, xc) - 0.5)))
        if left > right:
            continue
        inverse = 1.0 / area
        b_x, b_y = (yc - ya) * inverse, (xa - xc) * inverse
        c_x, c_y = (ya - yb) * inverse, (xb - xa) * inverse
        a_x = -b_x - c_x
        near_a, near_b, near_c = 1.0 / za, 1.0 / zb - 1.0 / za, 1.0 / zc - 1.0 / za
        near_x = b_x * near_b + c_x * near_c
        x = left + 0.5 - xa
        for row in range(first, last + 1):
            y = row + 0.5 - ya
            wb, wc = b_x * x + b_y * y, c_x * x + c_y * y
            wa = 1.0 - wb - wc
            # Columns from `left` on between which all three weights are positive; rounding may put a sample
            # on a shared edge outside both faces, hence the 1e-9: no pinholes.
            low, high = 0.0, float(right - left)
            low, high = _clipped(wa, a_x, low, high)
            low, high = _clipped(wb, b_x, low, high)
            low, high = _clipped(wc, c_x, low, high)
            if not low <= high:
                continue
            near = near_a + wb * near_b + wc * near_c
            start, stop = int(np.ceil(low)), int(np.floor(high)) + 1
            near += start * near_x
            at = np.uint64(row - top)  # a signed index would cost a wrap-around test each time
            for column in range(np.uint64(left + start), np.uint64(left + stop)):
                here = np.float32(near)
                if here > near_out[at, column]:
                    near_out[at, column] = here
                    face_out[at, column] = f
                near += near_x


@inline_kernel
def face_plane(points, faces, f):
    """What `weights_in` needs of a face: its first corner, slopes of the weights, inverse depths."""
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    xa, ya = points[a, 0], points[a, 1]
    x1, y1, x2, y2 = points[b, 0] - xa, points[b, 1] - ya, points[c, 0] - xa, points[c, 1] - ya
    inverse = 1.0 / (x1 * y2 - x2 * y1)
    return (
        xa, ya, y2 * inverse, -x2 * inverse, -y1 * inverse, x1 * inverse,
        1.0 / points[a, 2], 1.0 / points[b, 2], 1.0 / points[c, 2],
    )  # fmt: skip


@inline_kernel
def weights_in(plane, x, y):
    """Perspective-correct weights of the corners of a face at a place of the picture."""
    dx, dy = x - plane[0], y - plane[1]
    wb, wc = plane[2] * dx + plane[3] * dy, plane[4] * dx + plane[5] * dy
    pa, pb, pc = (1.0 - wb - wc) * plane[6], wb * plane[7], wc * plane[8]
    depth = 1.0 / (pa + pb + pc)
    return pa * depth, pb * depth, pc * depth


@kernel
def _weigh_rows(points, faces, face, row_start, row_stop, out):
    """out (H, W, 3) <- weights of the samples in rows row_start..row_stop, of face (H, W)."""
    held = -1
    plane = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for row in range(row_start, row_stop):
        for column in range(face.shape[1]):
            f = face[row, column]
            if f < 0:
                continue
            if f != held:
                plane = face_plane(points, faces, f)
                held = f
            wa, wb, wc = weights_in(plane, column + 0.5, row + 0.5)
            out[row, column, 0] = wa
            out[row, column, 1] = wb
            out[row, column, 2] = wc


def cover_rows(
    points: np.ndarray, faces: np.ndarray, width: int, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Faces (int32, -1 for none) and inverse depths (float32, 0) of rows start..stop, on this thread.

    points float64 and faces int32 as in `rasterize_pixels`, contiguous.
    """
    face = np.full((stop - start, width), -1, dtype=np.int32)
    near = np.zeros((stop - start, width), dtype=np.float32)
    _cover_rows(points, faces, start, start, stop, width, face, near)
    return face, near


def rasterize_pixels(points: np.ndarray, faces: np.ndarray, width: int, height: int) -> Fragments:
    """Rasterise a mesh that is already in pixels: points (V, 3) = x, y, depth; faces (F, 3).

    Both sides are drawn; a face with a corner at depth <= 0 is left out; ties go to the lower index.
    Laying UV coordinates out as pixels at depth 1 rasterises a texture atlas.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    face = np.full((height, width), -1, dtype=np.int32)
    near = np.zeros((height, width), dtype=np.float32)
    for_bands(lambda start, stop: _cover_rows(points, faces, 0, start, stop, width, face, near), height)

    def weigh() -> np.ndarray:
        out = np.zeros((height, width, 3), dtype=np.float32)
        for_bands(lambda start, stop: _weigh_rows(points, faces, face, start, stop, out), height)
        return out

    with np.errstate(divide="ignore"):
        depth = np.divide(np.float32(1), near, out=near)
    return Fragments(face, depth, weigh)


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
