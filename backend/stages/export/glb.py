"""GLB (glTF 2.0 binary): one textured mesh, written byte for byte the same for the same input.

glTF has one index a vertex for positions, normals and UVs together, so vertices are split along UV
seams. The copies have bit-identical positions and normals: welding by position gives the closed
surface back.
"""

import json
import struct

import numpy as np

from backend.geometry.mesh_render import vertex_normals
from backend.pipeline.values import TexturedMesh
from backend.stages.export.images import encode_png
from shared_protocol.conventions import gltf_from_world

ROUGHNESS = 0.9
_FLOAT, _UINT = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def split_at_seams(faces: np.ndarray, uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One vertex for every distinct (vertex, UV) pair.

    faces (F, 3), uvs (F, 3, 2) float32. Returns the source vertex (S,), the UV (S, 2) of each split
    vertex, and the faces (F, 3) uint32 into them.
    """
    corners = np.empty((faces.size, 3), dtype=np.uint32)
    corners[:, 0] = faces.ravel()
    corners[:, 1:] = np.ascontiguousarray(uvs, dtype=np.float32).reshape(-1, 2).view(np.uint32)
    unique, inverse = np.unique(corners, axis=0, return_inverse=True)
    uv = np.ascontiguousarray(unique[:, 1:]).view(np.float32)
    return unique[:, 0].astype(np.int64), uv, inverse.reshape(-1, 3).astype(np.uint32)


def write_glb(textured: TexturedMesh, name: str = "Orrery") -> bytes:
    """The mesh as GLB: Y up, metres, smooth normals, PBR base colour texture, metallic 0."""
    source, uv, faces = split_at_seams(textured.mesh.faces, textured.uvs)
    positions = gltf_from_world(textured.mesh.vertices)[source].astype("<f4")
    normals = vertex_normals(textured.mesh.vertices, textured.mesh.faces)
    normals = gltf_from_world(normals)[source].astype("<f4")
    # glTF counts v from the top of the picture; ours from the bottom.
    uv = np.clip(np.column_stack([uv[:, 0], 1 - uv[:, 1]]), 0, 1).astype("<f4")
    parts = (
        (positions.tobytes(), _ARRAY_BUFFER),
        (normals.tobytes(), _ARRAY_BUFFER),
        (uv.tobytes(), _ARRAY_BUFFER),
        (faces.astype("<u4").tobytes(), _ELEMENT_ARRAY_BUFFER),
        (encode_png(textured.texture), None),
    )
    buffer_views, binary = [], b""
    for data, target in parts:
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)}
        buffer_views.append(view | ({"target": target} if target else {}))
        binary += data + b"\0" * (-len(data) % 4)
    count = len(positions)
    document = {
        "asset": {"version": "2.0", "generator": "Orrery"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [
            {
                "name": name,
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
                        "indices": 3,
                        "material": 0,
                        "mode": 4,
                    }
                ],
            }
        ],
        "materials": [
            {
                "name": name,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0,
                    "roughnessFactor": ROUGHNESS,
                },
            }
        ],
        "textures": [{"sampler": 0, "source": 0}],
        "images": [{"name": f"{name} base colour", "bufferView": 4, "mimeType": "image/png"}],
        "samplers": [
            {
                "magFilter": _LINEAR,
                "minFilter": _LINEAR_MIPMAP_LINEAR,
                "wrapS": _CLAMP_TO_EDGE,
                "wrapT": _CLAMP_TO_EDGE,
            }
        ],
        "accessors": [
            _accessor(0, _FLOAT, "VEC3", count)
            | {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()},
            _accessor(1, _FLOAT, "VEC3", count),
            _accessor(2, _FLOAT, "VEC2", count),
            _accessor(3, _UINT, "SCALAR", faces.size),
        ],
        "bufferViews": buffer_views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text  # "JSON"
    chunks += struct.pack("<II", len(binary), 0x004E4942) + binary  # "BIN\0"
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _accessor(view: int, component: int, kind: str, count: int) -> dict[str, object]:
    return {"bufferView": view, "componentType": component, "count": count, "type": kind}
