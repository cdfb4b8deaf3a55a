"""Reads result folders as any other program would, and prints the table of a benchmark."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import trimesh
from PIL import Image

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_check import component_volumes, face_components
from backend.geometry.mesh_render import render_mesh
from backend.pipeline.values import TexturedMesh
from shared_protocol.conventions import world_from_gltf


def read_rgba(path: Path) -> np.ndarray:
    """(H, W, 4) float32, 0..1."""
    return np.asarray(Image.open(path).convert("RGBA"), dtype=np.float32) / 255


@dataclass(frozen=True)
class WrittenMesh:
    """A mesh.glb read through trimesh: arrays as in values.TexturedMesh, in the Blender world.

    charts  connected parts of the faces as the file holds them, split where UVs (or normals) are
    parts   connected parts of the welded surface
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    watertight: bool
    charts: int
    parts: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """`watertight` is judged after welding: glTF splits vertices at UV seams."""
        loaded = trimesh.load(path, force="mesh", process=False)
        texture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), dtype=np.float32) / 255
        uvs = np.asarray(loaded.visual.uv, dtype=np.float32)[loaded.faces]
        welded = loaded.copy()
        welded.merge_vertices(merge_tex=True, merge_norm=True)
        return cls(
            world_from_gltf(loaded.vertices),
            loaded.faces,
            uvs,
            texture,
            bool(welded.is_watertight),
            int(face_components(loaded.faces).max()) + 1,
            int(face_components(welded.faces).max()) + 1,
        )

    @classmethod
    def of(cls, textured: TexturedMesh) -> Self:
        """As if written and read: 8 bits a channel."""
        mesh = textured.mesh
        texture = np.rint(np.clip(textured.texture, 0, 1) * 255).astype(np.float32) / 255
        parts = int(face_components(mesh.faces).max()) + 1
        return cls(mesh.vertices, mesh.faces, textured.uvs, texture, True, 0, parts)

    def part_volumes(self) -> np.ndarray:
        """(parts,) volume of each connected part of the welded surface, unsigned."""
        _, first, group = np.unique(self.vertices, axis=0, return_index=True, return_inverse=True)
        faces = group.ravel()[self.faces]
        return np.abs(component_volumes(self.vertices[first], faces, face_components(faces)))

    def render(self, camera: Cameras, supersample: int) -> np.ndarray:
        """(H, W, 4) float32 as one camera sees it."""
        return render_mesh(
            self.vertices, self.faces, self.uvs, self.texture, camera, supersample=supersample
        )[0]


def run_measured(views: Path, out: Path, arguments: list[str]) -> None:
    """`reconstruct` in a process of its own with an empty cache; OUT/measured.json says what it took."""
    out.mkdir(parents=True, exist_ok=True)
    job = ["reconstruct", str(views), "-o", str(out), *arguments]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.measured", str(out / "measured.json"), *job],
            env={**os.environ, "ORRERY_CACHE": cache},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"{views}: exit {done.returncode}")


def reported(out: Path) -> dict[str, Any]:
    """What a result's report.json and measured.json say of it."""
    report, measured = json.loads((out / "report.json").read_text()), out / "measured.json"
    facts = {"front_psnr": report["front_psnr"], "fit_psnr": report["fit_psnr"]}
    return facts | (json.loads(measured.read_text()) if measured.exists() else {})


class Table:
    """One line a row as it is measured, then all rows as one line of JSON."""

    def __init__(
        self, title: str, columns: tuple[str, ...], *, name_width: int, width: int, digits: int
    ) -> None:
        self._columns, self._name_width, self._width, self._digits = columns, name_width, width, digits
        self._rows: dict[str, dict] = {}
        self._line(title, "".join(f"{column:>{width}}" for column in columns))

    def add(self, name: str, row: dict) -> None:
        """Print the row's columns, keep all of it for the JSON."""
        self._rows[name] = row
        cells = (row.get(column) for column in self._columns)
        width, digits = self._width, self._digits
        self._line(
            name,
            "".join(f"{c:>{width}.{digits}f}" if isinstance(c, float) else f"{c!s:>{width}}" for c in cells),
        )

    def fail(self, name: str, code: int, words: str) -> None:
        """A row that has no figures."""
        self._rows[name] = {"exit": code}
        self._line(name, f"exit {code}: {words}")

    def finish(self) -> None:
        """The last line."""
        sys.stdout.write(json.dumps(self._rows) + "\n")

    def _line(self, name: str, text: str) -> None:
        sys.stdout.write(f"{name:<{self._name_width}}{text}\n")
        sys.stdout.flush()
