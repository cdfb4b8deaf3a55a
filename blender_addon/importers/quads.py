"""Quads out of the triangles of a GLB: glTF has triangles only, and the file says which pairs are quads."""

import json
import struct
from pathlib import Path

import bmesh
import bpy

QUADS = "orrery_quads"
"""Extra of a GLB's primitive: its first faces, two by two, are this many quads."""


def quads_in(path: Path) -> int:
    """How many quads the file announces; 0 for a file that does not, or is no GLB."""
    with path.open("rb") as file:
        header = file.read(20)
        if len(header) < 20 or header[:4] != b"glTF" or header[16:20] != b"JSON":
            return 0
        text = file.read(struct.unpack_from("<I", header, 12)[0])
    try:
        (primitive,) = json.loads(text)["meshes"][0]["primitives"]
        return int(primitive["extras"][QUADS])
    except (ValueError, KeyError, IndexError, TypeError):
        return 0


def join_quads(mesh: bpy.types.Mesh, quads: int) -> None:
    """Join the first `quads` pairs of triangles; a pair that is no longer two neighbours stays as it is.

    Nothing is joined where there are fewer faces than that: the number is of another mesh.
    """
    if 2 * quads > len(mesh.polygons):
        return
    content = bmesh.new()
    try:
        content.from_mesh(mesh)
        content.faces.ensure_lookup_table()
        diagonals = []
        for number in range(quads):
            first, second = content.faces[2 * number], content.faces[2 * number + 1]
            common = set(first.edges) & set(second.edges)
            if len(common) == 1 and len(first.edges) == len(second.edges) == 3:
                diagonals.append(common.pop())
        bmesh.ops.dissolve_edges(content, edges=diagonals, use_verts=False, use_face_split=False)
        content.to_mesh(mesh)
    finally:
        content.free()
    mesh.update()
