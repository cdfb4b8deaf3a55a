"""The atlas: UVs of every face corner, and what lies under each texel."""

from dataclasses import dataclass

import numpy as np

from backend.geometry.flatten import Discs, border_loops
from backend.geometry.jit import kernel
from backend.geometry.mesh_raster import rasterize_pixels
from backend.geometry.mesh_render import vertex_normals
from backend.geometry.pack import Packing, pack
from backend.geometry.parallel import for_bands
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh
from backend.stages.texture.charts import Charts, make_charts
from shared_protocol.errors import StageFailed

_LEAST_FILLED = 0.56
"""An atlas emptier than this ..."""
_FEW_CHARTS = 12
"""... of fewer charts than this is tried with smaller ones."""
_STRIP = 512


def chart_padding(size: int) -> int:
    """Texels between charts: half of it is enough for bilinear sampling and mipmaps down to 256 texels."""
    return max(2, size // 128)


def unwrap(mesh: Mesh, size: int, context: StageContext) -> tuple[np.ndarray, int]:
    """Lay a mesh out in an atlas of `size` texels: few charts, little stretch, nothing twice or mirrored.

    Returns UVs (F, 3, 2) float32 in 0..1, v up, and the number of charts. All charts have the same texels a
    metre. The same mesh gives the same bytes. Any mesh will do, open, with handles, in parts; every part
    has its own charts.
    Raises Cancelled within a fraction of a second, StageFailed where vertices are not finite or the parts
    are more than an atlas can hold.
    """
    if not len(mesh.faces):
        return np.zeros((0, 3, 2), dtype=np.float32), 0
    if not np.isfinite(mesh.vertices).all():
        raise StageFailed("the mesh cannot be laid out in a texture atlas: some vertices are not finite")
    charts, packing = _packed(mesh, size, 1.1, context)
    if packing is not None and packing.filled < _LEAST_FILLED and charts.count < _FEW_CHARTS:
        # Few large charts leave much of the square empty: smaller ones may fill it better.
        other, denser = _packed(mesh, size, 0.85, context)
        if denser is not None and denser.filled > 1.1 * packing.filled:
            charts, packing = other, denser
    if packing is None:
        raise StageFailed(
            f"the mesh cannot be laid out in a texture atlas of {size} texels: it falls into "
            f"{charts.count} charts",
            remedy="Choose a larger texture (-O texture.size=4096) or join the mesh's loose parts.",
        )
    points = packing.placed(charts.points, charts.owner)
    return np.clip(points[charts.corner], 0, 1).astype(np.float32), charts.count


def _packed(mesh: Mesh, size: int, longest: float, context: StageContext) -> tuple[Charts, Packing | None]:
    charts = make_charts(mesh.vertices, mesh.faces, context.check, longest=longest)
    loops, start = border_loops(Discs(charts.points, charts.corner, charts.owner, charts.count))
    outlines = [charts.points[loops[start[i] : start[i + 1]]] for i in range(charts.count)]
    return charts, pack(outlines, chart_padding(size) / size, context.check)


@dataclass(frozen=True)
class Texels:
    """The covered texels of an atlas.

    size       atlas edge, texels
    index      (P,) int64 row-major position in the atlas
    face       (P,) int32
    weights    (P, 3) float32, barycentric
    positions  (P, 3) float32 metres, world, of the texel centres
    normals    (P, 3) float32 unit, smooth
    """

    size: int
    index: np.ndarray
    face: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    normals: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, some: np.ndarray) -> "Texels":
        """The texels at these places of the arrays."""
        arrays = (self.index, self.face, self.weights, self.positions, self.normals)
        return Texels(self.size, *(array[some] for array in arrays))


@kernel
def _interpolate(face, weights, faces, vertices, smooth, start, stop, positions, normals):
    """Points and unit normals of texels start..stop."""
    for i in range(start, stop):
        x = y = z = nx = ny = nz = np.float32(0.0)
        for k in range(3):
            w, v = weights[i, k], faces[face[i], k]
            x += w * vertices[v, 0]
            y += w * vertices[v, 1]
            z += w * vertices[v, 2]
            nx += w * smooth[v, 0]
            ny += w * smooth[v, 1]
            nz += w * smooth[v, 2]
        length = max(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-12))
        positions[i, 0], positions[i, 1], positions[i, 2] = x, y, z
        normals[i, 0], normals[i, 1], normals[i, 2] = nx / length, ny / length, nz / length


def lay_out_texels(mesh: Mesh, uvs: np.ndarray, size: int) -> Texels:
    """Find the surface point under each texel centre (those inside a chart)."""
    points = np.ones((uvs.shape[0] * 3, 3))
    points[:, 0] = uvs[..., 0].ravel() * np.float64(size)
    points[:, 1] = (1 - uvs[..., 1].ravel().astype(np.float64)) * size
    corners = np.arange(len(points), dtype=np.int32).reshape(-1, 3)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    # In strips: the whole of a large atlas, with what a rasteriser keeps of each texel, is 320 MB.
    for top in range(0, size, _STRIP):
        rows = min(_STRIP, size - top)
        fragments = rasterize_pixels(points - (0, top, 0), corners, size, rows)
        index = np.flatnonzero(fragments.face >= 0)
        weights = fragments.barycentric.reshape(-1, 3)[index]
        found.append((index + top * size, fragments.face.ravel()[index], weights))
    index, face, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    del found
    smooth = vertex_normals(mesh.vertices, mesh.faces).astype(np.float32)
    positions, normals = np.empty((len(index), 3), np.float32), np.empty((len(index), 3), np.float32)
    for_bands(
        lambda start, stop: _interpolate(
            face, weights, mesh.faces, mesh.vertices, smooth, start, stop, positions, normals
        ),
        len(index),
    )
    return Texels(size, index, face, weights, positions, normals)
