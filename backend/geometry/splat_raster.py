"""Gaussian splatting on the CPU: pictures of Gaussians, and gradients by hand.

The image formation is GSplat's (1.5, "classic" mode): see `splat_projection.py` and `splat_pixels.py`.
Work is cut into bands of tile columns, each rendered by one thread; bands never share a number that
they write, and what they add up is added in the order of the bands. So results do not depend on the
number of cores, bit for bit.

    rendering = render_gaussians(gaussians, camera...)
    gradients = rendering.backward(upstream)
    gradients, camera = rendering.backward_with_camera(upstream)
    gradients, camera, centres = rendering.backward_with_centres(upstream)

`rasterize.py` has the function for several cameras, with depth and normals, on any device.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numba.core.errors import NumbaError

from backend.geometry import splat_pixels, splat_projection, splat_tiles
from backend.geometry.parallel import map_parallel
from backend.geometry.splat_pixels import median_band
from backend.geometry.splat_projection import (
    CAMERA_GRADIENT,
    NOT_DRAWN,
    SCREEN,
    SCREEN_GRADIENT,
    pack_camera,
)
from backend.geometry.splat_tiles import (
    LOCAL,
    TILE_HEIGHT,
    TILE_WIDTH,
    depth_order,
    split_bands,
)
from shared_protocol.errors import LimitExceeded

_log = logging.getLogger(__name__)

_LARGEST_SIDE = 1 << 14
_LARGEST_COUNT = 1 << 23
"""A hit of a tile keeps the Gaussian's row in 31 bits."""
_CHUNK = 4096
"""Gaussians a task of the projection: fixed, to keep the number of tasks small for small scenes."""
_ROWS = 16
"""Gaussians that the vector loops of the projection take at once."""


