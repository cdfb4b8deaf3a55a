"""The Gaussians of all drawn objects in textures of the GPU.

Objects that share their data share its rows. The textures are made again when data come or change: in
steps, so that the window stays alive, and the old ones are drawn meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import gpu
import numpy as np

from . import layout
from .shaders import ATLAS_ROW, COLOR_TEXELS, COLORS, GEOMETRY, copy_rows

_ROWS = 32
"""Rows of a texture that are worked out and uploaded at once: 2 MB."""
_TOUCHED = 1 << 20
"""Numbers whose memory is touched for the first time at once: 2 ms."""
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
    geometry: list[gpu.types.GPUTexture] = field(default_factory=list)
    colors: list[gpu.types.GPUTexture] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    @property
    def drawable(self) -> bool:
        return bool(self.geometry) and bool(self.colors)


def build(sources: Sequence[tuple[str, object]]) -> Iterator[Atlas]:
    """Steps that make the atlas of (name, data-block); yields it after each, the last one is complete.

    A step makes or reads one thing of all Gaussians, or works on `_ROWS` rows of a texture. Data-blocks that
    do not fit are named in `left_out`.
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
    most = 4 * max(count for *_, count in chosen)
    # Used again: memory is slow when it is touched for the first time.
    scratch = yield from _each(_fresh(3, most), atlas)
    geometry = [_Target(width, rows, kind) for width, kind in GEOMETRY.values()]
    yield from _each(_made(geometry), atlas)
    for name, data, first, count in chosen:
        (own,) = yield from _each(_fresh(1, 3 * count), atlas)
        positions = yield from _read(atlas, data, "position", own)
        atlas.blocks[name] = Block(first * ATLAS_ROW, positions, degrees[name])
        scales = yield from _read(atlas, data, "scale", scratch[0])
        rotations = yield from _read(atlas, data, "rotation", scratch[1])
        opacities = (yield from _read(atlas, data, "radiance:base", scratch[2]))[:, 3:]
        for part, row in _parts(first, count):
            spread = covariances(scales[part], rotations[part])
            yield atlas
            head = np.concatenate([positions[part], opacities[part]], axis=1)
            for target, values in zip(geometry, (head, spread[:, :4], spread[:, 4:]), strict=True):
                target.put(values, row)
                yield atlas
    atlas.geometry = [target.texture for target in geometry]
    # The smallest sufficient number of textures.
    terms = (max(degrees.values()) + 1) ** 2
    for number in range(-(-terms // COLOR_TEXELS)):
        target = _Target(COLOR_TEXELS, rows, "RGBA16F")
        yield from _each(_made([target]), atlas)
        for name, data, first, count in chosen:
            there = range((degrees[name] + 1) ** 2)[COLOR_TEXELS * number : COLOR_TEXELS * (number + 1)]
            columns = []
            for place, k in enumerate(there):
                columns.append((yield from _read(atlas, data, layout.coefficient(k), scratch[place])))
            for part, row in _parts(first, count) if columns else ():
                texels = np.zeros((len(columns[0][part]), COLOR_TEXELS, 4), np.float32)
                for place, column in enumerate(columns):
                    texels[:, place, :3] = column[part, :3]
                target.put(texels, row)
                yield atlas
        atlas.colors.append(target.texture)
        yield atlas


def _fresh(arrays: int, size: int) -> Iterator[None]:
    """(arrays, size) float32 whose memory was touched, in steps."""
    values = np.empty((arrays, size), np.float32)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _TOUCHED):
        flat[start : start + _TOUCHED] = 0
        yield
    return values


def _read(atlas: Atlas, data: layout.Data, name: str, scratch: np.ndarray) -> Iterator[Atlas]:
    """`layout.values` in two steps: at the first look Blender copies what the evaluated scene shares."""
    data.attributes[name]
    yield atlas
    values = layout.values(data, name, scratch)
    yield atlas
    return values


def _parts(first: int, count: int) -> Iterator[tuple[slice, int]]:
    """Slices of a data-block's Gaussians, and the row of the textures where each begins."""
    for start in range(0, -(-count // ATLAS_ROW), _ROWS):
        yield slice(start * ATLAS_ROW, min((start + _ROWS) * ATLAS_ROW, count)), first + start


def _each(steps: Iterator[None], atlas: Atlas) -> Iterator[Atlas]:
    """The same steps, yielding the atlas; returns what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        yield atlas


class _Target:
    """A texture that is filled piece by piece.

    Python can only fill a texture as a whole, 50 ms for a million Gaussians: pieces are uploaded and drawn
    into it. The first piece of each kind may wait for the driver to translate the program.
    """

    def __init__(self, texels: int, rows: int, kind: str) -> None:
        """`texels` a Gaussian; kind of the texture, such as "RGBA32F"."""
        self._size, self._kind = (texels * ATLAS_ROW, rows), kind
        self.texture: gpu.types.GPUTexture | None = None

    def make(self) -> None:
        """The driver may clear its memory now, 1 ms for 2 MB on a processor."""
        self.texture = gpu.types.GPUTexture(self._size, format=self._kind)
        self._frame = gpu.types.GPUFrameBuffer(color_slots=self.texture)

    def put(self, values: np.ndarray, row: int) -> None:
        """The texels of Gaussians, (G, ...), from this row on; the rest of their last row is left at 0."""
        width = self._size[0]
        channels = 2 if self._kind == "RG32F" else 4
        rows = -(-values.size // (width * channels))
        whole = np.zeros(rows * width * channels, np.float32)
        whole[: values.size] = values.reshape(-1)
        piece = float_texture(whole, (width, rows), "RG32F" if channels == 2 else "RGBA32F")
        with self._frame.bind():
            copy_rows(piece, row)


def _made(targets: Sequence[_Target]) -> Iterator[None]:
    for target in targets:
        target.make()
        yield


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


def float_texture(values: np.ndarray, size: tuple[int, int], kind: str) -> gpu.types.GPUTexture:
    """A float32 texture of (width, height) texels."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return gpu.types.GPUTexture(size, format=kind, data=gpu.types.Buffer("FLOAT", len(flat), flat))


__all__ = ["COLORS", "Atlas", "Block", "build", "covariances", "float_texture"]
