"""The files of a result -> arrays, beside the main thread; no bpy."""

from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

from ..splats.columns import Columns, open_file, read_columns
from .glb import GlbMesh, read_glb


@dataclass(frozen=True)
class Prepared:
    """What a result's folder holds, decoded; None for what is not there.

    lods      coarser copies, the finest first
    cameras   bytes of cameras.json
    cutout    path of the cut-out picture
    """

    mesh: GlbMesh | None
    lods: tuple[GlbMesh, ...]
    splats: Columns | None
    cameras: bytes
    cutout: Path | None


def prepare(folder: Path) -> Prepared:
    """Read and decode all; raises InvalidInput for a damaged file."""
    mesh, splats = folder / "mesh.glb", folder / "splats.ply"
    lods = takewhile(Path.exists, (folder / lod_file(level) for level in count(1)))
    cameras, cutout = folder / "cameras.json", folder / "cutout.png"
    return Prepared(
        read_glb(mesh) if mesh.exists() else None,
        tuple(read_glb(path) for path in lods),
        _gaussians(splats) if splats.exists() else None,
        cameras.read_bytes() if cameras.exists() else b"",
        cutout if cutout.exists() else None,
    )


def _gaussians(path: Path) -> Columns:
    """All that the scene will ask of them is worked out here."""
    *_, columns = read_columns(open_file(path))
    columns.base  # noqa: B018 - worked out here, kept
    return columns


def lod_file(level: int) -> str:
    """Name of the coarser copy's file; the finest is 1."""
    return f"mesh_lod{level}.glb"