@dataclass(frozen=True)
class Gaussians:
    """What is drawn, activated; the arrays of `Splats`, C-contiguous float32.

    positions (G, 3), scales (G, 3), rotations (G, 4) wxyz of any length, opacities (G,),
    harmonics (G, K, 3) with K = 1, 4, 9 or 16. Also the shape of their gradients.
    """

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacities: np.ndarray
    harmonics: np.ndarray

    def __post_init__(self) -> None:
        for name in ("positions", "scales", "rotations", "opacities", "harmonics"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class CameraGradient:
    """What moving one camera does to the loss.

    tangent     (6,) float64: dL/d of a small motion (omega, tau) in the camera's own OpenCV axes, radians
                and metres: a point p in the camera goes to exp(omega) p + tau. `cameras.moved` makes the
                pose of such a motion.
    intrinsics  (4,) float64: dL/d fx, fy, cx, cy, pixels
    """

    tangent: np.ndarray
    intrinsics: np.ndarray


@dataclass(frozen=True)
class Kernels:
    """The hot loops; of those over pixels, the ones for pictures with 4 planes and with a plane of depth."""

    project: Callable[..., None]
    project_back: Callable[..., None]
    bin: Callable[..., tuple]
    gather: Callable[..., None]
    blend: Callable[..., None]
    blend_back: Callable[..., None]
    blend_depth: Callable[..., None]
    blend_depth_back: Callable[..., None]

    @classmethod
    def of(cls, projection: object, tiles: object, pixels: object) -> "Kernels":
        """Those of `splat_projection`, `splat_tiles`, `splat_pixels`, or of modules with the same names."""
        return cls(
            projection.project, projection.project_back,
            tiles.bin_band, tiles.gather_gradient,
            pixels.blend_band, pixels.blend_band_back,
            pixels.blend_band_depth, pixels.blend_band_depth_back,
        )  # fmt: skip


@cache
def raster_kernels(name: str = "auto") -> Kernels:
    """The plain loops ("plain"), those with explicit vector registers ("simd"), or the best that works.

    The vector type builds on parts of Numba that change between its versions: where it cannot be made,
    "auto" takes the plain loops, which give the same picture in more time.
    """
    if name == "plain":
        return Kernels.of(splat_projection, splat_tiles, splat_pixels)
    try:
        from backend.geometry import splat_pixels_simd, splat_projection_simd, splat_tiles_simd

        kernels = Kernels.of(splat_projection_simd, splat_tiles_simd, splat_pixels_simd)
        # Gaussians that are not drawn and one tile: is there machine code for them?
        camera, screen = np.zeros(21, dtype=np.float32), np.empty((_ROWS, SCREEN), dtype=np.float32)
        shapes = ((_ROWS, 3), (_ROWS, 3), (_ROWS, 4), (_ROWS,), (_ROWS, 1, 3), (_ROWS,))
        *arrays, depth = (np.zeros(shape, dtype=np.float32) for shape in shapes)
        kernels.project(camera, False, *arrays, screen, depth, *np.empty((2, _ROWS), dtype=np.int32))
        local, starts, hits = kernels.bin(0, 1, np.empty(0, dtype=np.int32), screen)
        background, image = np.ones(3, dtype=np.float32), np.empty((4, 1, 1), dtype=np.float32)
        kernels.blend(0, 1, 1, starts, hits, local, background, image)
    except (ImportError, AttributeError, NumbaError, RuntimeError) as error:
        if name == "simd":
            raise
        _log.info("plain loops of the rasteriser: %s", error)
        return Kernels.of(splat_projection, splat_tiles, splat_pixels)
    return kernels


@dataclass(frozen=True)
class _Band:
    """One band's lists, kept for the backward pass (see `bin_band`)."""

    first_pixel: int
    ids: np.ndarray
    local: np.ndarray
    starts: np.ndarray
    hits: np.ndarray


@dataclass(frozen=True)
class Rendering:
    """One picture and what its gradient needs.

    image   (4, H, W) float32: R, G, B over the background, alpha; planes, as the loss reads them. With
            depth (5, H, W): plane 4 is the sum of weight times depth along the camera axis, metres
    depth   (G,) float32 metres along the camera axis, 1e30 where a Gaussian is not drawn
    """

    gaussians: Gaussians
    camera: np.ndarray
    antialiased: bool
    image: np.ndarray
    screen: np.ndarray
    depth: np.ndarray
    bands: list[_Band]
    kernels: Kernels

    def backward(self, upstream: np.ndarray) -> Gaussians:
        """upstream float32, dL/d image, same shape -> dL/d of every array of the Gaussians, same shapes."""
        return self._backward(upstream, moving=False)[0]

    def backward_with_camera(self, upstream: np.ndarray) -> tuple[Gaussians, CameraGradient]:
        """As `backward`, and the gradient of the pose and the intrinsics of the camera."""
        gradient, camera, _ = self._backward(upstream, moving=True)
        return gradient, CameraGradient(camera[:6], camera[6:])

    def backward_with_centres(self, upstream: np.ndarray) -> tuple[Gaussians, CameraGradient, np.ndarray]:
        """As `backward_with_camera`, and dL/d of the centres in the picture (G, 2), per pixel."""
        gradient, camera, screen = self._backward(upstream, moving=True)
        return gradient, CameraGradient(camera[:6], camera[6:]), screen[: len(self.gaussians), :2]

    @property
    def drawn(self) -> np.ndarray:
        """(G,) bool: whether a Gaussian reaches the picture."""
        return self.depth < NOT_DRAWN

    def median_depth(self) -> np.ndarray:
        """(H, W) float32 metres along the axis: where the transmittance falls to a half; inf if nowhere."""
        height, width = self.image.shape[1:]
        depth = np.empty((height, width), dtype=np.float32)

        def one(band: _Band) -> None:
            median_band(band.first_pixel, width, height, band.starts, band.hits, band.local, depth)

        map_parallel(one, self.bands)
        return depth

    def _backward(self, upstream: np.ndarray, moving: bool) -> tuple[Gaussians, np.ndarray, np.ndarray]:
        blend_back = self.kernels.blend_back if len(self.image) == 4 else self.kernels.blend_depth_back
        height, width = self.image.shape[1:]
        upstream = np.ascontiguousarray(upstream, dtype=np.float32)

        def one(band: _Band) -> np.ndarray:
            gradient = np.zeros((len(band.ids), LOCAL), dtype=np.float32)
            blend_back(
                band.first_pixel, width, height, band.starts, band.hits, band.local,
                self.image, upstream, gradient,
            )  # fmt: skip
            return gradient

        gradients = map_parallel(one, self.bands)
        given = self.gaussians
        screen_gradient = np.zeros((len(self.screen), SCREEN_GRADIENT), dtype=np.float32)
        for band, gradient in zip(self.bands, gradients, strict=True):
            self.kernels.gather(band.ids, gradient, screen_gradient)
        rows = len(self.screen)
        results = [np.empty((rows, *array.shape[1:]), dtype=np.float32) for array in vars(given).values()]

        def back(piece: slice) -> np.ndarray:
            camera_gradient = np.zeros(CAMERA_GRADIENT)
            self.kernels.project_back(
                self.camera, self.antialiased, moving, *_piece(given, piece),
                self.screen[piece], screen_gradient[piece], *(result[piece] for result in results),
                camera_gradient,
            )  # fmt: skip
            return camera_gradient

        camera = sum(map_parallel(back, _pieces(len(given))), np.zeros(CAMERA_GRADIENT))
        return Gaussians(*(result[: len(given)] for result in results)), camera, screen_gradient


def _pieces(count: int) -> list[slice]:
    """Rows of one task of the projection each: a multiple of sixteen, so the last may be beyond the end."""
    whole, rows = count - count % _ROWS, _rows(count)
    pieces = [slice(start, min(start + _CHUNK, whole)) for start in range(0, whole, _CHUNK)]
    return pieces + [slice(whole, rows)] * (whole < rows)


def _rows(count: int) -> int:
    return -(-count // _ROWS) * _ROWS


def _piece(gaussians: Gaussians, piece: slice) -> list[np.ndarray]:
    """Arrays of some Gaussians, and of such as are not drawn beyond the end."""
    arrays = [array[piece] for array in vars(gaussians).values()]
    missing = piece.stop - piece.start - len(arrays[0])
    return (
        [np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in arrays]
        if missing
        else arrays
    )


def render_gaussians(
    gaussians: Gaussians,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    width: int,
    height: int,
    background: np.ndarray,
    *,
    depth: bool = False,
    antialiased: bool = False,
    kernels: str = "auto",
) -> Rendering:
    """Draw Gaussians for one camera: pose (4, 4) OpenCV axes, intrinsics (3, 3) pixels, background (3,).

    depth adds a fifth plane; antialiased makes Gaussians thinner than a pixel fainter (the 2D filter of
    Mip-Splatting, Yu 2024; GSplat's mode of that name); kernels names the hot loops (`raster_kernels`).
    A Gaussian with a NaN, behind the camera (depth <= 0.01 m), fainter than 1/255 or outside the picture
    is not drawn and gets gradient 0.
    """
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise LimitExceeded(
            f"a picture of Gaussians would have {width}x{height} pixels",
            f"1 to {_LARGEST_SIDE} a side",
        )
    count = len(gaussians)
    if count > _LARGEST_COUNT:
        raise LimitExceeded(
            f"{count:,} Gaussians are too many to draw", f"at most {_LARGEST_COUNT:,}", "Prune them first."
        )
    camera = pack_camera(world_from_camera, intrinsics, width, height)
    chosen, rows = raster_kernels(kernels), _rows(count)
    screen, padded_depth = np.empty((rows, SCREEN), dtype=np.float32), np.empty(rows, dtype=np.float32)
    first_band, last_band = np.empty(rows, dtype=np.int32), np.empty(rows, dtype=np.int32)

    def project(piece: slice) -> None:
        chosen.project(
            camera, antialiased, *_piece(gaussians, piece),
            screen[piece], padded_depth[piece], first_band[piece], last_band[piece],
        )  # fmt: skip

    map_parallel(project, _pieces(count))
    distance = padded_depth[:count]
    tile_rows, bands = -(-height // TILE_HEIGHT), -(-width // TILE_WIDTH)
    first, ids = split_bands(distance, depth_order(distance), first_band, last_band, bands)
    background = np.ascontiguousarray(background, dtype=np.float32)
    blend = chosen.blend_depth if depth else chosen.blend
    image = np.empty((5 if depth else 4, height, width), dtype=np.float32)

    def draw(band: int) -> _Band:
        pixel, mine = band * TILE_WIDTH, ids[first[band] : first[band + 1]]
        local, starts, hits = chosen.bin(pixel, tile_rows, mine, screen)
        blend(pixel, width, height, starts, hits, local, background, image)
        return _Band(pixel, mine, local, starts, hits)

    drawn = map_parallel(draw, range(bands))
    return Rendering(gaussians, camera, antialiased, image, screen, distance, drawn, chosen)
