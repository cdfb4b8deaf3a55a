"""The CPU rasteriser against GSplat's torch code, finite differences and awkward Gaussians."""

import numpy as np
import pytest

from backend.geometry.cameras import Cameras, pinhole_intrinsics
from backend.geometry.parallel import _pool
from backend.geometry.splat_raster import Gaussians, render_gaussians
from shared_protocol.conventions import look_at

NAMES = ("positions", "scales", "rotations", "opacities", "harmonics")
WHITE = np.ones(3)


def _scene(count: int, coefficients: int, seed: int = 0, spread: float = 0.5) -> list[np.ndarray]:
    """Random Gaussians around the origin; rotations not normalised; some nearly opaque."""
    random = np.random.default_rng(seed)
    size = 0.6 / np.sqrt(count)
    harmonics = random.normal(0, 0.15, (count, coefficients, 3))
    harmonics[:, 0] = random.normal(0, 1, (count, 3))
    return [
        random.normal(0, spread, (count, 3)),
        size * np.exp(random.normal(0, 0.6, (count, 3))),
        random.normal(size=(count, 4)),
        1 / (1 + np.exp(-random.normal(0.5, 2, count))),
        harmonics,
    ]


def _camera(width: int, height: int) -> Cameras:
    pose = look_at(np.array([1.2, -2.0, 0.9]), np.array([0.05, 0.02, -0.03]))
    intrinsics = pinhole_intrinsics(40, width, height)
    intrinsics[1, 1] *= 1.1
    intrinsics[:2, 2] += (3.3, -1.7)
    return Cameras(pose[None], intrinsics[None], width, height)


def _relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("count", "coefficients", "width", "height"),
    [(200, 1, 64, 64), (300, 4, 70, 53), (400, 9, 96, 64), (2000, 16, 128, 112)],
)
def test_color_and_every_gradient_equal_gsplats_torch_code(count, coefficients, width, height):
    torch = pytest.importorskip("torch")
    torch_splats = pytest.importorskip("tests.support.torch_splats")
    scene = _scene(count, coefficients, seed=count)
    cameras = _camera(width, height)
    background = np.array([1.0, 0.7, 0.2])
    upstream = (np.random.default_rng(1).random((4, height, width)) - 0.5).astype(np.float32)

    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in scene]
    pose, intrinsics = cameras.world_from_camera[0], cameras.intrinsics[0]
    tile = 32 if count > 1000 else None
    expected = torch_splats.render(*tensors, pose, intrinsics, width, height, background, tile)
    (expected * torch.from_numpy(upstream)).sum().backward()

    rendering = render_gaussians(Gaussians(*scene), pose, intrinsics, width, height, background)
    gradients = rendering.backward(upstream)

    # Measured 9e-7 for the picture and up to 7e-6 for the gradients.
    assert _relative_error(expected.detach().numpy(), rendering.image) < 5e-4
    for name, tensor in zip(NAMES, tensors, strict=True):
        assert _relative_error(tensor.grad.numpy(), getattr(gradients, name)) < 5e-4, name


def test_gradients_equal_finite_differences_in_float64():
    torch = pytest.importorskip("torch")
    torch_splats = pytest.importorskip("tests.support.torch_splats")
    scene = _scene(3, 4, seed=5, spread=0.15)
    scene[1] *= 0.4
    scene[3][:] = (0.6, 0.7, 0.5)
    cameras = _camera(24, 20)
    pose, intrinsics = cameras.world_from_camera[0], cameras.intrinsics[0]
    upstream = np.random.default_rng(2).random((4, 20, 24)) - 0.5

    def value(arrays: list[np.ndarray]) -> float:
        image = torch_splats.render(*map(torch.from_numpy, arrays), pose, intrinsics, 24, 20, WHITE)
        return float((image.numpy() * upstream).sum())

    rendering = render_gaussians(Gaussians(*scene), pose, intrinsics, 24, 20, WHITE)
    gradients = rendering.backward(upstream)
    for index, name in enumerate(NAMES):
        differences = np.zeros_like(scene[index])
        for position in np.ndindex(scene[index].shape):
            moved = []
            for step in (1e-7, -1e-7):
                arrays = [array.copy() for array in scene]
                arrays[index][position] += step
                moved.append(value(arrays))
            differences[position] = (moved[0] - moved[1]) / 2e-7
        assert _relative_error(differences, getattr(gradients, name)) < 5e-4, name


