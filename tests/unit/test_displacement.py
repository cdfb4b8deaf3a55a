"""Smooth displacements against SciPy's splines, dense least squares and a field that is known."""

import numpy as np
import pytest
from scipy.interpolate import BSpline

from backend.geometry.displacement import Observed, SmoothDisplacement


def scattered(count, width, height, seed=0):
    generator = np.random.default_rng(seed)
    at = generator.uniform(0, 1, (count, 2)) * [width - 1, height - 1]
    angle = generator.uniform(0, 2 * np.pi, count)
    return at, np.stack([np.cos(angle), np.sin(angle)], axis=1), generator


def test_values_are_those_of_scipys_cubic_splines():
    width, height, spacing = 97, 61, 12.0
    field = SmoothDisplacement(width, height, spacing)
    at, _, generator = scattered(50, width, height)
    coefficients = generator.normal(size=(field.size, 2))
    tables = []
    for axis, length in enumerate((width, height)):
        knots = int(np.ceil((length - 1) / spacing)) + 3
        lattice = spacing * np.arange(-3, knots + 1)
        tables.append(BSpline.design_matrix(at[:, axis], lattice, 3).toarray())
    lattice = coefficients.reshape(tables[1].shape[1], tables[0].shape[1], 2)
    expected = np.einsum("pr,pc,rcd->pd", tables[1], tables[0], lattice)
    assert field.at(coefficients, at) == pytest.approx(expected, abs=1e-12)
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    dense = field.everywhere(coefficients, width, height)
    assert dense.reshape(-1, 2) == pytest.approx(field.at(coefficients, pixels), abs=1e-6)
    # Pixel (0, 0) of the picture twice as large has its middle a quarter of a pixel before that of this one.
    double = field.everywhere(coefficients, 2 * width, 2 * height)
    assert double[1::2, 1::2][:5, :5].reshape(-1, 2) == pytest.approx(
        field.at(coefficients, pixels.reshape(height, width, 2)[:5, :5].reshape(-1, 2) + 0.25), abs=1e-6
    )


def test_the_fit_is_the_dense_least_squares():
    field = SmoothDisplacement(80, 50, 10.0)
    at, along, generator = scattered(300, 80, 50, 1)
    amount, weight = generator.normal(size=300), generator.uniform(0.1, 3, 300)
    unit = np.eye(field.size)
    rows = np.stack([field.at(np.stack([e, 0 * e], axis=1), at)[:, 0] for e in unit], axis=1)
    system = np.concatenate([rows * along[:, :1], rows * along[:, 1:]], axis=1)
    form = system.T @ (weight[:, None] * system)
    count = field.size
    for axis in range(2):
        form[axis * count : (axis + 1) * count, axis * count : (axis + 1) * count] += field._stiffness
    expected = np.linalg.solve(form, system.T @ (weight * amount)).reshape(2, count).T
    whole = Observed(at, along, amount, weight)
    halves = [Observed(at[s], along[s], amount[s], weight[s]) for s in (slice(0, 99), slice(99, None))]
    assert field.fit(field.asked(whole)) == pytest.approx(expected, abs=1e-9)
    assert field.fit(*(field.asked(h) for h in halves)) == pytest.approx(expected, abs=1e-9)


def test_a_smooth_field_comes_back_from_components_along_all_directions():
    width, height = 160, 120
    field = SmoothDisplacement(width, height, 20.0)
    at, along, _ = scattered(1500, width, height, 2)

    def known(points):
        x, y = points.T / 40
        return np.stack([np.sin(x + 0.4 * y), 0.5 + np.cos(y - 0.3 * x)], axis=1)

    amount = np.einsum("pi,pi->p", along, known(at))
    found = field.at(field.fit(field.asked(Observed(at, along, amount, np.full(len(at), 5.0)))), at)
    error = np.abs(found - known(at))
    assert np.sqrt((error**2).mean()) < 0.02 and error.max() < 0.15  # the most in a corner


def test_nothing_observed_moves_nothing():
    field = SmoothDisplacement(64, 64, 16.0)
    assert not field.fit(field.asked()).any()
