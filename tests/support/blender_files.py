"""Small result files written byte by byte, so that the importers are tested against the formats alone."""

import json
import struct
import zlib
from typing import Any

import numpy as np


def png(rgb: np.ndarray) -> bytes:
    """(H, W, 3|4) uint8 -> PNG."""
    height, width, channels = rgb.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(rgb))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def glb(
    positions: np.ndarray,
    faces: np.ndarray,
    uvs: np.ndarray,
    texture: bytes,
    *,
    quads: int = 0,
    normal_map: bytes = b"",
) -> bytes:
    """A GLB with one textured mesh under an empty, whose transforms cancel out.

    positions (V, 3) in glTF axes, +Y up; faces (F, 3); uvs (V, 2) rows from the top; pictures are PNGs;
    quads: so many pairs of the first faces are announced as quads
    """
    parts = [
        np.asarray(positions, "<f4").tobytes(),
        np.asarray(uvs, "<f4").tobytes(),
        np.asarray(faces, "<u4").tobytes(),
        texture,
        *([normal_map] if normal_map else []),
    ]
    views, body = [], b""
    for part in parts:
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(part)})
        body += part + b"\0" * (-len(part) % 4)
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"name": "root", "children": [1], "translation": [0, -1, 0]},
            {"name": "geometry", "mesh": 0, "translation": [0, 1, 0]},
        ],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}
        ],
        "materials": [
            {
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0,
                    "roughnessFactor": 1,
                }
            }
        ],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": len(positions),
                "type": "VEC3",
                "min": np.min(positions, axis=0).tolist(),
                "max": np.max(positions, axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": 5126, "count": len(uvs), "type": "VEC2"},
            {"bufferView": 2, "componentType": 5125, "count": np.size(faces), "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    if quads:
        document["meshes"][0]["primitives"][0]["extras"] = {"orrery_quads": quads}
    if normal_map:
        document["materials"][0]["normalTexture"] = {"index": 1}
        document["textures"].append({"source": 1})
        document["images"].append({"bufferView": 4, "mimeType": "image/png"})
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def wedge_glb(**more: Any) -> tuple[bytes, np.ndarray]:
    """A closed box, wider than deep, taller than wide, red in front, blue behind, green on the sides.

    Seams split its vertices: 24 in the file, 8 when welded. Returns the GLB and the (8, 3) corners in
    Blender's world: 0.4 wide (x), 0.2 deep (y), 0.8 high (z), centred.
    """
    corners = np.array([(x, y, z) for x in (-0.2, 0.2) for y in (-0.4, 0.4) for z in (-0.1, 0.1)])  # glTF
    sides = {  # normal axis, sign -> column of the 4-texel texture
        (2, 1): 0,  # +Z in glTF is the front
        (2, -1): 1,
        (0, 1): 2,
        (0, -1): 2,
        (1, 1): 3,
        (1, -1): 3,
    }
    positions, uvs, faces = [], [], []
    for (axis, sign), column in sides.items():
        quad = corners[corners[:, axis] * sign > 0]
        middle = quad.mean(axis=0)
        normal = np.eye(3)[axis] * sign
        first = np.eye(3)[(axis + 1) % 3]
        second = np.cross(normal, first)
        angle = np.arctan2((quad - middle) @ second, (quad - middle) @ first)
        start = len(positions)
        positions += list(quad[np.argsort(angle)])
        uvs += [((column + 0.5) / 4, 0.5)] * 4
        faces += [(start, start + 1, start + 2), (start, start + 2, start + 3)]
    texture = png(np.array([[(200, 40, 40), (40, 40, 200), (40, 160, 40), (200, 200, 40)]], np.uint8))
    world = np.stack([corners[:, 0], -corners[:, 2], corners[:, 1]], axis=1)
    return glb(np.array(positions), np.array(faces), np.array(uvs), texture, **more), world


def splat_ply(
    positions: np.ndarray,
    log_scales: np.ndarray,
    rotations: np.ndarray,
    logits: np.ndarray,
    harmonics: np.ndarray,
) -> bytes:
    """The INRIA layout of 3D Gaussian Splatting (Kerbl 2023), raw values as stored there.

    harmonics (G, K, 3); `f_rest` is channel-major.
    """
    count, terms = harmonics.shape[:2]
    rest = harmonics[:, 1:].transpose(0, 2, 1).reshape(count, -1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{index}" for index in range(3 * (terms - 1))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    columns = [positions, np.zeros((count, 3)), harmonics[:, 0], rest, logits[:, None], log_scales, rotations]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    return header.encode() + np.concatenate(columns, axis=1).astype("<f4").tobytes()


def ball_splats(count: int = 3000, radius: float = 0.35, terms: int = 1, seed: int = 0) -> dict:
    """Flat Gaussians on a ball: red in front (-Y), blue behind. Arguments of `splat_ply`."""
    generator = np.random.default_rng(seed)
    normals = generator.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    turn = np.concatenate(  # wxyz, turns +Z into the normal
        [1 + normals[:, 2:], np.cross(np.tile([0.0, 0.0, 1.0], (count, 1)), normals)], axis=1
    )
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    sigma = radius * np.sqrt(4 * np.pi / count) * 0.8
    color = np.where(normals[:, 1:2] < 0, [[0.8, 0.2, 0.2]], [[0.2, 0.2, 0.8]])
    harmonics = np.zeros((count, terms, 3))
    harmonics[:, 0] = (color - 0.5) / 0.28209479177387814
    harmonics[:, 1:] = generator.normal(size=(count, terms - 1, 3)) * 0.1
    return {
        "positions": normals * radius,
        "log_scales": np.log(np.tile([sigma, sigma, sigma * 0.1], (count, 1))),
        "rotations": turn,
        "logits": np.full(count, 4.0),
        "harmonics": harmonics,
    }


def cameras_json(positions: np.ndarray, size: int = 64, focal: float = 150.0) -> bytes:
    """Cameras at `positions` (N, 3), level, looking at the origin; OpenGL axes as nerfstudio's."""
    frames = []
    for index, position in enumerate(np.asarray(positions, float)):
        back = position / np.linalg.norm(position)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(back, right), back, position
        frames.append({"file_path": f"orbit/{index:03d}.png", "transform_matrix": pose.tolist()})
    common = {"fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    return json.dumps({"camera_model": "OPENCV", **common, "frames": frames}).encode()
