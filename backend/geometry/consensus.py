"""Views that nearly agree, brought into agreement: each is warped onto what the others show of a surface.

A generated orbit draws every view a pixel or so beside where the object's shape would put it. How far, its
outline shows, which is to be that of a surface drawn into the view; and inside it the optical flow (Kroeger
2016, "Fast optical flow using dense inverse search") from the view as its neighbours' pictures, projected
through the surface, would draw it. A smooth displacement is fitted to both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.displacement import Observed, SmoothDisplacement
from backend.geometry.eight_bit import EightBit, levels_of
from backend.geometry.jit import kernel
from backend.geometry.mesh_check import vertex_normals
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import map_parallel
from backend.geometry.silhouettes import signed_distance

_STATED = 512
"""Longer side of the pictures that the lengths below are of, and of the largest that are compared."""
_SPACING = 40.0
_NEIGHBOURS = 6
_LARGEST_FLOW = 6.0
"""Pixels: larger flow is an error of matching."""
_OUTLINE, _TAIL, _LARGEST_STEP = 0.1, 1.5, 4.0
"""Weight of a pixel of outline; pixels from which its distance counts less (Cauchy), and no longer."""
_BLOCK = 4
_TEXTURE, _MOST_TEXTURE = 2000.0, 0.5
"""Weight of a block of pixels for its sum of squared slopes (grey 0..1 a pixel), and the most it can have."""
_ROUNDS = 2
_GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@kernel
def _blend(points, normals, projection, centres, gray, alpha, depth, slack, out):
    """Mean grey of the views that see each point (P, 3), by the fourth power of the cosine; -1 for none."""
    views, height, width = depth.shape
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        total, mean = np.float32(0.0), np.float32(0.0)
        for n in range(views):
            p = projection[n]
            w = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
            if w <= 0.0:
                continue
            u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / w - 0.5
            v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / w - 0.5
            if u < 0.0 or v < 0.0 or u >= width - 1 or v >= height - 1:
                continue
            if w > depth[n, int(v + 0.5), int(u + 0.5)] + slack:
                continue
            dx, dy, dz = centres[n, 0] - x, centres[n, 1] - y, centres[n, 2] - z
            cosine = (dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]) / np.sqrt(
                dx * dx + dy * dy + dz * dz
            )
            if cosine <= 0.05:
                continue
            column, row = int(u), int(v)
            a, b = np.float32(u - column), np.float32(v - row)
            cover = min(
                alpha[n, row, column], alpha[n, row, column + 1],
                alpha[n, row + 1, column], alpha[n, row + 1, column + 1],
            )  # fmt: skip
            if cover < 0.98:
                continue
            value = (gray[n, row, column] * (1 - a) + gray[n, row, column + 1] * a) * (1 - b) + (
                gray[n, row + 1, column] * (1 - a) + gray[n, row + 1, column + 1] * a
            ) * b
            weight = np.float32(cosine * cosine * cosine * cosine)
            total += weight
            mean += weight * value
        out[i] = mean / total if total > 0.0 else np.float32(-1.0)


def _nearest_views(cameras: Cameras, centre: np.ndarray, count: int) -> np.ndarray:
    """(N, count) int64: the views whose directions from `centre` (3,) are nearest to each view's."""
    towards = cameras.centres - centre
    towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    cosine = np.round(towards @ towards.T, 6)
    np.fill_diagonal(cosine, -2)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :count]


def _others_picture(
    view: int,
    depth: np.ndarray,
    across: np.ndarray,
    gray: np.ndarray,
    alpha: np.ndarray,
    cameras: Cameras,
    others: np.ndarray,
    slack: float,
) -> np.ndarray:
    """(H, W) float32: the view as the others would draw it; -1 where they see nothing.

    depth   (N, H, W) of the surface in all views, inf outside
    across  (P, 3) the normals of the P pixels of this view that see it
    """
    pose, intrinsics = cameras.world_from_camera[view], cameras.intrinsics[view]
    row, column = np.nonzero(np.isfinite(depth[view]))
    z = depth[view, row, column].astype(np.float64)
    pixel = np.stack([column + 0.5, row + 0.5, np.ones(len(z))])
    points = (np.linalg.inv(intrinsics) @ pixel).T * z[:, None] @ pose[:3, :3].T + pose[:3, 3]
    across = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    found = np.empty(len(points), dtype=np.float32)
    projection = np.ascontiguousarray(cameras.intrinsics[others] @ cameras.camera_from_world[others, :3])
    _blend(
        points, across.astype(np.float64), projection, np.ascontiguousarray(cameras.centres[others]),
        gray[others], alpha[others], depth[others], slack, found,
    )  # fmt: skip
    picture = np.full(gray.shape[1:], -1, dtype=np.float32)
    picture[row, column] = found
    return picture


