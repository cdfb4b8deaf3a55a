"""Flattening discs: developable shapes exactly, others without flips, and what crosses is found."""

import numpy as np
import pytest
import trimesh

from backend.geometry.flatten import Discs, border_loops, crossings, flatten
from backend.geometry.uv_check import measure_uvs


def _never() -> None:
    return None


def _sheet(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a grid in the unit square, and counter-clockwise faces."""
    x, y = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    corner = np.arange(columns * rows).reshape(rows, columns)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return np.column_stack([x.ravel(), y.ravel()]), faces


def _disc(points: np.ndarray, faces: np.ndarray) -> Discs:
    return Discs(np.asarray(points, dtype=float), faces, np.zeros(len(points), dtype=np.int64), 1)


def _area(uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    p, q = uv[faces[:, 1]] - uv[faces[:, 0]], uv[faces[:, 2]] - uv[faces[:, 0]]
    return (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]) / 2


def test_a_rolled_sheet_unrolls_to_its_rectangle():
    flat, faces = _sheet(41, 13)
    angle = 2 * np.pi * 0.9 * flat[:, 0]
    rolled = np.column_stack([np.cos(angle), np.sin(angle), 1.5 * flat[:, 1]])
    uv, energy = flatten(_disc(rolled, faces), _never)
    assert energy[0] == pytest.approx(1, abs=1e-4)
    side = 40 * 2 * np.sin(np.pi * 0.9 / 40)
    far = np.linalg.norm(uv[40] - uv[0])
    np.testing.assert_allclose((far, np.linalg.norm(uv[-41] - uv[0])), (side, 1.5), rtol=2e-3)


def test_a_half_sphere_lies_flat_as_well_as_equal_scale_maps_can():
    # Of the best radial map r(t) of a half sphere the energy is 1.0323, by minimising the integral below.
    t = (np.arange(2000) + 0.5) * (np.pi / 2 / 2000)

    def radial(power: float, scale: float) -> float:
        r = scale * t * (1 + power * t * t)
        along, around = scale * (1 + 3 * power * t * t), r / np.sin(t)
        return float(np.average((along**2 + around**2 + along**-2 + around**-2) / 4, weights=np.sin(t)))

    best = min(radial(p, s) for p in np.linspace(-0.1, 0.1, 41) for s in np.linspace(0.7, 1.1, 81))
    sphere = trimesh.creation.icosphere(subdivisions=5)
    upper = sphere.faces[sphere.vertices[sphere.faces][:, :, 2].min(axis=1) > -1e-9]
    rows, faces = np.unique(upper, return_inverse=True)
    uv, energy = flatten(_disc(sphere.vertices[rows], faces.reshape(-1, 3)), _never)
    assert energy[0] == pytest.approx(best, abs=2e-3)
    assert _area(uv, faces.reshape(-1, 3)).min() > 0


def test_discs_side_by_side_do_not_know_of_each_other():
    flat, faces = _sheet(9, 9)
    bent = np.column_stack([flat, 0.3 * np.sin(3 * flat[:, 0]) * flat[:, 1]])
    hill = np.column_stack([flat, np.exp(-20 * ((flat - 0.5) ** 2).sum(axis=1))])
    both = Discs(
        np.concatenate([bent, 1e-3 * hill]), np.concatenate([faces, faces + 81]),
        np.repeat([0, 1], 81), 2,
    )  # fmt: skip
    uv, energy = flatten(both, _never)
    for part, (points, scale) in enumerate(((bent, 1), (hill, 1e-3))):
        alone, alone_energy = flatten(_disc(points, faces), _never)
        assert energy[part] == pytest.approx(alone_energy[0], rel=1e-3)
        mine = measure_uvs(scale * points, faces, uv[81 * part : 81 * part + 81][faces])
        assert mine.stretch == pytest.approx(measure_uvs(points, faces, alone[faces]).stretch, rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_crumpled_sheets_with_slivers_never_flip(seed):
    rng = np.random.default_rng(seed)
    flat, faces = _sheet(15, 15)
    crumpled = np.column_stack([flat + rng.normal(0, 0.02, flat.shape), rng.normal(0, 0.15, len(flat))])
    crumpled[rng.integers(0, len(flat), 5)] = crumpled[rng.integers(0, len(flat), 5)]  # points that coincide
    uv, energy = flatten(_disc(crumpled, faces), _never)
    assert np.isfinite(energy).all()
    assert _area(uv, faces).min() > 0


def test_the_border_runs_once_around_in_order():
    _, faces = _sheet(4, 3)
    loops, start = border_loops(_disc(np.zeros((12, 3)), faces))
    assert loops.tolist() == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4]
    assert start.tolist() == [0, 10]


def test_a_spiral_that_laps_over_itself_crosses_and_a_flat_ring_does_not():
    flat, faces = _sheet(61, 3)
    for turns, expected in ((0.95, False), (1.05, True)):
        angle = -2 * np.pi * turns * flat[:, 0]
        radius = 1 + 0.3 * flat[:, 1]
        ring = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
        found = crossings(_disc(np.column_stack([ring, np.zeros(len(ring))]), faces), ring)
        assert (found[0, 0] >= 0) == expected
