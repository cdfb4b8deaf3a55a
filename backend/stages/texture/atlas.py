"""The atlas: UVs of every face corner, and what lies under each texel."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from backend.geometry.mesh_raster import rasterize_pixels
from backend.geometry.mesh_render import vertex_normals
from backend.geometry.smoothing import taubin
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh
from shared_protocol.errors import StageFailed

_POLL_SECONDS = 0.03
SMOOTHING_ROUNDS = 15
"""xatlas is shown a smoothed copy of the shape: what looks rough to it becomes hundreds of charts.
Measured on carved hulls of 20k faces: 258 -> 41, 350 -> 34, 1498 -> 642 charts (15 rounds), texels 5 %
coarser in the median."""


def chart_padding(size: int) -> int:
    """Texels left between charts: enough for bilinear sampling and two mipmap levels."""
    return max(2, size // 256)


class Unwrap:
    """xatlas at work in a child process; killed on leaving the block.

    with Unwrap(mesh, size) as unwrap:
        ...other work...
        uvs, charts = unwrap.result(context)
    """

    def __init__(self, mesh: Mesh, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="orrery-unwrap-")
        folder = Path(self._folder.name)
        self._faces = len(mesh.faces)
        self._target, self._log = folder / "out.npz", folder / "log.txt"
        np.savez(
            folder / "in.npz",
            vertices=taubin(mesh.vertices, mesh.faces, rounds=SMOOTHING_ROUNDS),
            faces=mesh.faces.astype(np.uint32),
            resolution=size,
            padding=chart_padding(size),
        )
        # A session of its own: Ctrl-C in the terminal reaches us, and we end the child.
        apart: dict[str, object] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        script = str(Path(__file__).with_name("unwrap.py"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", script, str(folder / "in.npz"), str(self._target)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                **apart,  # type: ignore[call-overload]
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def result(self, context: StageContext) -> tuple[np.ndarray, int]:
        """UVs (F, 3, 2) float32, v up, and the number of charts. Raises Cancelled, StageFailed."""
        while self._process.poll() is None:
            context.check()
            time.sleep(_POLL_SECONDS)
        context.check()
        if self._process.returncode != 0:
            log = self._log.read_text(errors="replace").strip().splitlines()
            reason = log[-1] if log else f"exit status {self._process.returncode}"
            raise StageFailed(
                f"the mesh could not be laid out in a texture atlas ({reason})",
                remedy="Try another number of faces: -O surface.faces=10000.",
            )
        with np.load(self._target) as data:
            uvs, charts = data["uvs"], int(data["charts"])
        if uvs.shape != (self._faces, 3, 2) or not np.isfinite(uvs).all():
            raise StageFailed("the texture atlas misses some faces of the mesh")
        # xatlas counts v from the top row of texels; ours is up.
        uvs = np.stack([uvs[..., 0], 1 - uvs[..., 1]], axis=-1)
        return np.clip(uvs, 0, 1).astype(np.float32), charts


@dataclass(frozen=True)
class Texels:
    """The covered texels of an atlas.

    size       atlas edge, texels
    index      (P,) int64 row-major position in the atlas
    face       (P,) int32
    weights    (P, 3) float32, barycentric
    positions  (P, 3) float32 metres, world, of the texel centres
    normals    (P, 3) float32 unit, smooth
    """

    size: int
    index: np.ndarray
    face: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    normals: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


def lay_out_texels(mesh: Mesh, uvs: np.ndarray, size: int) -> Texels:
    """Find the surface point under each texel centre (those inside a chart)."""
    points = np.ones((uvs.shape[0] * 3, 3))
    points[:, 0] = uvs[..., 0].ravel() * np.float64(size)
    points[:, 1] = (1 - uvs[..., 1].ravel().astype(np.float64)) * size
    corners = np.arange(len(points), dtype=np.int32).reshape(-1, 3)
    fragments = rasterize_pixels(points, corners, size, size)
    index = np.flatnonzero(fragments.face >= 0)
    face = fragments.face.ravel()[index]
    weights = fragments.barycentric.reshape(-1, 3)[index]
    vertex = mesh.faces[face]
    smooth = vertex_normals(mesh.vertices, mesh.faces)
    positions = np.zeros((len(index), 3), dtype=np.float32)
    normals = np.zeros((len(index), 3), dtype=np.float32)
    for corner in range(3):
        weight = weights[:, corner, None]
        positions += weight * mesh.vertices[vertex[:, corner]]
        normals += weight * smooth[vertex[:, corner]]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Texels(size, index, face, weights, positions, normals)
