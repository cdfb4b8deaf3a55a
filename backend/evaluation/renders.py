"""Pictures of the truth: z-buffer, bilinear repeating textures, supersampled, with or without lights."""

from collections.abc import Callable

import cv2
import numpy as np

from backend.evaluation.objects import TrueObject
from backend.geometry.cameras import Cameras
from backend.geometry.mesh_raster import Fragments, rasterize_mesh
from backend.geometry.mesh_render import vertex_normals

KEY, FILL = (-0.5, -0.7, 0.8), (0.8, 0.3, 0.1)
"""Directions toward the two lights, fixed in the world."""
AMBIENT, KEY_LIGHT, FILL_LIGHT = 0.45, 0.5, 0.2
SHARP = np.cos(np.radians(30.0))
"""Faces that turn further from their vertices' normal than this are lit flat."""


def render_truth(
    truth: TrueObject,
    cameras: Cameras,
    *,
    lit: bool,
    supersample: int = 3,
    on_view: Callable[[int], None] = lambda view: None,
) -> np.ndarray:
    """(N, H, W, 4) float32, straight alpha, 8 bits a channel as a PNG would hold it; 0 outside.

    The mean over a pixel's samples is taken on premultiplied colour.
    """
    fine = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    out = np.zeros((len(cameras), cameras.height, cameras.width, 4), dtype=np.float32)
    shade = _shade(truth) if lit else None
    textures = [_prefiltered(paint.texture, fine.width) for paint in truth.paints]
    for view in range(len(cameras)):
        on_view(view)
        seen = rasterize_mesh(
            truth.vertices, truth.faces, fine.world_from_camera[view], fine.intrinsics[view],
            fine.width, fine.height,
        )  # fmt: skip
        picture = _colour(truth, textures, seen, shade)
        blocks = (cameras.height, supersample, cameras.width, supersample, 4)
        mean = picture.reshape(blocks).mean(axis=(1, 3))
        mean[..., :3] /= np.maximum(mean[..., 3:], 1e-6)
        out[view] = np.rint(np.clip(mean, 0, 1) * 255) / np.float32(255)
    return out


def _prefiltered(texture: np.ndarray, width: int) -> np.ndarray:
    """A texture much finer than the picture, averaged down: point samples of it would flicker."""
    factor = max(texture.shape[:2]) // (2 * width)
    if factor < 2:
        return texture
    size = (max(1, texture.shape[1] // factor), max(1, texture.shape[0] // factor))
    return cv2.resize(texture, size, interpolation=cv2.INTER_AREA)


def _colour(
    truth: TrueObject, textures: list[np.ndarray], seen: Fragments, shade: np.ndarray | None
) -> np.ndarray:
    """(H, W, 4) float32 premultiplied colour of every sample."""
    picture = np.zeros((*seen.face.shape, 4), dtype=np.float32)
    row, column = np.nonzero(seen.face >= 0)
    face, weight = seen.face[row, column], seen.barycentric[row, column]
    colour = np.zeros((len(face), 3), dtype=np.float32)
    starts = truth.starts
    part = np.searchsorted(starts, face, side="right") - 1
    for index, (paint, texture) in enumerate(zip(truth.paints, textures, strict=True)):
        here = part == index
        local, mix = face[here] - starts[index], weight[here]
        tint = np.einsum("pk,pkc->pc", mix, paint.corners[local])
        colour[here] = tint * _sample(texture, np.einsum("pk,pkc->pc", mix, paint.uvs[local]))
    if shade is not None:
        colour *= np.einsum("pk,pk->p", weight, shade[face])[:, None]
    picture[row, column, :3] = np.clip(colour, 0, 1)
    picture[row, column, 3] = 1
    return picture


def _sample(texture: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """(P, 3) bilinear, repeating; v up, row 0 is v = 1."""
    height, width = texture.shape[:2]
    x, y = uvs[:, 0] * width - 0.5, (1 - uvs[:, 1]) * height - 0.5
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    columns = [(x0.astype(np.int64) + i) % width for i in (0, 1)]
    rows = [(y0.astype(np.int64) + i) % height for i in (0, 1)]
    upper = texture[rows[0], columns[0]] * (1 - fx) + texture[rows[0], columns[1]] * fx
    lower = texture[rows[1], columns[0]] * (1 - fx) + texture[rows[1], columns[1]] * fx
    return upper * (1 - fy) + lower * fy


def _shade(truth: TrueObject) -> np.ndarray:
    """(F, 3) float32: light on the corners of each face, Lambert, smooth but for sharp edges."""
    smooth = _welded_normals(truth)[truth.faces]
    corners = truth.vertices[truth.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-20)
    sharp = np.einsum("fkc,fc->fk", smooth, flat) < SHARP
    normals = np.where(sharp[..., None], flat[:, None], smooth)
    light = np.full(normals.shape[:2], AMBIENT)
    for direction, strength in ((KEY, KEY_LIGHT), (FILL, FILL_LIGHT)):
        toward = np.array(direction) / np.linalg.norm(direction)
        light += strength * np.maximum(normals @ toward, 0)
    return light.astype(np.float32)


def _welded_normals(truth: TrueObject) -> np.ndarray:
    """(V, 3) normals that go on across the seams where a file splits its vertices."""
    key = np.round(truth.vertices * 1e6).astype(np.int64)
    _, first, group = np.unique(key, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    return vertex_normals(truth.vertices[first], group[truth.faces])[group]
