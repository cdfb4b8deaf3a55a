"""GLB (glTF 2.0 binary): one textured mesh, written byte for byte the same for the same input.

glTF has one index a vertex for positions, normals and UVs together, so vertices are split along UV
seams. The copies have bit-identical positions and normals: welding by position gives the closed
surface back.
"""

import json
import struct
from dataclasses import replace

import numpy as np

from backend.geometry.tangents import smooth_normals, tangent_frames
from backend.pipeline.values import TexturedMesh
from backend.stages.export.images import encode_png
from backend.stages.export.quads import quads_first
from shared_protocol.conventions import gltf_from_world

QUADS = "orrery_quads"
"""Extra of the primitive: its first faces, two by two, are this many quads (a, b, c), (a, c, d)."""
_FLOAT, _UINT = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def split_at_seams(
    faces: np.ndarray, uvs: np.ndarray, signs: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One vertex for every distinct (vertex, UV) pair.

    faces (F, 3), uvs (F, 3, 2) float32; signs (F,): faces of different sign share no vertex either.
    Returns the source vertex (S,), the UV (S, 2) of each split vertex, and the faces (F, 3) uint32
    into them.
    """
    corners = np.empty((faces.size, 4), dtype=np.uint32)
    corners[:, 0] = faces.ravel()
    corners[:, 1:3] = np.ascontiguousarray(uvs, dtype=np.float32).reshape(-1, 2).view(np.uint32)
    corners[:, 3] = 0 if signs is None else np.repeat(signs > 0, 3)
    unique, inverse = np.unique(corners, axis=0, return_inverse=True)
    uv = np.ascontiguousarray(unique[:, 1:3]).view(np.float32)
    return unique[:, 0].astype(np.int64), uv, inverse.reshape(-1, 3).astype(np.uint32)


def write_glb(textured: TexturedMesh, name: str = "Orrery") -> bytes:
    """The mesh as GLB: Y up, metres, smooth normals, PBR base colour texture, metallic 0.

    With a normal map come the tangents it was baked in. Quads are two triangles each, and `QUADS` says
    how many there are at the start of the faces.
    """
    order, quads = quads_first(textured)
    mesh, uvs = replace(textured.mesh, faces=textured.mesh.faces[order], quads=None), textured.uvs[order]
    smooth = smooth_normals(mesh.vertices, mesh.faces)
    frames = None
    if textured.normal_map is not None:
        frames = tangent_frames(mesh.vertices, mesh.faces, uvs, smooth)
    source, uv, faces = split_at_seams(mesh.faces, uvs, None if frames is None else frames.signs)
    positions = gltf_from_world(mesh.vertices)[source].astype("<f4")
    attributes: dict[str, np.ndarray] = {
        "POSITION": positions,
        "NORMAL": gltf_from_world(smooth)[source].astype("<f4"),
        # glTF counts v from the top of the picture; ours from the bottom.
        "TEXCOORD_0": np.clip(np.column_stack([uv[:, 0], 1 - uv[:, 1]]), 0, 1).astype("<f4"),
    }
    if frames is not None:
        tangents = np.empty((len(source), 4), dtype="<f4")
        tangents[faces.ravel(), :3] = gltf_from_world(frames.tangents.reshape(-1, 3))
        tangents[faces.ravel(), 3] = np.repeat(frames.signs, 3)
        attributes["TANGENT"] = tangents
    file = _File()
    numbers = {key: file.accessor(values, _ARRAY_BUFFER) for key, values in attributes.items()}
    file.accessors[numbers["POSITION"]] |= {
        "min": positions.min(axis=0).tolist(),
        "max": positions.max(axis=0).tolist(),
    }
    primitive: dict[str, object] = {
        "attributes": numbers,
        "indices": file.accessor(faces.astype("<u4").ravel(), _ELEMENT_ARRAY_BUFFER),
        "material": 0,
        "mode": 4,
    }
    if quads:
        primitive["extras"] = {QUADS: quads}
    material: dict[str, object] = {
        "name": name,
        "pbrMetallicRoughness": {
            "baseColorTexture": {"index": file.texture(textured.texture, f"{name} base colour")},
            "metallicFactor": 0,
            "roughnessFactor": round(textured.roughness, 4),
        },
    }
    if textured.normal_map is not None:
        material["normalTexture"] = {"index": file.texture(textured.normal_map, f"{name} normals")}
    return file.packed(
        {
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": name}],
            "meshes": [{"name": name, "primitives": [primitive]}],
            "materials": [material],
        }
    )


class _File:
    """The binary part of a GLB while it grows, and what describes it."""

    def __init__(self) -> None:
        self._binary = bytearray()
        self._views: list[dict[str, object]] = []
        self.accessors: list[dict[str, object]] = []
        self._images: list[dict[str, object]] = []

    def _view(self, data: bytes, target: int | None = None) -> int:
        view: dict[str, object] = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data)}
        self._views.append(view | ({"target": target} if target else {}))
        self._binary += data + b"\0" * (-len(data) % 4)
        return len(self._views) - 1

    def accessor(self, values: np.ndarray, target: int) -> int:
        """Floats (N, 2..4) or indices (N,); returns its number."""
        self.accessors.append(
            {
                "bufferView": self._view(values.tobytes(), target),
                "componentType": _UINT if values.ndim == 1 else _FLOAT,
                "type": "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
                "count": len(values),
            }
        )
        return len(self.accessors) - 1

    def texture(self, picture: np.ndarray, name: str) -> int:
        """A picture as PNG; returns the number of its texture."""
        view = self._view(encode_png(picture))
        self._images.append({"name": name, "bufferView": view, "mimeType": "image/png"})
        return len(self._images) - 1

    def packed(self, document: dict[str, object]) -> bytes:
        """Header, JSON, binary."""
        document = {
            "asset": {"version": "2.0", "generator": "Orrery"},
            **document,
            "textures": [{"sampler": 0, "source": number} for number in range(len(self._images))],
            "images": self._images,
            "samplers": [
                {
                    "magFilter": _LINEAR,
                    "minFilter": _LINEAR_MIPMAP_LINEAR,
                    "wrapS": _CLAMP_TO_EDGE,
                    "wrapT": _CLAMP_TO_EDGE,
                }
            ],
            "accessors": self.accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": len(self._binary)}],
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text  # "JSON"
        chunks += struct.pack("<II", len(self._binary), 0x004E4942) + bytes(self._binary)  # "BIN\0"
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
