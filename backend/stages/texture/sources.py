"""What the views can say about the surface: colour in two bands, how far to trust each pixel, depth."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.eight_bit import EightBit
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.parallel import map_parallel
from backend.pipeline.values import Mesh, Views
from backend.stages.texture.push_pull import push_pull

SOLID_ALPHA = 0.9
"""Alpha from which a pixel's colour is the object's alone."""
LOW_BAND_SIGMA = 1 / 100
"""Blur that parts the two bands, in picture widths."""
EDGE_RAMP = 2 / 512
"""Trust grows from 0 at a silhouette or an occlusion edge to 1 at this distance, in picture widths."""
DEPTH_TOLERANCE = 2e-3
"""How far a point may lie behind the surface that a view sees and still be that surface, in extents."""
LOW_SHRINK = 4
"""The low band is kept at this part of the size: its blur is wider than four pixels from 400 up."""
_LARGE = 768
"""Pixels: larger views are prepared one after another, each with 30 MiB of pictures that are then dropped."""
_MARGIN = 3
"""Of such blurs around the object."""
NOTHING = 65535
"""Depth where the mesh is not."""


@dataclass(frozen=True)
class Windows:
    """The part of each view that shows the object, of one size for all: nothing else is prepared.

    left, top  (N,) int64, pixels of the view
    """

    left: np.ndarray
    top: np.ndarray
    width: int
    height: int

    @classmethod
    def of(cls, alpha: np.ndarray | EightBit, margin: int) -> "Windows":
        """Around what is not clear in alpha (N, H, W), with `margin` pixels more where the view has them."""
        boxes = np.array([[_span((view > 0).any(axis=axis), margin) for axis in (1, 0)] for view in alpha])
        size = (boxes[..., 1] - boxes[..., 0]).max(axis=0)
        top, left = np.minimum(boxes[..., 0], np.array(alpha.shape[1:]) - size).T
        return cls(left, top, int(size[1]), int(size[0]))

    def part(self, view: int) -> tuple[int, slice, slice]:
        """Index of this window in pictures (N, H, W, ...)."""
        top, left = self.top[view], self.left[view]
        return view, slice(top, top + self.height), slice(left, left + self.width)


def _span(shown: np.ndarray, margin: int) -> tuple[int, int]:
    """First place and the one after the last where `shown` (n,), widened by `margin`."""
    places = np.flatnonzero(shown)
    low, high = (places[0], places[-1] + 1) if len(places) else (0, 1)
    return max(low - margin, 0), min(high + margin, len(shown))


@dataclass(frozen=True)
class Sources:
    """Windows of all views, ready to be projected; some 3 to 8 MiB a view of 1024 pixels.

    colors    (N, H, W, 4) uint8: colour, defined beyond the silhouette too; trust, 0 outside and at
              silhouettes and occlusion edges, 255 inside
    low       (N, h, w, 3) float32: the colours blurred, at a smaller size
    depth     (N, rows, columns) uint16: depth along the axis, near + step * depth metres; NOTHING outside
    range     (N, 2) float32: near, step
    matrices  (N, 3, 4) float32: world -> homogeneous pixels of `colors`
    centres   (N, 3) float32: of the cameras, metres
    """

    colors: np.ndarray
    low: np.ndarray
    depth: np.ndarray
    range: np.ndarray
    matrices: np.ndarray
    centres: np.ndarray

    def __len__(self) -> int:
        return len(self.colors)


def prepare_sources(mesh: Mesh, views: Views, on_view: Callable[[int], None]) -> Sources:
    """Everything that `projection` samples; `on_view(i)` is called before view i, from several threads."""
    count, full = len(views), views.rgba.shape[2]
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    fine, sigma = depth_oversampling(full), LOW_BAND_SIGMA * full
    windows = Windows.of(views.alpha, round(_MARGIN * sigma))
    width, height = windows.width, windows.height
    cameras = views.cameras.cropped(windows.left, windows.top, width, height)
    colors = np.empty((count, height, width, 4), dtype=np.uint8)
    low = np.empty((count, -(-height // LOW_SHRINK), -(-width // LOW_SHRINK), 3), dtype=np.float32)
    depth = np.empty((count, fine * height, fine * width), dtype=np.uint16)
    ranges = np.empty((count, 2), dtype=np.float32)

    def prepare(view: int) -> None:
        on_view(view)
        part = windows.part(view)
        exact = render_depth(mesh, cameras, view, fine)
        depth[view], ranges[view] = quantize_depth(exact)
        trust = trust_map(views.alpha[part], exact, extent, EDGE_RAMP * fine * full)
        del exact
        if views.pixel_confidence is not None:
            trust *= views.pixel_confidence[part]
        colors[view, ..., 3] = np.rint(255 * trust)
        picture = spread_color(views.rgba[part])
        low[view] = low_band(picture, sigma)
        np.clip(picture, 0, 1, out=picture)
        picture *= 255
        colors[view, ..., :3] = np.rint(picture, out=picture)

    if full > _LARGE:
        for view in range(count):
            prepare(view)
    else:
        map_parallel(prepare, range(count))
    matrices = cameras.intrinsics @ cameras.camera_from_world[:, :3]
    return Sources(
        colors, low, depth, ranges, matrices.astype(np.float32), cameras.centres.astype(np.float32)
    )


def depth_oversampling(width: int) -> int:
    """Depth samples a pixel: small pictures need two for sharp occlusion edges."""
    return 2 if width <= 768 else 1


def spread_color(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32: the object's own colours, carried outward over mixed pixels and the background."""
    alpha = np.ascontiguousarray(rgba[..., 3])
    # Colours at the silhouette are mixed with what was behind: they count only where nothing else is near.
    solid = cv2.erode((alpha >= SOLID_ALPHA).astype(np.float32), np.ones((3, 3), np.uint8))
    weight = np.where(solid > 0, np.float32(1), np.float32(1e-3) * alpha)
    colors = np.ascontiguousarray(rgba[..., :3])
    del rgba, solid, alpha
    return push_pull(colors, weight)


