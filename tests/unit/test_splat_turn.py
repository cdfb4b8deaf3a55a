"""Rotation of Gaussians: what is seen from a direction turned with them stays the same."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from backend.geometry.harmonics import harmonics_basis
from shared_protocol.conventions import world_from_gltf
from shared_protocol.splats.turn import WORLD_FROM_Y_UP, Y_UP_FROM_WORLD, turn
from tests.support.splats import angle_between, random_splats

TURNS = [Rotation.random(random_state=seed).as_matrix() for seed in range(4)]
TURNS += [np.diag([1.0, -1, -1]), np.diag([-1.0, -1, 1]), WORLD_FROM_Y_UP, Y_UP_FROM_WORLD, np.eye(3)]


@pytest.mark.parametrize("rotation", TURNS)
@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_the_colour_seen_from_a_turned_direction_stays(rotation, coefficients):
    stored = random_splats(30, coefficients)
    turned = turn(stored, rotation)
    directions = np.random.default_rng(0).normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = harmonics_basis(directions.astype(np.float32), coefficients)
    after = harmonics_basis((directions @ rotation.T).astype(np.float32), coefficients)
    np.testing.assert_allclose(
        np.einsum("dk,gkc->gdc", before, stored.harmonics),
        np.einsum("dk,gkc->gdc", after, turned.harmonics),
        atol=5e-6,
    )


@pytest.mark.parametrize("rotation", TURNS)
def test_places_and_axes_turn_as_scipy_turns_them(rotation):
    stored = random_splats(30, 1)
    turned = turn(stored, rotation)
    np.testing.assert_allclose(stored.positions @ rotation.T, turned.positions, atol=1e-6)
    expected = Rotation.from_matrix(rotation) * Rotation.from_quat(stored.rotations[:, (1, 2, 3, 0)])
    assert angle_between(expected.as_quat()[:, (3, 0, 1, 2)], turned.rotations).max() < 1e-6
    np.testing.assert_array_equal(stored.log_scales, turned.log_scales)


def test_y_up_becomes_the_world_as_gltf_does():
    stored = random_splats(30, 1)
    np.testing.assert_array_equal(world_from_gltf(stored.positions), turn(stored, WORLD_FROM_Y_UP).positions)
