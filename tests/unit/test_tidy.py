"""Slivers slide away; nothing else moves."""

import numpy as np
import trimesh

from backend.geometry.carving import Grid, extract_surface
from backend.geometry.tidy import slivers, without_slivers


def test_a_ball_taken_from_a_grid_through_its_points_has_no_slivers_afterwards():
    axis = np.arange(33) - 16.0
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = extract_surface(
        Grid((np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - 10.0004).astype(np.float32), np.zeros(3), 1.0)
    )
    rough = trimesh.creation.icosphere(3)
    rough.vertices[rough.faces[40, 0]] += 0.999 * (
        rough.vertices[rough.faces[40, 1]] - rough.vertices[rough.faces[40, 0]]
    )
    for points, triangles in ((vertices, faces), (rough.vertices, rough.faces)):
        tidied = without_slivers(points, triangles)
        assert not slivers(tidied, triangles).any()
    assert slivers(rough.vertices, rough.faces).any()
    assert abs(np.linalg.norm(without_slivers(rough.vertices, rough.faces), axis=1) - 1).max() < 0.03


def test_a_mesh_without_slivers_keeps_its_bits():
    ball = trimesh.creation.icosphere(3)
    vertices = ball.vertices.astype(np.float32)
    assert without_slivers(vertices, ball.faces).tobytes() == vertices.tobytes()
