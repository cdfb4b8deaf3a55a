"""The Gaussians of all drawn objects in textures of the GPU.

Objects that share their data share its rows. The textures are made again when data come or change: in
steps, so that the window stays alive, and the old ones are drawn meanwhile. Memory that Blender or the driver
takes in one piece was touched before, in a thread.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gpu
import numpy as np

from ..importers.steps import beside
from ..touched_memory import TouchedMemory
from . import layout
from .shaders import ATLAS_ROW, COLOR_TEXELS, COLORS, GEOMETRY, copy_rows

_ROWS = 32
"""Rows of a texture that are worked out and uploaded at once: 2 MB."""
_BLOCK = 1 << 12
"""Gaussians whose covariances are worked out at once: they stay in the cache."""
LARGEST = (1 << 24) - 1
"""Row numbers travel as float32."""
_SMALL = 1 << 21
"""So many bytes are taken in less than a millisecond whatever they cost."""
_TEXEL_BYTES = {"RGBA32F": 16, "RG32F": 8, "RGBA16F": 8}


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
    geometry: list[gpu.types.GPUTexture] = field(default_factory=list)
    colors: list[gpu.types.GPUTexture] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    @property
    def drawable(self) -> bool:
        return bool(self.geometry) and bool(self.colors)


def build(sources: Sequence[tuple[str, object]]) -> Iterator[Atlas | None]:
    """Steps that make the atlas of (name, data-block); yields it after each, the last one is complete.

    A step makes or reads one thing of all Gaussians, or works on `_ROWS` rows of a texture. None stands
    before a step that may be long: it is to begin a turn of its own. Data-blocks that do not fit are named
    in `left_out`.
    """
    atlas, rows, chosen, left_out = Atlas(), 0, [], []
    limit = min(LARGEST // ATLAS_ROW, gpu.capabilities.max_texture_size_get())
    for name, data in sources:
        count = layout.count(data)
        needed = -(-count // ATLAS_ROW)  # each begins a row
        if rows + needed > limit:
            left_out.append(name)
            continue
        chosen.append((name, data, rows, count))
        rows += needed
    atlas.left_out = tuple(left_out)
    if not rows:
        yield atlas
        return
    degrees = {name: layout.degree(data) for name, data, _, _ in chosen}
    # Used again for every attribute and every piece: memory is slow when it is touched for the first time.
    most = max(count for *_, count in chosen)
    scratch = yield from _beside(48 * most, lambda: np.full((3, 4 * most), 0, np.float32))
    staging = yield from _beside(32 * most, lambda: _Staging(min(rows, _ROWS)))
    geometry = [_Target(width, rows, kind) for width, kind in GEOMETRY.values()]
    for target in geometry:
        yield from target.make(staging)
        yield atlas
    for name, data, first, count in chosen:
        own = yield from _beside(12 * count, lambda size=3 * count: np.full(size, 0, np.float32))
        positions = yield from _read(atlas, data, "position", own)
        atlas.blocks[name] = Block(first * ATLAS_ROW, positions, degrees[name])
        scales = yield from _read(atlas, data, "scale", scratch[0])
        rotations = yield from _read(atlas, data, "rotation", scratch[1])
        opacities = (yield from _read(atlas, data, "radiance:base", scratch[2]))[:, 3]
        spreads = yield from _beside(24 * count, lambda given=(scales, rotations): covariances(*given))
        head, *others = geometry
        for part, row in _parts(first, count):
            spread = spreads[part]
            texels = staging.texels(len(spread), head)
            texels[:, :3], texels[:, 3] = positions[part], opacities[part]
            head.put(staging, row)
            yield atlas
            for target, values in zip(others, (spread[:, :4], spread[:, 4:]), strict=True):
                staging.texels(len(spread), target)[:] = values
                target.put(staging, row)
            yield atlas
        del spreads
    atlas.geometry = [target.texture for target in geometry]
    # The smallest sufficient number of textures.
    terms = (max(degrees.values()) + 1) ** 2
    for number in range(-(-terms // COLOR_TEXELS)):
        target = _Target(COLOR_TEXELS, rows, "RGBA16F")
        yield from target.make(staging)
        yield atlas
        for name, data, first, count in chosen:
            there = range((degrees[name] + 1) ** 2)[COLOR_TEXELS * number : COLOR_TEXELS * (number + 1)]
            columns = []
            for place, k in enumerate(there):
                columns.append((yield from _read(atlas, data, layout.coefficient(k), scratch[place])))
            for part, row in _parts(first, count) if columns else ():
                texels = staging.texels(len(columns[0][part]), target)
                texels[:] = 0
                for place, column in enumerate(columns):
                    texels[:, 4 * place : 4 * place + 3] = column[part, :3]
                target.put(staging, row)
                yield atlas
        atlas.colors.append(target.texture)
        yield atlas


def _read(atlas: Atlas, data: layout.Data, name: str, scratch: np.ndarray) -> Iterator[Atlas | None]:
    """`layout.values`, in steps: at the first look Blender copies what the evaluated scene shares."""
    wide = name in ("rotation", "radiance:base")
    yield from _room((16 if wide else 12) * layout.count(data))
    data.attributes[name]
    yield atlas
    return layout.values(data, name, scratch)


def _room(size: int) -> Iterator[None]:
    """Before a step that takes so many bytes: as many are touched in a thread, and let go right before it."""
    if size >= _SMALL:
        memory = yield from beside(lambda: TouchedMemory(size))
        yield
        memory.give_back(size)


def _beside(size: int, work: Callable[[], Any]) -> Iterator[None]:
    """`work()`, which fills so many bytes: in a thread where they are many."""
    return work() if size < _SMALL else (yield from beside(work))


def _parts(first: int, count: int) -> Iterator[tuple[slice, int]]:
    """Slices of a data-block's Gaussians, and the row of the textures where each begins."""
    for start in range(0, -(-count // ATLAS_ROW), _ROWS):
        yield slice(start * ATLAS_ROW, min((start + _ROWS) * ATLAS_ROW, count)), first + start


class _Staging:
    """Where texels stand before they are uploaded."""

    def __init__(self, rows: int) -> None:
        """rows: at most so many at once."""
        widest = max(width * 4 for width in (COLOR_TEXELS, *(width for width, _ in GEOMETRY.values())))
        self.buffer = gpu.types.Buffer("FLOAT", widest * ATLAS_ROW * rows)
        self._values = np.frombuffer(self.buffer, np.float32)
        self._values[:] = 0
        self.rows = 0

    def texels(self, count: int, target: "_Target") -> np.ndarray:
        """(count, numbers a Gaussian) to be filled; the rest of their last row is 0."""
        self.rows = -(-count // ATLAS_ROW)
        whole = self._values[: self.rows * ATLAS_ROW * target.numbers].reshape(-1, target.numbers)
        whole[count:] = 0
        return whole[:count]


class _Target:
    """A texture that is filled piece by piece.

    Python can only fill a texture as a whole, 50 ms for a million Gaussians: pieces are uploaded and drawn
    into it.
    """

    def __init__(self, texels: int, rows: int, kind: str) -> None:
        """`texels` a Gaussian; kind of the texture, such as "RGBA32F"."""
        self._size, self._kind = (texels * ATLAS_ROW, rows), kind
        self.numbers = texels * (2 if kind == "RG32F" else 4)
        self.texture: gpu.types.GPUTexture | None = None

    def make(self, staging: "_Staging") -> Iterator[None]:
        """The driver may clear its memory now, .3 ms for 2 MB on a processor, and translate the program that
        fills it."""
        width, rows = self._size
        yield from _room(width * rows * _TEXEL_BYTES[self._kind])
        self.texture = gpu.types.GPUTexture(self._size, format=self._kind)
        self._frame = gpu.types.GPUFrameBuffer(color_slots=self.texture)
        staging.texels(1, self)
        self.put(staging, 0)

    def put(self, staging: _Staging, row: int) -> None:
        """The texels that stand there, from this row on."""
        kind = "RG32F" if self._kind == "RG32F" else "RGBA32F"
        piece = gpu.types.GPUTexture((self._size[0], staging.rows), format=kind, data=staging.buffer)
        with self._frame.bind():
            copy_rows(piece, row)


def covariances(scales: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """(G, 3), (G, 4) wxyz -> (G, 6) float32 xx xy xz yy yz zz."""
    result = np.zeros((len(scales), 6), np.float32)
    for start in range(0, len(scales), _BLOCK):
        part = slice(start, start + _BLOCK)
        _covariances(scales[part], rotations[part], result[part])
    return result


def _covariances(scales: np.ndarray, rotations: np.ndarray, result: np.ndarray) -> None:
    w, x, y, z = rotations.T
    s = scales * scales
    length = np.einsum("gi,gi->g", rotations, rotations)
    two = 2 / np.where(length > 0, length, 1)
    columns = (
        (1 - two * (y * y + z * z), two * (x * y + w * z), two * (x * z - w * y)),
        (two * (x * y - w * z), 1 - two * (x * x + z * z), two * (y * z + w * x)),
        (two * (x * z + w * y), two * (y * z - w * x), 1 - two * (x * x + y * y)),
    )
    for axis, column in enumerate(columns):
        for place, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
            result[:, place] += s[:, axis] * column[i] * column[j]


def float_texture(values: np.ndarray, size: tuple[int, int], kind: str) -> gpu.types.GPUTexture:
    """A float32 texture of (width, height) texels."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return gpu.types.GPUTexture(size, format=kind, data=gpu.types.Buffer("FLOAT", len(flat), flat))


__all__ = ["COLORS", "Atlas", "Block", "build", "covariances", "float_texture"]
