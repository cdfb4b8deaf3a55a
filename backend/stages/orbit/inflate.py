"""The embedded shape prior: the silhouette inflated along the camera's rays, rendered on the ring.

Ingredients measured beforehand: Poisson inflation (laplacian = -4, thickness its square root), a back
filled harmonically from the contour so that no second face looks backward.
"""

from collections.abc import Callable

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.images import resize_rgba
from backend.pipeline.options import OrbitOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, Views
from backend.stages.orbit.backside import back_colour
from backend.stages.orbit.contour import FlatMesh, triangulate
from backend.stages.orbit.relief import displacement, relief_signal
from backend.stages.orbit.render import Shape, render
from backend.stages.orbit.run import ring_cameras
from backend.stages.orbit.thickness import half_thickness
from backend.stages.orbit.turned import recognise, turned_layers
from shared_protocol.errors import StageFailed

GRID = 384
"""Cells along the frame; finer ones cost more than they show at 512 pixels a view."""
MAX_TILT = 30.0
"""Degrees between the shape's middle plane and the picture plane, at most."""
STANDING = 0.5
"""How far, from the picture plane (0) to the vertical (1), the plane of an upright object turns when seen
from above: further up, its rays slant through it and shear it."""
LYING, UPRIGHT = 0.3, 0.6
"""Height over width of objects that surely lie, surely stand."""
FADE_START, FADE_STOP = 0.05, 0.5
"""Cosine between surface and view over which the front picture fades in."""
FADE_LATHE = 0.15
"""The same end of the fade where the shape is known to be turned: its rim and top are seen at a slant.
With 0.3 the white inside of a cup faded into its yellow outside: over 5 views 41.6 dB on the front instead of
44.0, and 18.37 instead of 18.36 on the other views."""
PLACINGS = ((STANDING, 1.0), (0.25, 1.0), (0.0, 1.0), (0.0, 0.85), (0.0, 0.7))
"""Turn toward the vertical and factor on the thickness, tried in order until every view holds the whole
object."""
FRAME_MARGIN = 0.01
"""Share of the frame; the relief, which comes later, has room in it."""
PRIOR_CONFIDENCE = 0.5


class InflateOrbit:
    """The embedded engine."""

    version = "1"

    def generate(self, cutout: Picture, options: OrbitOptions, context: StageContext) -> Views:
        """See run.py. StageFailed when the cut-out has no solid part."""
        cameras = ring_cameras(options)
        context.step(0, options.views + 1, "Inflating the silhouette")
        front = resize_rgba(cutout.rgba, options.size)
        shape, fits, lathe = build_shape(
            cutout.rgba, cameras, options.elevation, context.check, relief=options.relief
        )
        context.note(
            lathe_confidence=round(lathe, 3), shape="turned on a lathe" if lathe > 0.5 else "inflated outline"
        )
        if not fits:
            context.warn("The object leaves the frame in some views; use a smaller matting.fill.")
        rgba = np.empty((options.views, options.size, options.size, 4), dtype=np.float32)
        depth = np.empty(rgba.shape[:3], dtype=np.float32)
        for index in range(options.views):
            context.step(index + 1, options.views + 1, f"Rendering view {index + 1} of {options.views}")
            rgba[index], depth[index] = render(
                shape, cameras.world_from_camera[index], cameras.intrinsics[index], options.size
            )
            context.preview("orbit", lambda index=index: rgba[index])
        rgba[0] = front
        depth[0][front[..., 3] == 0] = np.inf
        confidence = np.full(options.views, PRIOR_CONFIDENCE, dtype=np.float32)
        confidence[0] = 1
        return Views(rgba, cameras, confidence, depth)