def low_band(picture: np.ndarray, sigma: float) -> np.ndarray:
    """(h, w, 3) float32: the picture (H, W, 3) blurred by `sigma` pixels, a sample every LOW_SHRINK."""
    height, width = picture.shape[:2]
    right, below = -width % LOW_SHRINK, -height % LOW_SHRINK
    padded = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = ((width + right) // LOW_SHRINK, (height + below) // LOW_SHRINK)
    small = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
    # Averaging over LOW_SHRINK pixels is itself a blur, of variance (LOW_SHRINK^2 - 1) / 12.
    variance = sigma**2 - (LOW_SHRINK**2 - 1) / 12
    return cv2.GaussianBlur(small, (0, 0), np.sqrt(max(variance, 0.25)) / LOW_SHRINK)


def render_depth(mesh: Mesh, cameras: Cameras, view: int, oversampling: int) -> np.ndarray:
    """Z-buffer of the mesh (rows, columns) float32, at a multiple of the view's size."""
    fine = cameras.resized(cameras.width * oversampling, cameras.height * oversampling)
    return rasterize_mesh(
        mesh.vertices,
        mesh.faces,
        fine.world_from_camera[view],
        fine.intrinsics[view],
        fine.width,
        fine.height,
    ).depth


def quantize_depth(depth: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Depth (H, W), inf for nothing -> uint16 and (near, step): steps of 1/65534 of what there is."""
    hit = np.isfinite(depth)
    if not hit.any():
        return np.full(depth.shape, NOTHING, dtype=np.uint16), (0.0, 1.0)
    near, far = float(depth[hit].min()), float(depth[hit].max())
    step = max(far - near, 1e-6) / (NOTHING - 1)
    steps = np.rint((np.where(hit, depth, near) - near) / step)
    return np.where(hit, steps, NOTHING).astype(np.uint16), (near, step)


def trust_map(alpha: np.ndarray, depth: np.ndarray, extent: float, reach: float) -> np.ndarray:
    """(H, W) float32 0..1: 0 outside the cut-out (alpha) and at edges of the depth, 1 from `reach` of its
    samples inside."""
    height, width = alpha.shape
    inside = (alpha >= 0.5).astype(np.uint8)
    edges = occlusion_edges(depth, extent)
    fine = cv2.resize(inside, edges.shape[::-1], interpolation=cv2.INTER_NEAREST) & ~edges & 1
    distance = cv2.distanceTransform(fine, cv2.DIST_L2, 3)
    distance = cv2.resize(distance, (width, height), interpolation=cv2.INTER_AREA)
    ramp = np.clip(distance / reach, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp) * inside).astype(np.float32)


def occlusion_edges(depth: np.ndarray, extent: float) -> np.ndarray:
    """(H, W) uint8, 1 where depth jumps by more than 2 % of the extent between neighbouring pixels."""
    finite = np.where(np.isfinite(depth), depth, np.float32(1e3 * extent))
    box = np.ones((3, 3), np.uint8)
    return (cv2.dilate(finite, box) - cv2.erode(finite, box) > 0.02 * extent).astype(np.uint8)