def _one(position, scale, opacity, rotation=(1, 0, 0, 0)) -> list[np.ndarray]:
    color = np.full((1, 1, 3), -0.5 / 0.28209479177387814)
    return [np.array([position]), np.array([scale]), np.array([rotation]), np.array([opacity]), color]


AWKWARD = {
    "behind the camera": _one((2.4, -4.0, 1.8), (0.1, 0.1, 0.1), 0.9),
    "at the camera": _one((1.2, -2.0, 0.9), (0.1, 0.1, 0.1), 0.9),
    "just in front of the camera": _one((1.19, -1.98, 0.89), (0.1, 0.1, 0.1), 0.9),
    "far outside the picture": _one((40, 40, 0), (0.1, 0.1, 0.1), 0.9),
    "huge": _one((0, 0, 0), (1e4, 1e4, 1e4), 0.9),
    "a huge needle": _one((0, 0, 0), (1e5, 1e-6, 1e-6), 0.9, (0.9, 0.1, 0.2, 0.3)),
    "tiny": _one((0, 0, 0), (1e-12, 1e-12, 1e-12), 0.9),
    "of zero size": _one((0, 0, 0), (0, 0, 0), 0.9),
    "transparent": _one((0, 0, 0), (0.1, 0.1, 0.1), 0.0),
    "opaque": _one((0, 0, 0), (0.3, 0.3, 0.3), 1.0),
    "without rotation": _one((0, 0, 0), (0.1, 0.1, 0.1), 0.9, (0, 0, 0, 0)),
    "of NaN position": _one((np.nan, 0, 0), (0.1, 0.1, 0.1), 0.9),
    "of NaN scale": _one((0, 0, 0), (0.1, np.nan, 0.1), 0.9),
    "of infinite scale": _one((0, 0, 0), (0.1, np.inf, 0.1), 0.9),
    "of NaN opacity": _one((0, 0, 0), (0.1, 0.1, 0.1), np.nan),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_gaussian_spoils_no_pixel_and_no_gradient(name):
    regular = _scene(50, 1, seed=9)
    scene = [np.concatenate([a, b]) for a, b in zip(regular, AWKWARD[name], strict=True)]
    cameras = _camera(64, 48)
    rendering = render_gaussians(
        Gaussians(*scene), cameras.world_from_camera[0], cameras.intrinsics[0], 64, 48, WHITE
    )
    gradients = rendering.backward(np.ones((4, 48, 64), np.float32))
    assert np.isfinite(rendering.image).all()
    assert rendering.image[3].min() >= 0
    assert rendering.image[3].max() <= 1
    for array in vars(gradients).values():
        assert np.isfinite(array).all()


def _everything(threads: int, monkeypatch) -> list[bytes]:
    monkeypatch.setenv("ORRERY_THREADS", str(threads))
    _pool.cache_clear()
    scene, cameras = _scene(2000, 4, seed=3), _camera(200, 120)
    rendering = render_gaussians(
        Gaussians(*scene), cameras.world_from_camera[0], cameras.intrinsics[0], 200, 120, WHITE
    )
    upstream = (np.random.default_rng(1).random((4, 120, 200)) - 0.5).astype(np.float32)
    gradients = rendering.backward(upstream)
    return [rendering.image.tobytes(), *(array.tobytes() for array in vars(gradients).values())]


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    assert _everything(1, monkeypatch) == _everything(5, monkeypatch)
    monkeypatch.undo()
    _pool.cache_clear()
