"""The files of a result -> arrays, beside the main thread; no bpy."""

from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from ..splats.columns import Columns, open_file, read_columns
from ..touched_memory import TouchedMemory
from . import png
from .glb import GlbMesh, read_glb

_UNDO_STEP = 1 << 22
"""Bytes that an undo step takes beside arrays, which it shares, and pictures."""


@dataclass(frozen=True)
class Prepared:
    """What a result's folder holds, decoded; None for what is not there.

    lods      coarser copies, the finest first
    base      height of the origin of meshes and Gaussians in the frame of the cameras, metres
    cameras   bytes of cameras.json
    cutout    path of the cut-out picture
    memory    for what Blender makes of `mesh`, then for the undo step, which holds its pictures again
    """

    mesh: GlbMesh | None
    lods: tuple[GlbMesh, ...]
    base: float
    splats: Columns | None
    cameras: bytes
    cutout: Path | None
    memory: TouchedMemory


def prepare(folder: Path, texture: int = 0, floor: bool = True) -> Prepared:
    """Read and decode all; raises InvalidInput for a damaged file.

    texture  pixels that an edge of a texture has at most, 0 for as many as it was made with
    floor    the origin of meshes and Gaussians comes to the lowest point of the finest: whoever turns or
             scales the object then does so about what it stands on; else it stays in the frame's middle
    """
    splats, base = folder / "splats.ply", 0.0
    mesh = _mesh(folder / "mesh.glb", texture) if (folder / "mesh.glb").exists() else None
    paths = takewhile(Path.exists, (folder / lod_file(level) for level in count(1)))
    lods = tuple(_mesh(path, texture) for path in paths)
    if mesh is not None and floor:
        base = float(mesh.box[0][2])
        mesh, lods = mesh.lowered(base), tuple(lod.lowered(base) for lod in lods)
    if mesh is not None:
        mesh.box  # noqa: B018 - worked out here, kept
    cameras, cutout = folder / "cameras.json", folder / "cutout.png"
    return Prepared(
        mesh,
        lods,
        base,
        _gaussians(splats, base) if splats.exists() else None,
        cameras.read_bytes() if cameras.exists() else b"",
        cutout if cutout.exists() else None,
        TouchedMemory(0 if mesh is None else mesh.size + mesh.pictures_size + _UNDO_STEP),
    )


def _mesh(path: Path, texture: int) -> GlbMesh:
    mesh = read_glb(path)
    if not texture:
        return mesh
    materials = tuple(
        replace(
            entry, base_color=png.shrunk(entry.base_color, texture), normal=png.shrunk(entry.normal, texture)
        )
        for entry in mesh.materials
    )
    return replace(mesh, materials=materials)


def _gaussians(path: Path, base: float) -> Columns:
    """With the meshes' origin: Blender draws no line from one to the other. All that the scene will ask of
    them is worked out here."""
    *_, columns = read_columns(open_file(path))
    return (columns.lowered(base) if base else columns).ready()


def lod_file(level: int) -> str:
    """Name of the coarser copy's file; the finest is 1."""
    return f"mesh_lod{level}.glb"
