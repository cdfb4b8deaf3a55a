"""Reads the true objects: GLB, glTF, OBJ, PLY, STL, with textures, vertex or face colours, or plain.

In the frame of the protocols: +Z up, longest side of the box 1, centred, the input view looking from -Y.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared_protocol.conventions import linear_from_srgb, srgb_from_linear, world_from_gltf
from shared_protocol.errors import AccessDenied, InvalidInput, LimitExceeded

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
MAX_FACES = 3_000_000
PLAIN = (0.72, 0.70, 0.67)
"""sRGB of a mesh without any colour."""


@dataclass(frozen=True)
class Paint:
    """What colours one part: colour = texture * corner colours, sRGB-encoded.

    uvs      (F, 3, 2) float32, v up, may leave 0..1 (the texture repeats)
    texture  (H, W, 3) float32
    corners  (F, 3, 3) float32
    """

    uvs: np.ndarray
    texture: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class TrueObject:
    """The truth: all parts as one mesh.

    vertices (V, 3) float64; faces (F, 3) int32; paints of consecutive runs of faces
    middle, side  of its box before it was centred and scaled: (3,), and the longest side
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    paints: tuple[Paint, ...]
    middle: np.ndarray
    side: float

    @property
    def starts(self) -> np.ndarray:
        """(paints + 1,) first face of each paint, then the number of faces."""
        return np.cumsum([0, *(len(paint.corners) for paint in self.paints)])


def find_objects(folder: Path) -> list[tuple[str, Path]]:
    """Name and file of every object below `folder` (or the one file), sorted by name.

    A file called model.obj or mesh.ply has the name of its folder. InvalidInput when there is none.
    """
    if not folder.exists():
        raise InvalidInput(f"{folder} does not exist", "a folder of meshes")
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    files = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not files:
        raise InvalidInput(f"{folder} holds no mesh", "files of " + ", ".join(SUFFIXES))
    found: dict[str, Path] = {}
    for path in files:
        stem = path.parent.name if path.stem.lower() in ("model", "mesh", "scene", "object") else path.stem
        name, number = stem, 2
        while name in found:
            name, number = f"{stem}-{number}", number + 1
        found[name] = path
    return sorted(found.items())


def file_digest(path: Path) -> str:
    """sha256 of the mesh file and of what lies beside it (materials, textures, buffers)."""
    digest = hashlib.sha256()
    beside = [p for p in sorted(path.parent.iterdir()) if p.is_file() and p.suffix.lower() not in SUFFIXES]
    alone = path.suffix.lower() in (".glb", ".ply", ".stl")
    for part in [path, *([] if alone else beside)]:
        digest.update(part.name.encode())
        digest.update(part.read_bytes())
    return digest.hexdigest()


def load_object(name: str, path: Path, *, up: str | None = None, turn: float = 0.0) -> TrueObject:
    """Read and normalise one object.

    up    "y" or "z"; None: Y for glTF, Z for the others
    turn  degrees, counter-clockwise seen from above, applied to the object

    Raises InvalidInput (not a mesh, no faces, no extent), LimitExceeded, AccessDenied.
    """
    gltf = path.suffix.lower() in (".glb", ".gltf")
    points, triangles, paints, offset = [], [], [], 0
    for vertices, faces, visual in _parts(path):
        points.append(vertices)
        triangles.append(faces + offset)
        paints.append(_paint(visual, faces, gltf))
        offset += len(vertices)
    vertices = np.concatenate(points) if points else np.zeros((0, 3))
    faces = np.concatenate(triangles) if triangles else np.zeros((0, 3), int)
    if not len(faces):
        raise InvalidInput(f"{path} holds no faces", "a triangle mesh")
    if len(faces) > MAX_FACES:
        raise LimitExceeded(f"{path} has {len(faces):,} faces", f"at most {MAX_FACES:,}")
    if not np.isfinite(vertices).all():
        raise InvalidInput(f"{path} has vertices that are not finite", "finite numbers")
    if (up or ("y" if gltf else "z")) == "y":
        vertices = world_from_gltf(vertices)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    vertices = vertices @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    used = vertices[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    if not (high - low).max() > 0:
        raise InvalidInput(f"{path} has no extent", "a solid object")
    middle, side = (low + high) / 2, float((high - low).max())
    return TrueObject(name, (vertices - middle) / side, faces.astype(np.int32), tuple(paints), middle, side)


def _parts(path: Path) -> list[tuple[np.ndarray, np.ndarray, Any]]:
    """Vertices in the scene's frame, faces and trimesh's visual of every mesh of a file."""
    import trimesh

    try:
        scene = trimesh.load(path, force="scene", process=False)
    except PermissionError:
        raise AccessDenied(
            f"{path} cannot be read", "a file you may read", "Change its permissions."
        ) from None
    except Exception as error:  # each format's reader has exceptions of its own
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{path} cannot be read as a mesh ({words})", "an undamaged file") from error
    parts = []
    for node in sorted(scene.graph.nodes_geometry):
        matrix, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
            continue
        vertices = np.asarray(mesh.vertices, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        parts.append((vertices, np.asarray(mesh.faces), mesh.visual))
    return parts


def _paint(visual: Any, faces: np.ndarray, gltf: bool) -> Paint:
    uvs = np.zeros((len(faces), 3, 2), dtype=np.float32)
    texture = np.ones((1, 1, 3), dtype=np.float32)
    corners = np.ones((len(faces), 3, 3), dtype=np.float32)
    if visual.kind == "texture":
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        factor = getattr(material, "baseColorFactor", None)
        if image is not None and visual.uv is not None:
            uvs = np.asarray(visual.uv, dtype=np.float32)[faces]
            texture = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
        elif factor is None:
            factor = getattr(material, "diffuse", None)
            corners *= PLAIN if factor is None else np.asarray(factor[:3], dtype=np.float32) / 255
            factor = None
        if factor is not None:  # glTF's factors are linear light
            linear = np.asarray(factor[:3], dtype=np.float32) / 255
            texture = srgb_from_linear(linear_from_srgb(texture) * linear).astype(np.float32)
    elif visual.kind == "vertex":
        colours = np.asarray(visual.vertex_colors[:, :3], dtype=np.float32) / 255
        corners = (srgb_from_linear(colours) if gltf else colours)[faces].astype(np.float32)
    elif visual.kind == "face":
        corners = np.repeat(np.asarray(visual.face_colors[:, None, :3], dtype=np.float32) / 255, 3, axis=1)
    else:
        corners *= np.float32(PLAIN)
    return Paint(uvs, texture, np.ascontiguousarray(corners, dtype=np.float32))
