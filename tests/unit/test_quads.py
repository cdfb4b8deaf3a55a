"""Quads: pairing, mending, the field-aligned remesh and what happens without its package."""

import threading

import numpy as np
import pytest
import trimesh

from backend.geometry.mesh_check import has_manifold_vertices, is_watertight_manifold, volume
from backend.geometry.quad_pairs import diagonal_split, pair_triangles, without_doublets
from backend.geometry.surface_lookup import SurfaceLookup
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh
from backend.stages.surface import quads
from backend.stages.surface.finish import finish
from shared_protocol.errors import Cancelled


def grid_torus(rows=24, columns=12):
    """A torus of quads (Q, 4), regular everywhere."""
    u, v = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    a, b = 2 * np.pi * u.ravel() / rows, 2 * np.pi * v.ravel() / columns
    ring = 1 + 0.4 * np.cos(b)
    vertices = np.column_stack([ring * np.cos(a), ring * np.sin(a), 0.4 * np.sin(b)])

    def number(i, j):
        return ((i % rows) * columns + j % columns).ravel()

    return vertices, np.column_stack([number(u, v), number(u + 1, v), number(u + 1, v + 1), number(u, v + 1)])


def context_of(**more):
    return StageContext("surface", None, "hull", **more)


def dented_ball():
    ball = trimesh.creation.icosphere(5, radius=0.5)
    points = np.asarray(ball.vertices, dtype=np.float32)
    return points * (1 + 0.1 * np.sin(6 * points[:, :1]) * np.cos(5 * points[:, 2:])), np.asarray(ball.faces)


def test_halved_quads_are_paired_to_quads_again():
    vertices, corners = grid_torus()
    faces = diagonal_split(vertices, corners)
    assert is_watertight_manifold(faces)
    paired, pairs = pair_triangles(vertices, faces)
    mesh = Mesh(vertices, paired, pairs)
    assert len(pairs) == len(corners)
    expected = {tuple(sorted(row)) for row in corners.tolist()}
    assert {tuple(sorted(row)) for row in mesh.quad_corners().tolist()} == expected


def test_paired_faces_are_the_same_faces_with_turned_corners():
    vertices, faces = dented_ball()
    paired, pairs = pair_triangles(vertices, faces)
    start = paired.argmin(axis=1)
    turned = np.take_along_axis(paired, (start[:, None] + np.arange(3)) % 3, axis=1)
    first = np.asarray(faces).argmin(axis=1)
    assert np.array_equal(turned, np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1))
    assert 2 * len(pairs) > 0.9 * len(faces)
    Mesh(vertices, paired, pairs)  # raises where a pair does not fit


def test_two_quads_around_one_vertex_become_one():
    vertices, corners = grid_torus()
    lone = len(vertices)
    a, b, c, d = corners[17]
    parted = np.vstack([np.delete(corners, 17, axis=0), [[a, b, c, lone], [a, lone, c, d]]])
    mended = without_doublets(parted)
    assert {tuple(sorted(row)) for row in mended.tolist()} == {tuple(sorted(row)) for row in corners.tolist()}
    everything = np.vstack([vertices, vertices[[a, c]].mean(axis=0)])
    assert is_watertight_manifold(diagonal_split(everything, mended))


def test_the_shorter_bend_is_the_diagonal():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0.3, 0.3, 0], [0, 1, 0.0]])  # a dart: only one way is inside
    halves = diagonal_split(vertices, np.array([[0, 1, 2, 3]]))
    across = np.cross(
        vertices[halves[:, 1]] - vertices[halves[:, 0]], vertices[halves[:, 2]] - vertices[halves[:, 0]]
    )
    assert (across[:, 2] > 0).all()


def test_quads_of_a_shape_are_closed_regular_and_on_it():
    pytest.importorskip(quads.PACKAGE, reason="an optional package")
    vertices, faces = dented_ball()
    context = context_of()
    mesh = finish(Mesh(vertices, faces), SurfaceOptions(faces=4000, quads=True, lods="1"), context)
    assert is_watertight_manifold(mesh.faces) and has_manifold_vertices(mesh.faces)
    assert not context.warnings and 1500 < len(mesh.quads) < 2500
    assert context.facts["quad_share"] >= 0.85 and context.facts["irregular_share"] < 0.05
    away = SurfaceLookup(vertices, faces).nearest(mesh.vertices).distance
    assert away.max() < 1e-4
    assert volume(mesh.vertices, mesh.faces) == pytest.approx(volume(vertices, faces), rel=0.01)
    assert np.array_equal(mesh.detail.faces, faces) and len(mesh.lods[0].faces) == 1000
    again = finish(Mesh(vertices, faces), SurfaceOptions(faces=4000, quads=True), context_of())
    assert (
        again.vertices.tobytes() == mesh.vertices.tobytes() and again.faces.tobytes() == mesh.faces.tobytes()
    )


def test_without_the_package_triangles_are_paired_and_the_user_is_told(monkeypatch):
    monkeypatch.setattr(quads, "PACKAGE", "not_installed_anywhere")
    vertices, faces = dented_ball()
    context = context_of()
    mesh = finish(Mesh(vertices, faces), SurfaceOptions(faces=4000, quads=True), context)
    assert "orrery[quads]" in context.warnings[0]
    assert is_watertight_manifold(mesh.faces) and len(mesh.faces) == 4000
    assert context.facts["quad_share"] > 0.75


def test_a_remesh_with_a_hole_falls_back_to_pairs_with_a_warning(monkeypatch):
    vertices, corners = grid_torus()
    monkeypatch.setattr(quads.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(quads, "_remeshed", lambda *_: (vertices, corners[1:].astype(np.int32)))
    finest = Mesh(vertices, diagonal_split(vertices, corners))
    context = context_of()
    mesh = finish(finest, SurfaceOptions(faces=400, quads=True), context)
    assert "did not give a closed surface" in context.warnings[0]
    assert is_watertight_manifold(mesh.faces) and len(mesh.quads)


def test_the_remesh_ends_when_the_user_cancels():
    pytest.importorskip(quads.PACKAGE, reason="an optional package")
    ball = trimesh.creation.icosphere(6)
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    with pytest.raises(Cancelled):
        quads.quad_mesh(
            Mesh(ball.vertices, ball.faces),
            SurfaceOptions(faces=60_000, quads=True),
            context_of(cancelled=cancelled),
        )