@dataclass(frozen=True)
class _Outline:
    """One view's outline as it is, and that of the surface.

    distance (H, W) float32 pixels to the view's own, slope (2, H, W) float32 its gradient in x and y
    wanted   (P, 2) float64: points x, y of the surface's
    """

    distance: np.ndarray
    slope: tuple[np.ndarray, np.ndarray]
    wanted: np.ndarray

    @classmethod
    def of(cls, alpha: np.ndarray, drawn: np.ndarray) -> "_Outline":
        """alpha, drawn (H, W) float32: coverage in the view and by the surface."""
        distance = signed_distance(alpha)
        there = signed_distance(drawn)
        row, column = np.nonzero(np.abs(there) < 0.71)
        slope = np.stack([_sampled(s, column, row) for s in _slopes(there)], axis=-1)
        length = np.linalg.norm(slope, axis=1, keepdims=True) + 1e-6
        wanted = np.stack([column, row], axis=1) - there[row, column, None] * slope / length
        within = np.all((wanted > 1) & (wanted < np.array(alpha.shape[::-1]) - 2), axis=1)
        return cls(distance, _slopes(distance), wanted[within])

    def observed(self, moved: np.ndarray, unit: float, first: bool) -> Observed:
        """What each wanted point, so far displaced by `moved` (P, 2) pixels, lacks across the outline."""
        x, y = (self.wanted + moved).T
        slope = np.stack([_sampled(s, x, y) for s in self.slope], axis=-1)
        length = np.linalg.norm(slope, axis=1)
        across = slope / (length[:, None] + 1e-6)
        off = _sampled(self.distance, x, y) / unit
        limit = _LARGEST_STEP * (1.5 if first else 1.0)
        weight = (_OUTLINE / unit) / (1 + (off / _TAIL) ** 2) * ((np.abs(off) < limit) & (length > 0.5))
        return Observed(self.wanted, across, np.einsum("pi,pi->p", across, moved) / unit - off, weight)


def _slopes(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    smooth = cv2.GaussianBlur(distance, (0, 0), 1)
    return cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)


