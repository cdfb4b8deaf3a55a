"""What is done with every engine's textured mesh: colours without light, normal map, coarser copies."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from backend.geometry.mesh_render import vertex_normals
from backend.geometry.surface_lookup import SurfaceLookup, SurfacePoints
from backend.geometry.tangents import encode_normals, smooth_normals, tangent_frames
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, TexturedMesh, Views, quantize
from backend.stages.texture.atlas import Texels, lay_out_texels, unwrap
from backend.stages.texture.delight import delighted, guess_roughness
from backend.stages.texture.fill import bleed

_LEAST_SIZE = 256
_REACH = 0.03
"""How far from a reduced mesh the finer one is looked for along the normal, a share of the longest side."""
_REMAP_COLUMNS = 4096


def finish(
    textured: TexturedMesh, mesh: Mesh, views: Views, options: TextureOptions, context: StageContext
) -> TexturedMesh:
    """The baked mesh with what the options ask for beyond it; `mesh` brings its detail and its LODs."""
    steps = options.delight + options.normal_map + len(mesh.lods)
    texels = None
    if options.delight or options.normal_map:
        texels = lay_out_texels(mesh, textured.uvs, len(textured.texture))
    if options.delight:
        context.step(0, steps, "Taking the lighting out of the colours")
        textured = _delighted(textured, texels, views, context)
    detail = None
    if options.normal_map and mesh.detail is None:
        context.warn("No normal map was baked: the surface was handed on without its finer form.")
    elif options.normal_map:
        context.step(int(options.delight), steps, "Baking the normal map")
        detail = Finer(mesh.detail, context.check)
        textured = replace(textured, normal_map=detail.normal_map(mesh, textured.uvs, texels))
    if not mesh.lods:
        return textured
    finest, lods = Finer(textured.mesh, context.check), []
    for level, lod in enumerate(mesh.lods, start=1):
        context.step(steps - len(mesh.lods) + level - 1, steps, f"Texturing coarser copy {level}")
        lods.append(_coarser(lod, level, textured, finest, detail, options, context))
    return replace(textured, lods=tuple(lods))


def _coarser(
    lod: Mesh,
    level: int,
    textured: TexturedMesh,
    finest: "Finer",
    detail: "Finer | None",
    options: TextureOptions,
    context: StageContext,
) -> TexturedMesh:
    size = max(options.size >> level, min(_LEAST_SIZE, options.size))
    uvs, _ = unwrap(lod, size, context)
    # Baked at the size of the finest and then reduced: each texel is the mean of what it covers.
    texels = lay_out_texels(lod, uvs, options.size)
    texture = _reduced(finest.colors(textured, texels), size)
    normals = None
    if detail is not None:
        normals = _unit_map(_reduced(detail.normal_map(lod, uvs, texels), size))
    return TexturedMesh(lod, uvs, texture, normals, textured.roughness)


def _delighted(textured: TexturedMesh, texels: Texels, views: Views, context: StageContext) -> TexturedMesh:
    colors = textured.texture.reshape(-1, 3)[texels.index]
    albedo, removed = delighted(texels, colors, context.generator(), context.check)
    roughness = guess_roughness(textured.mesh, views, context.check)
    texture = quantize(bleed(texels, albedo, context.check)).astype(np.float32) / 255
    context.note(shading_removed=round(removed, 3), roughness_guess=round(roughness, 3))
    return replace(textured, texture=texture, roughness=roughness)


class Finer:
    """A finer mesh of the same object, from which a coarser one takes colours or normals."""

    def __init__(self, mesh: Mesh, check: Callable[[], None]) -> None:
        self._mesh, self._check = mesh, check
        self._lookup = SurfaceLookup(mesh.vertices, mesh.faces)
        self._reach = _REACH * float(np.ptp(mesh.vertices, axis=0).max())

    def _below(self, texels: Texels) -> SurfacePoints:
        """The finer surface straight above or below each texel; the nearest where there is none."""
        straight = self._lookup.along(texels.positions, texels.normals, self._reach, self._check)
        lost = np.flatnonzero(straight.face < 0)
        nearest = self._lookup.nearest(texels.positions[lost], self._check)
        straight.face[lost] = nearest.face
        straight.barycentric[lost] = nearest.barycentric
        return straight

    def colors(self, textured: TexturedMesh, texels: Texels) -> np.ndarray:
        """The finer mesh's texture in another atlas, (T, T, 3) float32."""
        there = self._below(texels)
        uv = np.einsum("pk,pkc->pc", there.barycentric, textured.uvs[there.face])
        return bleed(texels, _sampled(textured.texture, uv), self._check)

    def normal_map(self, mesh: Mesh, uvs: np.ndarray, texels: Texels) -> np.ndarray:
        """(T, T, 3) float32 0..1: the finer mesh's normals in the tangent space of `mesh`."""
        there = self._below(texels)
        normals = there.interpolate(vertex_normals(self._mesh.vertices, self._mesh.faces), self._mesh.faces)
        # The nearest point may lie on the other side of a thin wall.
        turned = (normals * texels.normals).sum(axis=1) <= 0
        normals[turned] = texels.normals[turned]
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        self._check()
        frames = tangent_frames(mesh.vertices, mesh.faces, uvs, smooth_normals(mesh.vertices, mesh.faces))
        encoded = encode_normals(normals, frames, texels.face, texels.weights)
        self._check()
        return _unit_map(bleed(texels, encoded, self._check))


def _sampled(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear samples (P, 3) of a texture (T, T, 3) at uv (P, 2), v up."""
    rows = -(-len(uv) // _REMAP_COLUMNS)
    size = len(texture)
    place = np.zeros((rows * _REMAP_COLUMNS, 2), dtype=np.float32)  # OpenCV takes sides below 32,768 only
    place[: len(uv), 0] = uv[:, 0] * size - 0.5
    place[: len(uv), 1] = (1 - uv[:, 1]) * size - 0.5
    place = place.reshape(rows, _REMAP_COLUMNS, 2)
    samples = cv2.remap(
        texture, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return samples.reshape(-1, 3)[: len(uv)]


def _reduced(picture: np.ndarray, size: int) -> np.ndarray:
    if len(picture) == size:
        return picture
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return quantize(small).astype(np.float32) / 255


def _unit_map(encoded: np.ndarray) -> np.ndarray:
    """The same map with unit normals, rounded to 8 bits; flat where nothing is."""
    normals = 2 * encoded - 1
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = np.where((length > 0.1) & (normals[..., 2:] > 0), normals / np.maximum(length, 0.1), [0, 0, 1])
    return quantize(0.5 + 0.5 * normals).astype(np.float32) / 255
