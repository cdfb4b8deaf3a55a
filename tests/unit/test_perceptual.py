"""Perceptual distance and its gradient, against the same network in torch; exact facts of the layers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from backend.geometry.perceptual import PerceptualNet, perceptual_distance
from backend.geometry.perceptual_layers import blur_matrix, max3, max3_gradient, one_blas_thread
from backend.weights import store
from backend.weights.torch_file import read_tensors
from shared_protocol.errors import InvalidInput, WeightsError
from tests.support import torch_perceptual


@pytest.fixture(scope="module", params=["random", "published"])
def weights(request):
    if request.param == "random":
        return torch_perceptual.random_weights()
    if not store.weights_present("stlpips"):
        pytest.skip("the weights are not here; fetch them with: python -m backend models pull stlpips")
    return read_tensors(store.weights_path("stlpips", "alex_shift_tolerant.pth"))


def pictures(height, width, seed=0, noise=0.1):
    random = np.random.default_rng(seed)
    picture = random.random((3, height, width), dtype=np.float32)
    other = np.clip(picture + noise * random.standard_normal(picture.shape), 0, 1)
    return picture, other.astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (65, 51), (65, 70)])
def test_distance_and_gradient_equal_those_of_torch(weights, height, width, one_torch_thread):
    net = PerceptualNet.of(weights)
    errors = []
    for seed in range(3):
        picture, target = pictures(height, width, seed)
        expected, slope = torch_perceptual.distance(weights, picture, target)
        value, gradient = net.distance_and_gradient(picture, net.features(target))
        assert value == pytest.approx(expected, rel=1e-5)  # measured: 5e-7
        assert perceptual_distance(net, picture, target) == pytest.approx(expected, rel=1e-5)
        errors.append(np.linalg.norm(gradient - slope) / np.linalg.norm(slope))
    # Measured: 1e-6 to 5e-6; 2e-3 where one of a million units lies so close to its kink that rounding
    # decides its side.
    assert np.median(errors) <= 1e-4
    assert max(errors) <= 1e-2


def test_equal_pictures_are_at_distance_0_with_a_gradient_of_0(weights):
    net = PerceptualNet.of(weights)
    picture, _ = pictures(64, 64)
    value, gradient = net.distance_and_gradient(picture, net.features(picture))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_plain_pictures_give_finite_gradients(weights, level):
    net = PerceptualNet.of(weights)
    plain = np.full((3, 48, 48), level, np.float32)
    value, gradient = net.distance_and_gradient(plain, net.features(pictures(48, 48)[0]))
    assert value > 0
    assert np.isfinite(gradient).all()


def test_the_published_distance_rises_with_noise_and_forgives_a_shift():
    if not store.weights_present("stlpips"):
        pytest.skip("the weights are not here; fetch them with: python -m backend models pull stlpips")
    net = PerceptualNet.of(read_tensors(store.weights_path("stlpips", "alex_shift_tolerant.pth")))
    y, x = np.mgrid[0:97, 0:96] / 97
    waves = np.stack([np.sin(30 * x * (1 + y)), np.cos(40 * y), np.sin(25 * (x + y))]) * 0.4 + 0.5
    picture, shifted = np.float32(waves[:, :96]), np.float32(waves[:, 1:])
    random = np.random.default_rng(0)
    distances = [
        perceptual_distance(net, np.float32(picture + s * random.standard_normal(picture.shape)), picture)
        for s in (0.0, 0.02, 0.05, 0.1, 0.2)
    ]
    assert distances == sorted(distances)
    assert perceptual_distance(net, shifted, picture) < distances[2]


def test_the_number_of_cores_does_not_change_a_bit(tmp_path):
    np.savez(tmp_path / "weights.npz", **torch_perceptual.random_weights())
    code = (
        "import numpy as np, hashlib, sys\n"
        "from backend.geometry.perceptual import PerceptualNet\n"
        "net = PerceptualNet.of(np.load(sys.argv[1]))\n"
        "a, b = np.random.default_rng(0).random((2, 3, 80, 90), dtype=np.float32)\n"
        "value, gradient = net.distance_and_gradient(a, net.features(b))\n"
        "print(value.hex(), hashlib.sha256(gradient.tobytes()).hexdigest())\n"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "weights.npz")],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
            env=os.environ | {"ORRERY_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "3", "2")
    }
    assert len(results) == 1


def test_the_threads_of_blas_are_given_back():
    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    net = PerceptualNet.of(torch_perceptual.random_weights())
    before = threads()
    picture, target = pictures(40, 40)
    with one_blas_thread:
        inside = threads()
        net.distance_and_gradient(picture, net.features(target))
        assert threads() == inside
    assert set(inside) <= {1}
    assert threads() == before


@pytest.mark.parametrize("length", [3, 4, 5, 12, 13])
def test_the_blur_matrix_is_a_filtered_reflection(length):
    x = np.random.default_rng(length).random(length, dtype=np.float32)
    padded = np.pad(x, 2, mode="reflect")
    expected = np.convolve(padded, [0.25, 0.5, 0.25], mode="valid")[::2]
    assert np.allclose(blur_matrix(length) @ x, expected, atol=1e-6)


def test_the_gradient_of_a_maximum_goes_to_the_first_of_equals():
    x = np.zeros((4, 4, 1), np.float32)
    x[1, 1:3] = 1
    result, along = max3(x)
    gradient = max3_gradient(np.ones((2, 2, 1), np.float32), x, along, result)
    assert gradient[..., 0].tolist() == [[0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_picture_too_small_or_of_another_shape_is_refused():
    net = PerceptualNet.of(torch_perceptual.random_weights())
    for shape in ((3, 31, 64), (1, 64, 64), (64, 64, 3), (64, 64)):
        with pytest.raises(InvalidInput, match="at least 32"):
            net.features(np.zeros(shape, np.float32))


def test_missing_or_misshapen_weights_are_named():
    weights = torch_perceptual.random_weights()
    broken = {k: v for k, v in weights.items() if k != "net.slice3.9.bias"}
    with pytest.raises(WeightsError, match=r"no net\.slice3\.9\.bias"):
        PerceptualNet.of(broken)
    with pytest.raises(WeightsError, match=r"lin2\.model\.1\.weight of shape \(384,\)"):
        PerceptualNet.of(weights | {"lin2.model.1.weight": np.zeros(384, np.float32)})