def _sampled(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(P,) float64: `picture` (H, W) at pixel indices x, y (P,), linear between pixels."""
    height, width = picture.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    column, row = (np.minimum(i.astype(np.int64), n - 2) for i, n in ((x, width), (y, height)))
    a, b = x - column, y - row
    above = picture[row, column] * (1 - a) + picture[row, column + 1] * a
    return above * (1 - b) + (picture[row + 1, column] * (1 - a) + picture[row + 1, column + 1] * a) * b


def _texture(others: np.ndarray, gray: np.ndarray, alpha: np.ndarray, unit: float) -> list[Observed]:
    """The flow from the others' picture to the view, in blocks, weighted by the slopes of what is there."""
    both = (others >= 0) & (alpha > 0.98)
    if not both.any():
        return []
    there, here = (np.where(both, picture, 0.5).astype(np.float32) for picture in (others, gray))
    bytes_there, bytes_here = (np.rint(p * 255).clip(0, 255).astype(np.uint8) for p in (there, here))
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(bytes_there, bytes_here, None)
    core = cv2.erode(both.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    core &= np.hypot(flow[..., 0], flow[..., 1]) < _LARGEST_FLOW * unit
    size = (gray.shape[1] // _BLOCK, gray.shape[0] // _BLOCK)
    rows, columns = (_BLOCK * np.mgrid[0 : size[1], 0 : size[0]] + (_BLOCK - 1) / 2).astype(np.float64)
    scale = (gray.shape[1] / (_BLOCK * size[0]), gray.shape[0] / (_BLOCK * size[1]))
    found = []
    for axis in range(2):
        slope = np.where(core, cv2.Sobel(there, cv2.CV_32F, 1 - axis, axis, scale=1 / 8), np.float32(0))
        squared = slope * slope
        sums = cv2.resize(np.dstack([squared, squared * flow[..., axis]]), size, interpolation=cv2.INTER_AREA)
        use = sums[..., 0] * _BLOCK**2 > 5e-5
        total = sums[use, 0].astype(np.float64)
        found.append(
            Observed(
                np.stack([columns[use] * scale[0], rows[use] * scale[1]], axis=1),
                np.tile(np.eye(2)[axis], (len(total), 1)),
                sums[use, 1] / total / unit,
                np.minimum(_TEXTURE * _BLOCK**2 * total, _MOST_TEXTURE / unit**2),
            )
        )
    return found


def _reduced(rgba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, h, w) float32 each: grey over mid-grey, and alpha, the longer side at most _STATED."""
    height, width = rgba.shape[1:3]
    share = min(1.0, _STATED / max(height, width))
    size = (max(2, round(width * share)), max(2, round(height * share)))
    gray, alpha = np.empty((2, len(rgba), size[1], size[0]), dtype=np.float32)
    for view, picture in enumerate(rgba):
        cover = picture[..., 3]
        over = (picture[..., :3] @ _GRAY) * cover + np.float32(0.5) * (1 - cover)
        both = np.dstack([over, cover])
        if size != (width, height):
            both = cv2.resize(both, size, interpolation=cv2.INTER_AREA)
        gray[view], alpha[view] = both[..., 0], both[..., 1]
    return gray, alpha


def agreeing_pictures(
    rgba: np.ndarray | EightBit,
    cameras: Cameras,
    vertices: np.ndarray,
    faces: np.ndarray,
    check: Callable[[], None] = lambda: None,
    *,
    texture: bool = True,
) -> tuple[EightBit, float]:
    """Pictures warped to agree on a surface, and the mean over them of the median warp in pixels.

    rgba (N, H, W, 4) float32 straight alpha, N cameras; vertices (V, 3), faces (F, 3) a closed surface near
    the object's. What the pictures hold beyond smooth warps stays.
    texture  compare what is drawn inside the outlines too: wants a surface that is more than a hull
    """
    gray, alpha = _reduced(rgba)
    small = cameras.resized(alpha.shape[2], alpha.shape[1])
    unit = max(small.width, small.height) / _STATED
    twice = small.resized(2 * small.width, 2 * small.height)
    field = SmoothDisplacement(small.width, small.height, _SPACING * unit)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    near = _nearest_views(cameras, (low + high) / 2, min(_NEIGHBOURS, len(cameras) - 1))
    slack = 0.01 * float((high - low).max())
    rows, columns = np.mgrid[0 : rgba.shape[1], 0 : rgba.shape[2]].astype(np.float32)
    normals = vertex_normals(vertices, faces)
    depth = np.empty(alpha.shape, dtype=np.float32)

    def camera(chosen: Cameras, view: int) -> tuple:
        return chosen.world_from_camera[view], chosen.intrinsics[view], chosen.width, chosen.height

    def draw(view: int) -> np.ndarray:
        check()
        fragments = rasterize_mesh(vertices, faces, *camera(small, view))
        depth[view] = fragments.depth
        return fragments.interpolate(normals, faces)[fragments.face >= 0]

    across = map_parallel(draw, range(len(cameras))) if texture else []
    warped = np.empty(rgba.shape, dtype=np.uint8)

    def warp(view: int) -> float:
        check()
        found: list[Observed] = []
        if texture:
            others = _others_picture(view, depth, across[view], gray, alpha, small, near[view], slack)
            found = _texture(others, gray[view], alpha[view], unit)
        inside = rasterize_mesh(vertices, faces, *camera(twice, view)).face >= 0
        drawn = cv2.resize(inside.astype(np.float32), alpha.shape[:0:-1], interpolation=cv2.INTER_AREA)
        outline = _Outline.of(alpha[view], drawn)
        check()
        inner, coefficients = field.asked(*found), np.zeros((field.size, 2))
        for turn in range(_ROUNDS):
            moved = field.at(coefficients, outline.wanted) * unit
            coefficients = field.fit(inner, field.asked(outline.observed(moved, unit, turn == 0)))
        check()
        flow = field.everywhere(coefficients, rgba.shape[2], rgba.shape[1])
        flow *= np.float32(max(rgba.shape[1:3]) / _STATED)
        picture = np.array(rgba[view])
        cover = picture[..., 3:]
        picture[..., :3] *= cover
        moved = cv2.remap(picture, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_CUBIC)
        covered = moved[..., 3:].clip(0, 1)
        warped[view, ..., :3] = levels_of(moved[..., :3] / np.maximum(covered, 1e-3))
        warped[view, ..., 3:] = levels_of(covered)
        shown = cover[..., 0] > 0.5
        return float(np.median(np.hypot(flow[shown, 0], flow[shown, 1]))) if shown.any() else 0.0

    lengths = map_parallel(warp, range(len(cameras)))
    return EightBit(warped), float(np.mean(lengths))
