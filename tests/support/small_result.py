"""A whole result, small and soon made: `python -m tests.support.small_result FOLDER` writes FOLDER/out.

A cup with a handle, seen by eight cameras, through `reconstruct`, with all that a GLB of ours may hold.
"""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import trimesh

from backend.cli import run
from backend.evaluation.posed import write_posed
from backend.evaluation.protocols import find_protocol
from backend.evaluation.settings import Settings
from backend.evaluation.trials import Objects
from backend.pipeline.options import preset

CHANGES = (
    "splats.gaussians=1500",
    "splats.steps=30",
    "surface.grid=64",
    "surface.faces=4000",
    "surface.lods=2",
    "texture.size=512",
    "texture.normal_map=true",
    "export.turntable=false",
)


def reconstruct(mesh: Path, folder: Path, views: int, size: int, *arguments: str) -> Path:
    """The result of so many views of a mesh, so many pixels wide."""
    protocol = find_protocol("orrery")
    rig = dataclasses.replace(protocol.rig, views=views, size=size)
    settings = Settings(dataclasses.replace(protocol, rig=rig, extra=()), "views", preset("standard"))
    source = Objects(mesh)
    write_posed(folder / "given", source.trial(source.names()[0], settings, lambda *_: None).given)
    if code := run(["reconstruct", str(folder / "given"), "-o", str(folder / "out"), *arguments]):
        raise RuntimeError(f"reconstruct ended with exit code {code}")
    return folder / "out"


def cup() -> trimesh.Trimesh:
    """Hollow, with a handle, checkered."""
    body = trimesh.creation.annulus(0.24, 0.3, 0.6, sections=64)
    upright = trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])
    handle = trimesh.creation.torus(0.16, 0.05, transform=upright)
    handle.apply_translation([0.36, 0, 0])
    mesh = trimesh.util.concatenate([body, handle]).subdivide()
    checks = (np.floor(mesh.vertices * 12).sum(axis=1) % 2)[:, None]
    colours = np.clip(np.column_stack([0.25 + 0.5 * checks, mesh.vertices[:, :1] + 0.5, 1 - checks]), 0, 1)
    mesh.visual.vertex_colors = np.rint(colours * 255).astype(np.uint8)
    return mesh


def make(folder: Path) -> Path:
    """The folder of the result. ORRERY_CACHE is the caller's."""
    cup().export(folder / "cup.ply")
    arguments = [word for text in CHANGES for word in ("--set", text)]
    return reconstruct(folder / "cup.ply", folder, 8, 256, "--quality", "draft", *arguments)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ["ORRERY_CACHE"] = str(place / "cache")
    make(place)
