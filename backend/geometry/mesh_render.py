"""Pictures of textured and of plain meshes, supersampled, on top of the z-buffer of `mesh_raster`.

Both kinds share one kernel: a clay picture is a textured one whose UVs are the camera-space normals
and whose texture is a picture of a lit ball (a "matcap").
"""

from collections.abc import Callable

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.jit import kernel
from backend.geometry.mesh_raster import cover_rows, face_plane, mesh_in_pixels, weights_in
from backend.geometry.parallel import bands, for_bands

_STRIP = 128
"""Rows of a picture that are drawn at once."""


@kernel
def _resolve_rows(points, faces, face, top, uvs, texture, supersample, background, out):
    """Rows of `out` (H, W, 4) straight alpha from faces seen (H s, W s) and a texture (T, T, 3).

    The first row of `face` is row `top` of the fine picture in which `points` are. The mean over a pixel's
    s x s samples is taken on premultiplied colour. background (3,), or (0,) for none.
    """
    height, width = texture.shape[0], texture.shape[1]
    held = -1
    plane = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            red, green, blue, covered = 0.0, 0.0, 0.0, 0
            for i in range(supersample):
                for j in range(supersample):
                    y, x = row * supersample + i, column * supersample + j
                    f = face[y, x]
                    if f < 0:
                        continue
                    covered += 1
                    if f != held:
                        plane = face_plane(points, faces, f)
                        held = f
                    wa, wb, wc = weights_in(plane, x + 0.5, top + y + 0.5)
                    u = wa * uvs[f, 0, 0] + wb * uvs[f, 1, 0] + wc * uvs[f, 2, 0]
                    v = wa * uvs[f, 0, 1] + wb * uvs[f, 1, 1] + wc * uvs[f, 2, 1]
                    s = min(max(u * width - 0.5, 0.0), width - 1.0)
                    t = min(max((1.0 - v) * height - 0.5, 0.0), height - 1.0)
                    s0, t0 = min(int(s), width - 2), min(int(t), height - 2)
                    fs, ft = np.float32(s - s0), np.float32(t - t0)
                    gs, gt = np.float32(1) - fs, np.float32(1) - ft
                    w00, w01, w10, w11 = gs * gt, fs * gt, gs * ft, fs * ft
                    a, b = texture[t0, s0], texture[t0, s0 + 1]
                    c, d = texture[t0 + 1, s0], texture[t0 + 1, s0 + 1]
                    red += w00 * a[0] + w01 * b[0] + w10 * c[0] + w11 * d[0]
                    green += w00 * a[1] + w01 * b[1] + w10 * c[1] + w11 * d[1]
                    blue += w00 * a[2] + w01 * b[2] + w10 * c[2] + w11 * d[2]
            if len(background):
                share = 1.0 / (supersample * supersample)
                clear = 1.0 - covered * share
                out[row, column, 0] = red * share + clear * background[0]
                out[row, column, 1] = green * share + clear * background[1]
                out[row, column, 2] = blue * share + clear * background[2]
                out[row, column, 3] = 1.0
            elif covered:
                out[row, column, 0] = red / covered
                out[row, column, 1] = green / covered
                out[row, column, 2] = blue / covered
                out[row, column, 3] = covered / (supersample * supersample)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float32 unit normals, mean of the faces around each vertex weighted by their area.

    A vertex without a face of non-zero area gets +Z.
    """
    corners = np.asarray(vertices, dtype=np.float64)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = np.stack(
        [
            np.bincount(faces.ravel(), weights=np.repeat(normals[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    tiny = length[:, 0] < 1e-20
    sums[tiny], length[tiny] = (0.0, 0.0, 1.0), 1.0
    return (sums / length).astype(np.float32)


def over(rgba: np.ndarray, background: tuple[float, float, float]) -> np.ndarray:
    """Straight-alpha pictures (..., 4) over a plain colour: (..., 3), sRGB-encoded blending as in PNGs."""
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + np.asarray(background, dtype=rgba.dtype) * (1 - alpha)


def render_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    uvs: np.ndarray,
    texture: np.ndarray,
    cameras: Cameras,
    *,
    supersample: int = 2,
    background: tuple[float, float, float] | None = None,
    on_view: Callable[[int], None] = lambda view: None,
) -> np.ndarray:
    """Render a textured mesh, unlit, into every camera.

    vertices (V, 3) metres, world; faces (F, 3); uvs (F, 3, 2) and texture (T, T, 3) as in
    `values.TexturedMesh` (v up, row 0 is v = 1), bilinear, clamped at the edges; `on_view(i)` is called
    before view i. Returns (N, H, W, 4) float32, straight alpha (0 outside), or opaque over `background`.
    """
    uvs = np.ascontiguousarray(uvs, dtype=np.float32)
    texture = np.ascontiguousarray(texture, dtype=np.float32)
    triangles = np.ascontiguousarray(faces, dtype=np.int32)
    behind = np.array([] if background is None else background, dtype=np.float32)
    out = np.zeros((len(cameras), cameras.height, cameras.width, 4), dtype=np.float32)
    fine = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    for view in range(len(cameras)):
        on_view(view)
        points = mesh_in_pixels(vertices, fine.world_from_camera[view], fine.intrinsics[view])

        def draw(start: int, stop: int, points: np.ndarray = points, picture: np.ndarray = out[view]) -> None:
            # By strips: the faces of a whole fine picture are larger than the picture itself.
            for top, bottom in bands(stop - start, -(-(stop - start) // _STRIP)):
                first = supersample * (start + top)
                face, _ = cover_rows(points, triangles, fine.width, first, supersample * (start + bottom))
                strip = picture[start + top : start + bottom]
                _resolve_rows(points, triangles, face, first, uvs, texture, supersample, behind, strip)

        for_bands(draw, cameras.height)
    return out


def clay_ball(size: int = 128) -> np.ndarray:
    """(size, size, 3) float32: a lit clay ball seen by a camera; key light upper left, sky above."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, -axis)
    scale = np.maximum(np.hypot(x, y), 1.0)
    x, y = x / scale, y / scale
    normal = np.stack([x, y, np.sqrt(np.maximum(1 - x * x - y * y, 0))], axis=-1)
    key = np.array([-0.45, 0.55, 0.70])
    key /= np.linalg.norm(key)
    lambert = np.maximum(normal @ key, 0)
    light = 0.26 + 0.16 * (0.5 + 0.5 * normal[..., 1]) + 0.58 * lambert**1.3
    return np.clip(light[..., None] * np.array([0.84, 0.77, 0.70]), 0, 1).astype(np.float32)


def render_clay(
    vertices: np.ndarray,
    faces: np.ndarray,
    cameras: Cameras,
    *,
    supersample: int = 2,
    background: tuple[float, float, float] | None = None,
    on_view: Callable[[int], None] = lambda view: None,
) -> np.ndarray:
    """Render the bare shape as clay lit from the camera's upper left; otherwise as `render_mesh`."""
    ball = clay_ball()
    normals = vertex_normals(vertices, faces).astype(np.float64)
    pictures = []
    for view in range(len(cameras)):
        on_view(view)
        camera = cameras.take([view])
        local = normals @ camera.world_from_camera[0, :3, :3]
        uvs = 0.5 + 0.495 * np.stack([local[:, 0], -local[:, 1]], axis=-1)
        pictures.append(
            render_mesh(
                vertices, faces, uvs[faces], ball, camera, supersample=supersample, background=background
            )
        )
    return np.concatenate(pictures)
