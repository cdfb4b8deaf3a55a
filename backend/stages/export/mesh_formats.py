"""OBJ (with real quads), PLY and STL beside the GLB: welded, in metres, the axis up that was asked for."""

import struct

import numpy as np

from backend.geometry.tangents import smooth_normals
from backend.pipeline.options import AUTO
from backend.pipeline.values import TexturedMesh, quantize
from backend.stages.export.images import encode_png
from backend.stages.export.quads import quads_first
from shared_protocol.conventions import gltf_from_world

_UP = {"obj": "y", "ply": "z", "stl": "z"}
"""What Blender's importers, and most others, take each format for."""


def write_mesh(textured: TexturedMesh, kind: str, up: str, name: str) -> dict[str, bytes]:
    """The files of one format ("obj", "ply" or "stl"); `name` has no extension."""
    turned = (_UP[kind] if up == AUTO else up) == "y"
    if kind == "obj":
        return _obj(textured, turned, name)
    return {f"{name}.{kind}": (_ply if kind == "ply" else _stl)(textured, turned)}


def _turn(vectors: np.ndarray, turned: bool) -> np.ndarray:
    return gltf_from_world(vectors) if turned else vectors


def polygons(textured: TexturedMesh) -> tuple[np.ndarray, np.ndarray]:
    """Face corners as numbers 3 f + k of the triangles: quads (Q, 4), then triangles (T, 3)."""
    order, quads = quads_first(textured)
    corners = 3 * order[:, None] + np.arange(3)
    pairs, rest = corners[: 2 * quads].reshape(-1, 6), corners[2 * quads :]
    return pairs[:, [0, 1, 2, 5]], rest


def _obj(textured: TexturedMesh, turned: bool, name: str) -> dict[str, bytes]:
    mesh = textured.mesh
    positions = _turn(mesh.vertices, turned)
    normals = _turn(smooth_normals(mesh.vertices, mesh.faces), turned)
    corner_uv = np.ascontiguousarray(textured.uvs, dtype=np.float32).reshape(-1, 2)
    uvs, uv_of = np.unique(corner_uv, axis=0, return_inverse=True)
    vertex_of, uv_of = mesh.faces.ravel() + 1, uv_of.ravel() + 1
    lines = [f"mtllib {name}.mtl", "o Orrery"]
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in positions.tolist()]
    lines += [f"vt {u:.9g} {v:.9g}" for u, v in uvs.tolist()]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in normals.tolist()]
    lines += ["usemtl Orrery", "s 1"]
    for corners in polygons(textured):
        pairs = zip(vertex_of[corners].tolist(), uv_of[corners].tolist(), strict=True)
        lines += [
            "f " + " ".join(f"{v}/{t}/{v}" for v, t in zip(vertices, uv, strict=True))
            for vertices, uv in pairs
        ]
    material = ["newmtl Orrery", "Kd 1 1 1", f"Pr {textured.roughness:.4g}", "Pm 0", f"map_Kd {name}.png"]
    files = {f"{name}.png": encode_png(textured.texture)}
    if textured.normal_map is not None:
        material += [f"map_Bump -bm 1 {name}_normal.png", f"norm {name}_normal.png"]
        files[f"{name}_normal.png"] = encode_png(textured.normal_map)
    text = {f"{name}.obj": lines, f"{name}.mtl": material}
    return {**{key: ("\n".join(value) + "\n").encode() for key, value in text.items()}, **files}


def _ply(textured: TexturedMesh, turned: bool) -> bytes:
    """Binary PLY, closed, with the texture as colours of the vertices; triangles, since many readers take
    faces of one size only."""
    mesh = textured.mesh
    vertices = np.empty(
        len(mesh.vertices), dtype=[("position", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)]
    )
    vertices["position"] = _turn(mesh.vertices, turned)
    vertices["normal"] = _turn(smooth_normals(mesh.vertices, mesh.faces), turned)
    vertices["color"] = quantize(vertex_colors(textured))
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment Orrery, metres",
        f"element vertex {len(vertices)}",
        *(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes()


def vertex_colors(textured: TexturedMesh) -> np.ndarray:
    """(V, 3) float32: the mean of the texture's nearest texels at the corners around each vertex."""
    size = len(textured.texture)
    at = np.clip((textured.uvs.reshape(-1, 2) * [1, -1] + [0, 1]) * size, 0, size - 1).astype(np.int64)
    colors = textured.texture[at[:, 1], at[:, 0]]
    corner, count = textured.mesh.faces.ravel(), len(textured.mesh.vertices)
    sums = np.stack([np.bincount(corner, colors[:, c], count) for c in range(3)], axis=1)
    return (sums / np.maximum(np.bincount(corner, minlength=count), 1)[:, None]).astype(np.float32)


def _stl(textured: TexturedMesh, turned: bool) -> bytes:
    corners = _turn(textured.mesh.vertices, turned)[textured.mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    rows = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")])
    rows["normal"], rows["corners"] = normals, corners
    return b"Orrery, metres".ljust(80) + struct.pack("<I", len(rows)) + rows.tobytes()
