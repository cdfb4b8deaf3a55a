"""A GLB file -> arrays for one Blender mesh; no bpy, so that it is read beside the main thread.

Blender's own glTF importer works on the main thread for as long as it takes; a result of a few hundred
thousand triangles would hold the window up. What is read here: triangles of all meshes with their nodes'
transforms, one UV map, base colour, metallic, roughness and normal map. glTF 2.0, without extensions that
pack the geometry.
"""

import json
import struct
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shared_protocol.conventions import world_from_gltf
from shared_protocol.errors import InvalidInput

QUADS = "orrery_quads"
"""Extra of a primitive: its first faces, two by two, are this many quads (a, b, c), (a, c, d)."""

_DTYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


@dataclass(frozen=True)
class GlbMaterial:
    """base_color, normal: bytes of picture files, empty for none; factor: linear r, g, b, alpha."""

    base_color: bytes = b""
    normal: bytes = b""
    factor: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    metallic: float = 1.0
    roughness: float = 1.0


@dataclass(frozen=True)
class GlbMesh:
    """One welded mesh in Blender's world.

    vertices  (V, 3) float32, metres
    edges     (E, 2) int32
    corners   (C,) int32, the faces' vertices one face after the other
    corner_edges  (C,) int32, the edge from each corner to the next of its face
    starts    (F,) int32, where each face begins in `corners`
    uvs       (C, 2) float32, v from the bottom
    material_of  (F,) int32 into `materials`
    """

    vertices: np.ndarray
    edges: np.ndarray
    corners: np.ndarray
    corner_edges: np.ndarray
    starts: np.ndarray
    uvs: np.ndarray
    material_of: np.ndarray
    materials: tuple[GlbMaterial, ...] = field(default=())

    @cached_property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, (3,) float32, metres; zeros for a mesh without vertices."""
        if not len(self.vertices):
            return np.zeros(3, np.float32), np.zeros(3, np.float32)
        return self.vertices.min(axis=0), self.vertices.max(axis=0)

    @property
    def size(self) -> int:
        """Bytes of all arrays and pictures."""
        arrays = (self.vertices, self.edges, self.corners, self.corner_edges, self.starts, self.uvs)
        return sum(values.nbytes for values in arrays) + self.pictures_size

    @property
    def pictures_size(self) -> int:
        """Bytes of all pictures."""
        return sum(len(entry.base_color) + len(entry.normal) for entry in self.materials)

    def lowered(self, height: float) -> "GlbMesh":
        """The same, `height` metres further down."""
        return replace(self, vertices=self.vertices - np.array([0, 0, height], np.float32))


def read_glb(path: Path) -> GlbMesh:
    """Read the file; InvalidInput says what it is not."""
    try:
        return _read(path.read_bytes(), path.name)
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise InvalidInput(f"{path.name} is damaged ({error})", "a GLB file", "Generate again.") from error


def _read(data: bytes, name: str) -> GlbMesh:
    if data[:4] != b"glTF" or len(data) < 20:
        raise InvalidInput(f"{name} is no GLB file", "glTF 2.0, binary", "Generate again.")
    length = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + length])
    if packed := set(document.get("extensionsRequired", ())):
        raise InvalidInput(f"{name} needs {', '.join(sorted(packed))}", "plain glTF 2.0")
    file = _File(document, memoryview(data)[20 + length + 8 :])
    parts = [
        _primitive(file, primitive, matrix)
        for number, matrix in file.mesh_nodes()
        for primitive in document["meshes"][number]["primitives"]
        if primitive.get("mode", 4) == 4
    ]
    if not parts:
        raise InvalidInput(f"{name} holds no mesh", "a GLB with one textured mesh")
    materials = tuple(file.material(entry) for entry in document.get("materials", ())) or (GlbMaterial(),)
    before = np.cumsum([0, *(len(part[0]) for part in parts[:-1])])
    positions = np.concatenate([part[0] for part in parts])
    triangles = np.concatenate([part[1] + start for part, start in zip(parts, before, strict=True)])
    uvs = np.concatenate([part[2] for part in parts])
    material_of = np.concatenate([np.full(len(part[1]), part[3], np.int32) for part in parts])
    quads = parts[0][4] if len(parts) == 1 else 0
    return _welded(positions, triangles, uvs, material_of, quads, materials)


def _primitive(
    file: "_File", primitive: dict[str, Any], matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """(V, 3) positions in Blender's world, (F, 3) triangles, (V, 2) UVs, its material, its quads."""
    attributes = primitive["attributes"]
    positions = file.accessor(attributes["POSITION"]).astype(np.float32)
    moved = positions @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
    if np.array_equal(matrix, np.eye(4)):
        moved = positions  # bit for bit
    count = len(positions)
    indices = file.accessor(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(count)
    triangles = indices.astype(np.int64).reshape(-1, 3)
    if triangles.size and triangles.max() >= count:  # Blender would read beyond its memory
        raise ValueError("a face names a vertex that is not there")
    if not np.isfinite(moved).all():
        raise ValueError("a vertex is nowhere")
    uvs = np.zeros((count, 2), np.float32)
    if "TEXCOORD_0" in attributes:
        uvs = file.accessor(attributes["TEXCOORD_0"]).astype(np.float32)
    uvs = np.column_stack([uvs[:, 0], 1 - uvs[:, 1]])  # glTF counts v from the top
    quads = int((primitive.get("extras") or {}).get(QUADS, 0))
    return world_from_gltf(moved), triangles, uvs, int(primitive.get("material", 0)), quads


def _welded(
    positions: np.ndarray,
    triangles: np.ndarray,
    uvs: np.ndarray,
    material_of: np.ndarray,
    quads: int,
    materials: tuple[GlbMaterial, ...],
) -> GlbMesh:
    """Vertices of the same place become one: glTF parts them at UV seams, editing wants them whole."""
    order = np.lexsort(positions.T)
    ordered = positions[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(order) else order > 0
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1  # vertex -> group
    first = np.full(int(new.sum()), len(order), np.int64)
    np.minimum.at(first, group, np.arange(len(order)))
    kept = np.sort(first)  # in the file's order
    number = np.empty(len(kept), np.int64)
    number[np.argsort(first)] = np.arange(len(kept))
    faces = number[group][triangles]

    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    joined = _joined_pairs(faces, quads) & whole[0 : 2 * quads : 2] & whole[1 : 2 * quads : 2]
    joined = joined if 0 < 2 * quads <= len(faces) else np.zeros(0, bool)
    pairs = 2 * np.flatnonzero(joined)
    alone = whole.copy()
    alone[pairs] = alone[pairs + 1] = False
    four = np.column_stack([triangles[pairs], triangles[pairs + 1, 2]])  # (Q, 4) a, b, c, d
    three = triangles[alone]
    split = np.concatenate([four.ravel(), three.ravel()])
    sizes = np.concatenate([np.full(len(four), 4), np.full(len(three), 3)])
    corners = number[group][split].astype(np.int32)
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    edges, corner_edges = _edges(corners, starts, sizes)
    return GlbMesh(
        np.ascontiguousarray(positions[kept]),
        edges,
        corners,
        corner_edges,
        starts,
        np.ascontiguousarray(uvs[split]),
        np.concatenate([material_of[pairs], material_of[alone]]).astype(np.int32),
        materials,
    )


def _edges(corners: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E, 2) the edges, each once, and (C,) the edge from each corner to the next of its face."""
    following = np.arange(1, len(corners) + 1)
    following[starts + sizes - 1] = starts
    ends = np.sort(np.column_stack([corners, corners[following]]), axis=1).astype(np.int64)
    unique, edge_of = np.unique(ends[:, 0] << 32 | ends[:, 1], return_inverse=True)
    edges = np.column_stack([unique >> 32, unique & 0xFFFFFFFF]).astype(np.int32)
    return np.ascontiguousarray(edges), edge_of.astype(np.int32)


def _joined_pairs(faces: np.ndarray, quads: int) -> np.ndarray:
    """(quads,) whether the pair is (a, b, c), (a, c, d) with four different vertices."""
    first, second = faces[0 : 2 * quads : 2], faces[1 : 2 * quads : 2]
    first = first[: len(second)]
    fits = (first[:, 0] == second[:, 0]) & (first[:, 2] == second[:, 1])
    return fits & (first[:, 1] != second[:, 2])


class _File:
    """The JSON of a GLB and its binary part."""

    def __init__(self, document: dict[str, Any], binary: memoryview) -> None:
        self._document, self._binary = document, binary

    def accessor(self, number: int) -> np.ndarray:
        """(N, width); integers that stand for fractions become those."""
        entry = self._document["accessors"][number]
        dtype, width = np.dtype(_DTYPES[entry["componentType"]]), _WIDTHS[entry["type"]]
        view = self._document["bufferViews"][entry["bufferView"]]
        start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
        stride = view.get("byteStride", dtype.itemsize * width)
        count = entry["count"]
        if start + (count - 1) * stride + dtype.itemsize * width > len(self._binary):
            raise ValueError("it ends too early")
        values = np.ndarray((count, width), dtype, self._binary, start, (stride, dtype.itemsize))
        if entry.get("normalized") and dtype.kind == "u":
            return values / np.float32(np.iinfo(dtype).max)
        return values

    def mesh_nodes(self) -> list[tuple[int, np.ndarray]]:
        """(mesh, world matrix in glTF's axes) of every node of the scene that has one."""
        nodes = self._document.get("nodes", [])
        scenes = self._document.get("scenes")
        roots = scenes[self._document.get("scene", 0)].get("nodes", []) if scenes else range(len(nodes))
        found, waiting = [], [(number, np.eye(4)) for number in roots]
        while waiting:
            number, above = waiting.pop(0)
            node = nodes[number]
            matrix = above @ _matrix(node)
            if "mesh" in node:
                found.append((node["mesh"], matrix))
            waiting += [(child, matrix) for child in node.get("children", [])]
        return found

    def material(self, entry: dict[str, Any]) -> GlbMaterial:
        """One material, its pictures as bytes."""
        surface = entry.get("pbrMetallicRoughness", {})
        return GlbMaterial(
            self._picture(surface.get("baseColorTexture")),
            self._picture(entry.get("normalTexture")),
            tuple(surface.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0))),
            float(surface.get("metallicFactor", 1.0)),
            float(surface.get("roughnessFactor", 1.0)),
        )

    def _picture(self, texture: dict[str, Any] | None) -> bytes:
        if texture is None:
            return b""
        image = self._document["images"][self._document["textures"][texture["index"]]["source"]]
        view = self._document["bufferViews"][image["bufferView"]]
        start = view.get("byteOffset", 0)
        return bytes(self._binary[start : start + view["byteLength"]])


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) of a node: its matrix, or translation, rotation (x, y, z, w) and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.asarray(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
