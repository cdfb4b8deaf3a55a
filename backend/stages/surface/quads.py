"""Quads: Instant Meshes' field-aligned remesh laid onto the surface; pairs of triangles where it is not here.

Jakob, Tarini, Panozzo and Sorkine-Hornung, "Instant field-aligned meshes" (2015), through the package
`pynanoinstantmeshes`. What it returns is checked, since it promises no closed surface, and moved onto
the surface it was made from.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from backend.geometry.decimate import compact, decimate
from backend.geometry.mesh_check import (
    component_volumes,
    face_components,
    has_manifold_vertices,
    is_watertight_manifold,
    volume,
)
from backend.geometry.quad_pairs import diagonal_split, pair_triangles, without_doublets
from backend.geometry.surface_lookup import SurfaceLookup
from backend.geometry.tangents import smooth_normals
from backend.geometry.tidy import without_slivers
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh

PACKAGE = "pynanoinstantmeshes"
_POLL_SECONDS = 0.03
_FIT_ROUNDS = 4
_TRIES = (1.0, 0.93, 1.07)
"""Of the number of quads: another density gives another mesh where one was not closed."""


def quad_mesh(finest: Mesh, options: SurfaceOptions, context: StageContext) -> Mesh:
    """About `options.faces` / 2 quads on the surface of `finest`, closed; its triangles are their halves."""
    if importlib.util.find_spec(PACKAGE) is None:
        context.warn(
            f"Quads are pairs of triangles: the package {PACKAGE}, which lays them along the shape, is not "
            'installed. Run: pip install "orrery[quads]"'
        )
        return _paired(finest, options, context)
    for share in _TRIES:
        context.check()
        corners = _remeshed(finest, round(share * options.faces / 2), context)
        mesh = None if corners is None else _fitted(*corners, finest, context.check)
        if mesh is not None:
            _note(mesh, context)
            return mesh
    context.warn("Quads are pairs of triangles: the remesh to quads did not give a closed surface.")
    return _paired(finest, options, context)


def _paired(finest: Mesh, options: SurfaceOptions, context: StageContext) -> Mesh:
    vertices, faces = decimate(finest.vertices, finest.faces, options.faces, context.check, options.features)
    vertices = without_slivers(vertices, faces, context.check)
    mesh = Mesh(vertices, *pair_triangles(vertices, faces))
    _note(mesh, context)
    return mesh


def _note(mesh: Mesh, context: StageContext) -> None:
    """Share of quads among the polygons, share of vertices that do not join four edges."""
    quads = len(mesh.quads)
    polygons = len(mesh.faces) - quads
    corners = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = np.unique(np.sort(corners, axis=1), axis=0)
    across = np.unique(np.sort(mesh.faces[mesh.quads[:, 0]][:, [0, 2]], axis=1), axis=0)
    count = len(mesh.vertices)
    degree = np.bincount(edges.ravel(), minlength=count) - np.bincount(across.ravel(), minlength=count)
    context.note(
        quads=quads,
        quad_share=round(quads / polygons, 4),
        irregular_share=round(float((degree != 4).mean()), 4),
    )


def _remeshed(mesh: Mesh, quads: int, context: StageContext) -> tuple[np.ndarray, np.ndarray] | None:
    """Vertices and quads (Q, 4) of Instant Meshes; None where it failed. Raises Cancelled."""
    with tempfile.TemporaryDirectory(prefix="orrery-quads-") as name:
        source, target = Path(name) / "in.npz", Path(name) / "out.npz"
        np.savez(source, vertices=mesh.vertices, faces=mesh.faces.astype(np.uint32), quads=quads)
        # A session of its own: Ctrl-C in the terminal reaches us, and we end the child.
        apart: dict[str, object] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("remesh.py")), str(source), str(target)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **apart,  # type: ignore[call-overload]
        )
        try:
            while process.poll() is None:
                context.check()
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode != 0:
            return None
        with np.load(target) as data:
            return data["vertices"].astype(np.float64), data["quads"].astype(np.int32)


def _fitted(vertices: np.ndarray, quads: np.ndarray, finest: Mesh, check: Callable[[], None]) -> Mesh | None:
    """The remesh as halves of quads, on the surface; None where it is no closed solid like `finest`."""
    distinct = np.sort(quads, axis=1)
    if not len(quads) or (distinct[:, 1:] == distinct[:, :-1]).any() or quads.max() >= len(vertices):
        return None
    sides = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2).astype(np.int64)
    forward, backward = (np.sort(s[:, 0] * len(vertices) + s[:, 1]) for s in (sides, sides[:, ::-1]))
    if (forward[1:] == forward[:-1]).any() or not np.array_equal(forward, backward):
        return None  # a hole, or three quads at one side
    vertices, quads = compact(vertices, without_doublets(quads))
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    if volume(vertices, faces) < 0:
        quads = quads[:, ::-1]
        faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    parts = face_components(faces)
    if parts.max() != face_components(finest.faces).max():
        return None  # a small part was lost
    if (component_volumes(vertices, faces, parts) <= 0).any():
        return None
    vertices = _laid_onto(vertices, quads, finest, check)
    faces = diagonal_split(vertices, quads)
    if not is_watertight_manifold(faces) or not has_manifold_vertices(faces):
        return None
    return Mesh(vertices, faces, np.arange(len(faces), dtype=np.int32).reshape(-1, 2))


def _laid_onto(
    vertices: np.ndarray, quads: np.ndarray, finest: Mesh, check: Callable[[], None]
) -> np.ndarray:
    """Vertices moved onto the finest surface, with a little smoothing along it between."""
    lookup = SurfaceLookup(finest.vertices, finest.faces)
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    means = _quad_means(quads, len(vertices))
    edge = float(np.linalg.norm(vertices[quads] - vertices[np.roll(quads, 1, axis=1)], axis=-1).mean())
    points = np.asarray(vertices, dtype=np.float64)
    for turn in range(_FIT_ROUNDS):
        normals = smooth_normals(points, faces).astype(np.float64)
        if turn < _FIT_ROUNDS - 1:
            step = 0.3 * (means @ points - points)
            points = points + step - (step * normals).sum(axis=1, keepdims=True) * normals
        there = lookup.along(points, normals, 0.5 * edge, check)
        lost = there.face < 0
        nearest = lookup.nearest(points[lost], check)
        there.face[lost], there.barycentric[lost] = nearest.face, nearest.barycentric
        points = there.interpolate(finest.vertices, finest.faces).astype(np.float64)
    return points.astype(np.float32)


def _quad_means(quads: np.ndarray, count: int) -> csr_matrix:
    """(count, count) sparse: the mean of the neighbours along the sides of the quads."""
    sides = np.sort(np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    edges = np.unique(sides, axis=0)
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    degree = np.bincount(rows, minlength=count).clip(min=1)
    return csr_matrix((1.0 / degree[rows], (rows, columns)), shape=(count, count))
