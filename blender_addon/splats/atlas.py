"""The Gaussians of all drawn objects in textures of the GPU.

Objects that share their data share its rows. The textures are made again when data come or change: in
steps, so that the window stays alive, and the old ones are drawn meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import gpu
import numpy as np

from . import layout
from .shaders import ATLAS_ROW, COLORS, copy_rows

_STEP = 1 << 14
"""Gaussians worked on between two looks at the clock."""
_PIECE = 128
"""Rows of a texture that are uploaded at once: 6 MB."""
LARGEST = (1 << 24) - 1
"""Row numbers travel as float32."""


@dataclass
class Block:
    """The rows of one data-block: `positions` (G, 3) float32 are kept for sorting."""

    first: int
    positions: np.ndarray
    degree: int


@dataclass
class Atlas:
    """geometry and colours as textures; `blocks` by the name of the data-block."""

    blocks: dict[str, Block] = field(default_factory=dict)
    geometry: gpu.types.GPUTexture | None = None
    colors: list[gpu.types.GPUTexture] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    @property
    def drawable(self) -> bool:
        return self.geometry is not None and bool(self.colors)


def build(sources: Sequence[tuple[str, object]]) -> Iterator[Atlas]:
    """Steps that make the atlas of (name, data-block); yields it after each, the last one is complete.

    A step works on `_STEP` Gaussians or uploads one texture. Data-blocks that do not fit are named in
    `left_out`.
    """
    atlas, total, chosen, left_out = Atlas(), 0, [], []
    limit = min(LARGEST, gpu.capabilities.max_texture_size_get() * ATLAS_ROW)
    for name, data in sources:
        count = layout.count(data)
        if total + count > limit:
            left_out.append(name)
            continue
        chosen.append((name, data, total, count))
        total += count
    atlas.left_out = tuple(left_out)
    if not total:
        yield atlas
        return
    # 4 texels a step of `colors` hold 4 coefficients; the smallest sufficient number of textures.
    degrees = {name: layout.degree(data) for name, data, _, _ in chosen}
    textures = -(-((max(degrees.values()) + 1) ** 2) // 4)
    rows = -(-total // ATLAS_ROW)
    # Both are used again: memory is slow when it is touched for the first time. What a texture holds of the
    # one before it, where a data-block has fewer coefficients, is never looked at.
    packed = np.zeros((rows * ATLAS_ROW, 12), np.float32)
    scratch = [np.empty(4 * max(count for *_, count in chosen), np.float32) for _ in range(3)]
    yield atlas
    for name, data, first, count in chosen:
        positions = yield from _read(atlas, data, "position")
        atlas.blocks[name] = Block(first, positions, degrees[name])
        scales = yield from _read(atlas, data, "scale", scratch[0])
        rotations = yield from _read(atlas, data, "rotation", scratch[1])
        opacities = (yield from _read(atlas, data, "radiance:base", scratch[2]))[:, 3]
        for part, into in _parts(packed, first, count):
            into[:, 0:3] = positions[part]
            into[:, 3] = opacities[part]
            into[:, 4:10] = covariances(scales[part], rotations[part])
            yield atlas
    atlas.geometry = yield from _each(_filled(packed), atlas)
    for number in range(textures):
        for name, data, first, count in chosen:
            for k in range(4 * number, min(4 * number + 4, (degrees[name] + 1) ** 2)):
                column = 3 * (k % 4)
                coefficient = yield from _read(atlas, data, layout.coefficient(k), scratch[0])
                for part, into in _parts(packed, first, count):
                    into[:, column : column + 3] = coefficient[part, :3]
                    yield atlas
        atlas.colors.append((yield from _each(_filled(packed), atlas)))
        yield atlas


def _read(atlas: Atlas, data: layout.Data, name: str, scratch: np.ndarray | None = None) -> Iterator[Atlas]:
    """`layout.values` in two steps: at the first look Blender copies what the evaluated scene shares."""
    data.attributes[name]
    yield atlas
    values = layout.values(data, name, scratch)
    yield atlas
    return values


def _parts(packed: np.ndarray, first: int, count: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of a data-block's Gaussians, and where they belong in all rows."""
    for start in range(0, count, _STEP):
        end = min(start + _STEP, count)
        yield slice(start, end), packed[first + start : first + end]


def _each(steps: Iterator[None], atlas: Atlas) -> Iterator[Atlas]:
    """The same steps, yielding the atlas; returns what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        yield atlas


def covariances(scales: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """(G, 3), (G, 4) wxyz -> (G, 6) float32 xx xy xz yy yz zz."""
    w, x, y, z = rotations.T
    s = scales * scales
    length = np.einsum("gi,gi->g", rotations, rotations)
    two = 2 / np.where(length > 0, length, 1)
    columns = (
        (1 - two * (y * y + z * z), two * (x * y + w * z), two * (x * z - w * y)),
        (two * (x * y - w * z), 1 - two * (x * x + z * z), two * (y * z + w * x)),
        (two * (x * z + w * y), two * (y * z - w * x), 1 - two * (x * x + y * y)),
    )
    result = np.zeros((len(scales), 6), np.float32)
    for axis, column in enumerate(columns):
        for place, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
            result[:, place] += s[:, axis] * column[i] * column[j]
    return result


def _filled(values: np.ndarray) -> Iterator[None]:
    """(n * ATLAS_ROW, 12) -> a texture of three texels a row of `values`; in steps, it is what they return.

    Python can only fill a texture as a whole, 50 ms for a million Gaussians: pieces are uploaded and drawn
    into it.
    """
    width, rows = 3 * ATLAS_ROW, len(values) // ATLAS_ROW
    if rows <= _PIECE:
        return float_texture(values, (width, rows), "RGBA32F")
    texture = gpu.types.GPUTexture((width, rows), format="RGBA32F")
    frame = gpu.types.GPUFrameBuffer(color_slots=texture)
    for first in range(0, rows, _PIECE):
        yield
        part = values[first * ATLAS_ROW : (first + _PIECE) * ATLAS_ROW]
        piece = float_texture(part, (width, len(part) // ATLAS_ROW), "RGBA32F")
        with frame.bind():
            copy_rows(piece, first)
    return texture


def float_texture(values: np.ndarray, size: tuple[int, int], kind: str) -> gpu.types.GPUTexture:
    """A float32 texture of (width, height) texels."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return gpu.types.GPUTexture(size, format=kind, data=gpu.types.Buffer("FLOAT", len(flat), flat))


__all__ = ["COLORS", "Atlas", "Block", "build", "covariances", "float_texture"]
