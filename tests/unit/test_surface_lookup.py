"""Nearest points and points along normals, against trimesh's closest point on each single triangle."""

import numpy as np
import pytest
import trimesh
from trimesh.triangles import closest_point

from backend.geometry.surface_lookup import SurfaceLookup
from shared_protocol.errors import Cancelled


def flat_ball():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    ball.vertices[:, 2] *= 0.3
    return ball


def test_the_nearest_point_is_the_nearest_of_all_triangles_near_and_far():
    ball = flat_ball()
    points = np.random.default_rng(0).normal(size=(500, 3)) * 0.7
    there = SurfaceLookup(ball.vertices, ball.faces).nearest(points)
    best = np.full(len(points), np.inf)
    for triangle in ball.triangles:
        on_it = closest_point(np.repeat(triangle[None], len(points), axis=0), points)
        best = np.minimum(best, np.linalg.norm(on_it - points, axis=1))
    np.testing.assert_allclose(there.distance, best, atol=1e-6)
    found = there.interpolate(ball.vertices, ball.faces)
    np.testing.assert_allclose(np.linalg.norm(found - points, axis=1), best, atol=1e-6)


def test_along_a_normal_lies_the_point_it_was_lifted_from():
    ball = flat_ball()
    on_it, face = trimesh.sample.sample_surface(ball, 800, seed=1)
    normals, lift = ball.face_normals[face], np.random.default_rng(2).uniform(-0.02, 0.02, 800)
    lookup = SurfaceLookup(ball.vertices, ball.faces)
    there = lookup.along(on_it + lift[:, None] * normals, normals, 0.05)
    np.testing.assert_allclose(there.distance, -lift, atol=1e-6)
    np.testing.assert_allclose(there.interpolate(ball.vertices, ball.faces), on_it, atol=1e-6)


def test_along_finds_no_face_beyond_its_reach_nor_the_back_of_a_thin_wall():
    ball = flat_ball()
    lookup = SurfaceLookup(ball.vertices, ball.faces)
    above = np.array([[0.0, 0.01, 0.3]])
    assert lookup.along(above, np.array([[0, 0, 1.0]]), 0.05).face[0] == -1
    # From the middle, the lower half is as near, but looks the other way.
    there = lookup.along(np.array([[0.01, 0.02, -0.05]]), np.array([[0, 0, 1.0]]), 1.0)
    assert ball.face_normals[there.face[0], 2] > 0


def test_a_lookup_can_be_cancelled():
    ball = flat_ball()

    def cancelled():
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        SurfaceLookup(ball.vertices, ball.faces).nearest(np.zeros((3, 3)), cancelled)
