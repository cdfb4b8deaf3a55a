"""The CPU rasteriser against GSplat's torch code, finite differences and awkward Gaussians."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numba.core.errors import NumbaError

import backend.geometry
from backend.geometry.cameras import Cameras, pinhole_intrinsics, ring
from backend.geometry.parallel import _pool
from backend.geometry.splat_raster import Gaussians, raster_kernels, render_gaussians
from benchmarks.rasterizer import ball
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
    [(200, 1, 64, 64), (300, 4, 70, 53), (400, 9, 96, 64), (1500, 16, 96, 80)],
)
def test_color_and_every_gradient_equal_gsplats_torch_code(
    count, coefficients, width, height, one_torch_thread
):
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

    for kernels in ("plain", "auto"):
        rendering = render_gaussians(
            Gaussians(*scene), pose, intrinsics, width, height, background, kernels=kernels
        )
        gradients = rendering.backward(upstream)

        # Measured 9e-7 for the picture and up to 7e-6 for the gradients.
        assert _relative_error(expected.detach().numpy(), rendering.image) < 5e-5, kernels
        for name, tensor in zip(NAMES, tensors, strict=True):
            assert _relative_error(tensor.grad.numpy(), getattr(gradients, name)) < 2e-4, (kernels, name)


@pytest.mark.slow
def test_gradients_of_fifty_thousand_gaussians_equal_the_torch_codes():
    """Float32 against float64. Two things are not differentiable, and rounding decides them: the order of
    Gaussians at one depth, which the oracle takes from us, and pairs at a threshold (alpha 1/255,
    transmittance 1e-4), at whose pixels the loss does not look.

    With its own order the oracle differs by 4.7e-4 to 1.2e-3, with those pixels by 6e-5 to 2.9e-4.
    """
    torch = pytest.importorskip("torch")
    torch_splats = pytest.importorskip("tests.support.torch_splats")
    size = 512
    scene = [a.astype(np.float32) for a in ball(50_000, 16)]
    cameras = ring(12, radius=3.5, elevation_degrees=15, fov_degrees=40, size=size)
    pose, intrinsics = cameras.world_from_camera[1], cameras.intrinsics[1]
    tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in scene]
    with torch.no_grad():
        unsure = torch_splats.near_a_threshold(*tensors, pose, intrinsics, size, size, 16, within=1e-4)
    # Measured 0.6 % of the pixels.
    assert unsure.mean() < 0.01
    upstream = (np.random.default_rng(1).random((4, size, size)) - 0.5).astype(np.float32) * ~unsure
    rendering = render_gaussians(Gaussians(*scene), pose, intrinsics, size, size, WHITE)
    gradients = rendering.backward(upstream)
    order = np.argsort(rendering.depth, kind="stable")[: np.count_nonzero(rendering.depth < 1e30)]
    expected = torch_splats.render(*tensors, pose, intrinsics, size, size, WHITE, 16, order=order)
    (expected * torch.from_numpy(upstream)).sum().backward()
    # Measured 1.4e-5, and 1.7e-5 for the gradients.
    assert np.abs(rendering.image - expected.detach().numpy())[:, ~unsure].max() < 2e-5
    for name, tensor in zip(NAMES, tensors, strict=True):
        assert _relative_error(tensor.grad.numpy(), getattr(gradients, name)) < 2e-4, name


def _one(position, scale, opacity, rotation=(1, 0, 0, 0)) -> list[np.ndarray]:
    color = np.full((1, 1, 3), -0.5 / 0.28209479177387814)
    return [np.array([position]), np.array([scale]), np.array([rotation]), np.array([opacity]), color]


AWKWARD = {
    "behind the camera": _one((2.4, -4.0, 1.8), (0.1, 0.1, 0.1), 0.9),
    "at the camera": _one((1.2, -2.0, 0.9), (0.1, 0.1, 0.1), 0.9),
    "just in front of the camera": _one((1.19, -1.98, 0.89), (0.1, 0.1, 0.1), 0.9),
    "far outside the picture": _one((40, 40, 0), (0.1, 0.1, 0.1), 0.9),
    "in the camera's plane": _one((2.4, -1.4, 0.9), (0.1, 0.1, 0.1), 0.9),
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
    "of infinite position": _one((np.inf, 0, 0), (0.1, 0.1, 0.1), 0.9),
    "of infinite rotation": _one((0, 0, 0), (0.1, 0.1, 0.1), 0.9, (np.inf, 0, 0, 1)),
    "of NaN rotation": _one((0, 0, 0), (0.1, 0.1, 0.1), 0.9, (np.nan, 0, 0, 1)),
    "of almost no rotation": _one((0, 0, 0), (0.1, 0.1, 0.1), 0.9, (1e-9, 0, 2e-9, 0)),
    "wider than float32 can square": _one((0, 0, 0), (1e9, 1e9, 1e9), 0.9),
    "flat": _one((0, 0, 0), (0.2, 0.2, 0), 0.9, (0.9, 0.1, 0.2, 0.3)),
    "of NaN colour": [*_one((0, 0, 0), (0.1, 0.1, 0.1), 0.9)[:4], np.full((1, 1, 3), np.nan)],
    "of infinite colour": [*_one((0, 0, 0), (0.1, 0.1, 0.1), 0.9)[:4], np.full((1, 1, 3), np.inf)],
}


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("coefficients", [1, 16])
@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_gaussian_spoils_no_pixel_and_no_gradient(name, coefficients, antialiased):
    regular = _scene(50, coefficients, seed=9)
    one = [*AWKWARD[name][:4], np.repeat(AWKWARD[name][4], coefficients, axis=1)]
    scene = [np.concatenate([a, b]) for a, b in zip(regular, one, strict=True)]
    cameras = _camera(64, 48)
    rendering = render_gaussians(
        Gaussians(*scene), cameras.world_from_camera[0], cameras.intrinsics[0], 64, 48, WHITE,
        depth=True, antialiased=antialiased,
    )  # fmt: skip
    gradients, camera = rendering.backward_with_camera(np.ones((5, 48, 64), np.float32))
    assert np.isfinite(rendering.image).all()
    assert not np.isnan(rendering.median_depth()).any()
    assert rendering.image[3].min() >= 0
    assert rendering.image[3].max() <= 1
    for array in (*vars(gradients).values(), camera.tangent, camera.intrinsics):
        assert np.isfinite(array).all()


# Those that GSplat draws as well, and whose gradient is a number in its torch code.
@pytest.mark.parametrize(
    "one",
    {
        "behind the camera": AWKWARD["behind the camera"],
        "just in front of the camera": AWKWARD["just in front of the camera"],
        "far outside": AWKWARD["far outside the picture"],
        "huge": AWKWARD["huge"],
        "a needle of 200 m": _one((0, 0, 0), (200, 1e-5, 1e-5), 0.9, (0.9, 0.1, 0.2, 0.3)),
        "tiny": AWKWARD["tiny"],
        "flat": AWKWARD["flat"],
        "without rotation": AWKWARD["without rotation"],
        "of almost no rotation": AWKWARD["of almost no rotation"],
        "transparent": AWKWARD["transparent"],
        "opaque": AWKWARD["opaque"],
        "black beyond black": [*AWKWARD["opaque"][:4], np.full((1, 1, 3), -5.0)],
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_of_a_scene_with_an_awkward_gaussian_equal_the_torch_codes(
    one, antialiased, one_torch_thread
):
    torch = pytest.importorskip("torch")
    torch_splats = pytest.importorskip("tests.support.torch_splats")
    scene = [np.concatenate([a, b]) for a, b in zip(_scene(60, 1, seed=9), one[1], strict=True)]
    scene[4] += 0.3  # colour exactly at the clamp has two gradients
    cameras = _camera(60, 50)
    pose, intrinsics = cameras.world_from_camera[0], cameras.intrinsics[0]
    upstream = (np.random.default_rng(1).random((5, 50, 60)) - 0.5).astype(np.float32)
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in scene]
    tangent = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    expected = torch_splats.render(
        *leaves, pose, intrinsics, 60, 50, WHITE, depth=True, antialiased=antialiased, tangent=tangent
    )
    (expected * torch.from_numpy(upstream)).sum().backward()
    rendering = render_gaussians(
        Gaussians(*scene), pose, intrinsics, 60, 50, WHITE, depth=True, antialiased=antialiased
    )
    gradients, camera = rendering.backward_with_camera(upstream)
    # Measured at most 2e-5.
    assert _relative_error(expected.detach().numpy(), rendering.image) < 2e-4
    for name, leaf in zip(NAMES, leaves, strict=True):
        assert _relative_error(leaf.grad.numpy(), getattr(gradients, name)) < 2e-4, name
    assert _relative_error(tangent.grad.numpy(), camera.tangent) < 2e-4


@pytest.mark.parametrize("module", ["simd", "splat_projection_simd", "splat_tiles_simd", "splat_pixels_simd"])
@pytest.mark.parametrize("trouble", [None, SimpleNamespace(), "does not compile"])
def test_where_the_vector_loops_do_not_work_the_plain_ones_draw(monkeypatch, module, trouble):
    def fails(*arguments):
        raise NumbaError("no such intrinsic")

    if trouble == "does not compile":
        names = ("blend_band", "blend_band_back", "blend_band_depth", "blend_band_depth_back")
        names += ("bin_band", "gather_gradient", "project", "project_back")
        trouble = SimpleNamespace(**dict.fromkeys(names, fails))
    if module == "simd":  # its users have to be imported anew
        for name in ("splat_projection_simd", "splat_tiles_simd", "splat_pixels_simd"):
            monkeypatch.delitem(sys.modules, f"backend.geometry.{name}", raising=False)
            monkeypatch.delattr(backend.geometry, name, raising=False)
    monkeypatch.delattr(backend.geometry, module, raising=False)
    monkeypatch.setitem(sys.modules, f"backend.geometry.{module}", trouble)
    assert raster_kernels.__wrapped__("auto") == raster_kernels("plain")
    with pytest.raises((ImportError, AttributeError, NumbaError)):
        raster_kernels.__wrapped__("simd")


def _everything(threads: int, monkeypatch) -> list[bytes]:
    monkeypatch.setenv("ORRERY_THREADS", str(threads))
    _pool.cache_clear()
    scene, cameras = _scene(2000, 4, seed=3), _camera(200, 120)
    scene = [np.concatenate([a] * 3) for a in scene]  # more than one chunk of the projection
    rendering = render_gaussians(
        Gaussians(*scene), cameras.world_from_camera[0], cameras.intrinsics[0], 200, 120, WHITE, depth=True
    )
    upstream = (np.random.default_rng(1).random((5, 120, 200)) - 0.5).astype(np.float32)
    gradients, camera = rendering.backward_with_camera(upstream)
    arrays = [rendering.image, camera.tangent, camera.intrinsics, *vars(gradients).values()]
    return [array.tobytes() for array in arrays]


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    assert _everything(1, monkeypatch) == _everything(5, monkeypatch)
    monkeypatch.undo()
    _pool.cache_clear()
