"""The fused Adam against torch's, and what it does to rows that a step has not seen."""

import numpy as np
import pytest

from backend.geometry.splat_adam import Adam

RATES = {"a": np.array([0.03, 0.03, 0.01], dtype=np.float32), "b": np.array([0.2], dtype=np.float32)}


def _arrays(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "a": random.normal(size=(rows, 3)).astype(np.float32),
        "b": random.normal(size=rows).astype(np.float32),
    }


def _gradients(rows: int, step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(100 + step)
    return {
        "a": random.normal(size=(rows, 3)).astype(np.float32),
        "b": random.normal(size=rows).astype(np.float32),
    }


def _torch_adam(arrays: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]]) -> dict:
    """torch.optim.Adam on every column of its own rate."""
    torch = pytest.importorskip("torch")
    columns = {
        (name, j): torch.tensor(array.reshape(len(array), -1)[:, j], requires_grad=True)
        for name, array in arrays.items()
        for j in range(array.reshape(len(array), -1).shape[1])
    }
    groups = [{"params": [t], "lr": float(RATES[name][j])} for (name, j), t in columns.items()]
    optimiser = torch.optim.Adam(groups, eps=1e-15)
    for gradient in gradients:
        for (name, j), tensor in columns.items():
            tensor.grad = torch.from_numpy(gradient[name].reshape(len(tensor), -1)[:, j].copy())
        optimiser.step()
    return {key: tensor.detach().numpy() for key, tensor in columns.items()}


def _check(arrays: dict[str, np.ndarray], expected: dict, rows: slice) -> None:
    for (name, j), column in expected.items():
        ours = arrays[name].reshape(len(arrays[name]), -1)[rows, j]
        np.testing.assert_allclose(ours, column, rtol=1e-5, atol=1e-5)


def test_with_all_rows_seen_it_is_torchs():
    arrays, gradients = _arrays(7), [_gradients(7, step) for step in range(100)]
    expected = _torch_adam(arrays, gradients)
    adam = Adam(arrays)
    for gradient in gradients:
        adam.step(gradient, RATES, np.ones(7, dtype=bool))
    _check(arrays, expected, slice(None))


def test_a_row_moves_as_if_only_the_steps_that_saw_it_had_been():
    arrays, gradients = _arrays(6), [_gradients(6, step) for step in range(30)]
    late = {name: array[3:].copy() for name, array in arrays.items()}
    seen_by = [{name: g[3:] for name, g in gradient.items()} for gradient in gradients[1::3]]
    expected = _torch_adam(late, seen_by)
    adam = Adam(arrays)
    for step, gradient in enumerate(gradients):
        seen = np.array([True] * 3 + [step % 3 == 1] * 3)
        adam.step(gradient, RATES, seen)
    _check(arrays, expected, slice(3, None))


def test_rearranged_rows_keep_their_moments_and_fresh_ones_start_anew():
    arrays = _arrays(4)
    adam = Adam(arrays)
    for step in range(5):
        adam.step(_gradients(4, step), RATES, np.ones(4, dtype=bool))
    source, fresh = np.array([2, 0, 0]), np.array([False, False, True])
    moved = {name: array[source] for name, array in arrays.items()}
    start = {name: array.copy() for name, array in moved.items()}
    gradient = _gradients(3, 9)
    adam.rearranged(moved, source, fresh).step(gradient, RATES, np.ones(3, dtype=bool))
    # The first step of Adam is the rate in the direction of the gradient.
    first = start["b"][2] - 0.2 * np.sign(gradient["b"][2])
    assert moved["b"][2] == pytest.approx(first, rel=1e-5)
    adam.step(
        {name: g[[1, 1, 0, 0]] for name, g in gradient.items()}, RATES, np.array([True, True, True, True])
    )
    assert moved["b"][1] == arrays["b"][0]