def build_shape(
    rgba: np.ndarray,
    cameras: Cameras,
    elevation_degrees: float,
    check: Callable[[], None] = lambda: None,
    *,
    relief: float = 0.0,
) -> tuple[Shape, bool, float]:
    """The cut-out (M, M, 4) as a closed surface whose outline seen from camera 0 is the cut-out's.

    cameras  the ring; elevation_degrees that of camera 0; check is called between the slower steps
    relief   see OrbitOptions
    Returns the shape; whether it stays inside the frame of every camera (it is turned or made thinner if
    that helps); and the confidence, 0..1, that it was made on a lathe: one if above 0.5.
    """
    grid = min(GRID, cameras.width)
    alpha = resize_rgba(rgba, grid)[..., 3]
    flat = triangulate(alpha)
    if flat.inner == 0:
        raise StageFailed("the cut-out has no solid part", "an object", "Look at cutout.png.")
    place = flat.points / grid
    pose, intrinsics = cameras.world_from_camera[0], cameras.intrinsics[0]
    rays = np.column_stack([place * cameras.width, np.ones(len(place))]) @ np.linalg.inv(intrinsics).T
    direction = rays @ pose[:3, :3].T
    origin = pose[:3, 3]
    extent = np.ptp(place, axis=0)
    # The size of a cell at the world's origin turns cells into metres.
    cell = np.linalg.norm(origin) / intrinsics[0, 0] * cameras.width / grid
    strength = relief * extent.max() * grid * cell
    check()
    small = cameras.resized(grid, grid)
    lathe, confidence = recognise(alpha, small.world_from_camera[0], small.intrinsics[0], check, rgba)
    if lathe is not None:
        near, far = turned_layers(lathe, alpha, flat, cameras, direction, check)
        vertices = np.concatenate(
            [origin + near[:, None] * direction, origin + far[:, None] * direction[: flat.inner]]
        )
        if stays_in_frame(vertices, cameras):
            return _painted(flat, vertices, origin, rgba, alpha, True, strength, check), True, confidence
    thickness = half_thickness(alpha).ravel()[flat.grid] * cell
    for standing, factor in PLACINGS:
        check()
        normal = middle_plane_normal(elevation_degrees, extent[1] / extent[0], standing)
        middle = -(origin @ normal) / (direction @ normal)
        near, far = middle.copy(), middle[: flat.inner] + factor * thickness
        near[: flat.inner] -= factor * thickness
        vertices = np.concatenate(
            [origin + near[:, None] * direction, origin + far[:, None] * direction[: flat.inner]]
        )
        fits = stays_in_frame(vertices, cameras)
        if fits:
            break
    return _painted(flat, vertices, origin, rgba, alpha, False, strength, check), fits, confidence


def _painted(
    flat: FlatMesh,
    vertices: np.ndarray,
    origin: np.ndarray,
    rgba: np.ndarray,
    alpha: np.ndarray,
    turned: bool,
    relief: float,
    check: Callable[[], None],
) -> Shape:
    """The two layers (V + inner, 3) joined along the contour, given their pictures and `relief` metres."""
    back_index = np.arange(len(flat.points))
    back_index[: flat.inner] += len(flat.points)
    # On the picture the faces run clockwise: seen from camera 0, outside the front.
    faces = np.concatenate([flat.faces[:, ::-1], back_index[flat.faces]]).astype(np.int32)
    place = flat.points / len(alpha)
    attributes = np.zeros((len(vertices), 3), dtype=np.float32)
    attributes[:, :2] = np.concatenate([place, place[: flat.inner]])
    share = front_share(vertices, faces, origin, FADE_LATHE if turned else FADE_STOP)
    attributes[:, 2] = share
    if relief > 0:
        inner = flat.inner
        front, back = vertices[:inner], vertices[len(flat.points) :]
        ray = front - origin
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        half = np.linalg.norm(back - front, axis=1) / 2
        signal = relief_signal(rgba, alpha).ravel()[flat.grid]
        vertices[:inner] -= displacement(signal, share[:inner], half, relief)[:, None] * ray
    check()
    colour = np.ascontiguousarray(rgba[..., :3])
    pictures = np.ascontiguousarray(np.dstack([colour, back_colour(colour, alpha)]))
    return Shape(vertices, faces, attributes, pictures)


def stays_in_frame(vertices: np.ndarray, cameras: Cameras) -> bool:
    """Whether no camera but the first, whose frame is given, cuts the shape off."""
    pixels, depth = cameras.project(vertices[::5])
    low, high = FRAME_MARGIN * cameras.width, (1 - FRAME_MARGIN) * cameras.width
    inside = (pixels[1:] > low).all() and (pixels[1:] < high).all()
    return bool(inside and (depth[1:] > 0).all())


def middle_plane_normal(
    elevation_degrees: float, aspect: float = 1.0, standing: float = STANDING
) -> np.ndarray:
    """(3,) unit normal of the shape's middle plane, which holds the world's X axis, facing -Y.

    aspect  height over width of the object's box. An upright object's plane turns toward the vertical; one
            seen from above that is much wider than tall lies on the ground, and its plane leans back.
    """
    upright = np.clip((aspect - LYING) / (UPRIGHT - LYING), 0, 1)
    share = upright * standing - (1 - upright)
    tilt = np.clip(elevation_degrees * share, -MAX_TILT, MAX_TILT)
    lean = np.radians(elevation_degrees - tilt)
    return np.array([0.0, -np.cos(lean), np.sin(lean)])


def front_share(
    vertices: np.ndarray, faces: np.ndarray, eye: np.ndarray, fade_stop: float = FADE_STOP
) -> np.ndarray:
    """(V,) float32: how much of the front picture a vertex shows, 1 facing `eye`, 0 from the side on.

    Where the surface turns away the picture would be stretched into streaks; it fades there into the
    colours of the back, which agree with it along the contour.
    """
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(face_normals[:, axis], 3), len(vertices)) for axis in range(3)],
        axis=-1,
    )
    view = eye - vertices
    lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(view, axis=1)
    facing = (normals * view).sum(axis=1) / np.maximum(lengths, 1e-30)
    t = np.clip((facing - FADE_START) / (fade_stop - FADE_START), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
