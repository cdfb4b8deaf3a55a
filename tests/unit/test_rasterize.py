"""`rasterize`: its outputs and gradients against closed forms, torch code, and GSplat where a GPU is."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

from backend.geometry import splat_gsplat
from backend.geometry.cameras import Cameras, moved, pinhole_intrinsics
from backend.geometry.rasterize import Rasterization, SplatGradients, rasterize
from backend.geometry.splat_raster import Gaussians
from shared_protocol.conventions import look_at
from shared_protocol.errors import EngineUnavailable, InvalidInput
from tests.unit.test_splat_raster import NAMES, _one, _relative_error, _scene

BACKGROUND = (1.0, 0.7, 0.2)


def _cameras(width: int = 80, height: int = 60) -> Cameras:
    """Two cameras of different intrinsics: not square, off centre."""
    poses = [
        look_at(np.array(p), np.array([0.05, 0.02, -0.03])) for p in ((1.2, -2.0, 0.9), (-1.5, -1.4, 0.3))
    ]
    intrinsics = np.stack([pinhole_intrinsics(fov, width, height) for fov in (40, 48)])
    intrinsics[:, 1, 1] *= 1.1
    intrinsics[0, :2, 2] += (3.3, -1.7)
    return Cameras(np.stack(poses), intrinsics, width, height)


def _upstream(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) - 0.5


# ---------------------------------------------------------------------------------------- outputs


def test_nothing_to_draw_gives_the_background():
    empty = Gaussians(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 1, 3)))
    drawn = rasterize(empty, _cameras(33, 17), background=BACKGROUND, depth=True, median_depth=True)
    np.testing.assert_array_equal(drawn.color, np.broadcast_to(np.float32(BACKGROUND), (2, 17, 33, 3)))
    assert drawn.alpha.max() == 0
    assert np.isinf(drawn.depth).all()
    assert np.isinf(drawn.median_depth).all()
    assert (drawn.normals == 0).all()
    gradients = drawn.backward(color=np.ones((2, 17, 33, 3)), cameras=True)
    assert len(gradients.splats) == 0
    assert (gradients.tangents == 0).all()


@pytest.mark.parametrize("antialiased", [False, True])
def test_a_single_gaussian_has_its_closed_form(antialiased):
    # On the axis, isotropic: alpha(r) = o exp(-r^2 / 2 v), v = f^2 s^2 / z^2 + 0.3.
    # Anti-aliased o becomes o (v - 0.3) / v.
    pose, intrinsics = look_at(np.array([0, -2.0, 0])), pinhole_intrinsics(40, 41, 41)
    cameras = Cameras(pose[None], intrinsics[None], 41, 41)
    drawn = rasterize(
        Gaussians(*_one((0, 0, 0), (0.03, 0.03, 0.03), 0.8)), cameras, antialiased=antialiased, depth=True
    )
    y, x = np.mgrid[0:41, 0:41] + 0.5 - 20.5
    variance = (intrinsics[0, 0] * 0.03 / 2) ** 2 + 0.3
    opacity = 0.8 * (variance - 0.3) / variance if antialiased else 0.8
    expected = opacity * np.exp(-(x * x + y * y) / (2 * variance))
    expected[expected < 1 / 255] = 0
    np.testing.assert_allclose(drawn.alpha[0], expected, atol=2e-6)
    np.testing.assert_allclose(drawn.color[0], 1 - np.repeat(expected[..., None], 3, axis=2), atol=2e-6)
    np.testing.assert_allclose(drawn.depth[0], np.where(expected > 0, 2, np.inf), rtol=2e-5)
    np.testing.assert_allclose(drawn.accumulated_depth[0], 2 * expected, atol=4e-6)


def test_the_antialiased_mode_keeps_a_pictures_brightness_when_pixels_grow():
    scene = _scene(400, 1, seed=4, spread=0.3)
    scene[1] *= 0.12  # far thinner than a pixel of the small picture
    cameras = _cameras(480, 360)
    small = cameras.resized(60, 45)

    def covered(antialiased: bool) -> float:
        whole, fine = (
            rasterize(Gaussians(*scene), c, antialiased=antialiased).alpha.mean() for c in (small, cameras)
        )
        return whole / fine

    # Measured 2.2 and 0.83 (faint Gaussians fall under 1/255).
    assert covered(False) > 2
    assert 0.75 < covered(True) < 1.1


def _layers() -> Gaussians:
    """Two opaque walls y = 0 and y = 1, the nearer one only where x < 0."""
    x, z = (a.ravel() for a in np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-2, 2, 81)))
    near, far = np.stack([x, 0 * x, z], axis=1)[x < 0], np.stack([x, 0 * x + 1, z], axis=1)
    points = np.concatenate([near, far])
    count = len(points)
    flat = np.full((count, 3), (0.05, 1e-4, 0.05))
    return Gaussians(
        points, flat, np.tile([1, 0, 0, 0], (count, 1)), np.full(count, 0.9), np.zeros((count, 1, 3))
    )


def test_depth_median_and_normals_of_opaque_walls():
    pose = look_at(np.array([0, -3.0, 0]))
    cameras = Cameras(pose[None], pinhole_intrinsics(30, 48, 40)[None], 48, 40)
    drawn = rasterize(_layers(), cameras, depth=True, median_depth=True)
    assert drawn.alpha.min() > 0.95
    left, right = np.s_[0, :, :20], np.s_[0, :, 28:]
    for depth in (drawn.depth, drawn.median_depth):
        np.testing.assert_allclose(depth[left], 3.0, atol=2e-4)
        np.testing.assert_allclose(depth[right], 4.0, atol=2e-4)
    towards_camera = np.broadcast_to((0, -1, 0), (38, 18, 3))
    np.testing.assert_allclose(drawn.normals[0, 1:-1, 1:19], towards_camera, atol=2e-3)
    np.testing.assert_allclose(drawn.normals[0, 1:-1, 29:47], towards_camera, atol=2e-3)
    assert (drawn.normals[0, 0] == 0).all()


def test_median_depth_is_of_the_gaussian_that_crosses_a_half():
    pose = look_at(np.array([0, -4.0, 0]))
    cameras = Cameras(pose[None], pinhole_intrinsics(30, 16, 16)[None], 16, 16)

    def median(opacities: list[float]) -> float:
        scene = [_one((0, y, 0), (3, 3, 3), o) for y, o in zip((0, 1, 2), opacities, strict=True)]
        gaussians = Gaussians(*(np.concatenate(a) for a in zip(*scene, strict=True)))
        return rasterize(gaussians, cameras, median_depth=True).median_depth[0, 8, 8]

    assert median([0.6, 0.6, 0.6]) == pytest.approx(4)
    assert median([0.4, 0.4, 0.4]) == pytest.approx(5)
    assert median([0.2, 0.2, 0.9]) == pytest.approx(6)
    assert np.isinf(median([0.1, 0.1, 0.1]))


def test_what_was_not_drawn_is_refused():
    gaussians = Gaussians(*_scene(5, 1))
    drawn = rasterize(gaussians, _cameras(), differentiable=False)
    with pytest.raises(InvalidInput, match="depth"):
        _ = drawn.depth
    with pytest.raises(InvalidInput, match="gradients"):
        drawn.backward(color=drawn.color)
    with pytest.raises(InvalidInput, match="depth"):
        rasterize(gaussians, _cameras()).backward(depth=drawn.alpha)
    with pytest.raises(InvalidInput, match="tpu"):
        rasterize(gaussians, _cameras(), device="tpu")


# -------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_of_splats_and_cameras_equal_the_torch_codes(coefficients, antialiased, one_torch_thread):
    torch = pytest.importorskip("torch")
    torch_splats = pytest.importorskip("tests.support.torch_splats")
    width, height = 56, 42
    scene = _scene(150, coefficients, seed=coefficients)
    if antialiased:
        scene[1] *= 0.3
    cameras = _cameras(width, height)
    drawn = rasterize(Gaussians(*scene), cameras, background=BACKGROUND, antialiased=antialiased, depth=True)
    to_color, to_alpha = _upstream(drawn.color.shape), _upstream(drawn.alpha.shape, 2)
    to_depth = _upstream(drawn.depth.shape, 3)
    gradients = drawn.backward(color=to_color, alpha=to_alpha, depth=to_depth, cameras=True)

    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in scene]
    tangents = torch.zeros((2, 6), dtype=torch.float64, requires_grad=True)
    intrinsics = torch.tensor(cameras.intrinsics, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(2):
        planes = torch_splats.render(
            *leaves, cameras.world_from_camera[i], intrinsics[i], width, height, BACKGROUND,
            depth=True, antialiased=antialiased, tangent=tangents[i],
        )  # fmt: skip
        assert _relative_error(planes.detach().numpy(), drawn.planes[i]) < 1e-5
        total = total + (planes[:3].permute(1, 2, 0) * torch.from_numpy(to_color[i])).sum()
        total = total + (planes[3] * torch.from_numpy(to_alpha[i])).sum()
        seen = planes[3] > 0
        total = total + (planes[4][seen] / planes[3][seen] * torch.from_numpy(to_depth[i])[seen]).sum()
    total.backward()

    # Measured at most 9e-6.
    for name, leaf in zip(NAMES, leaves, strict=True):
        assert _relative_error(leaf.grad.numpy(), getattr(gradients.splats, name)) < 2e-4, name
    assert _relative_error(tangents.grad.numpy(), gradients.tangents) < 2e-4
    expected = intrinsics.grad.numpy()[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    assert _relative_error(expected, gradients.intrinsics) < 2e-4


def _differences(value: Callable[[np.ndarray], float], at: np.ndarray, step: float) -> np.ndarray:
    """Central differences of `value` to every entry of `at`, float64."""
    result = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        ends = []
        for sign in (1, -1):
            changed = at.copy()
            changed[index] += sign * step
            ends.append(value(changed))
        result[index] = (ends[0] - ends[1]) / (2 * step)
    return result


def _normals(depth: np.ndarray, alpha: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """In plain float64: normals as `normals_from_depth` defines them."""
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    x = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) / intrinsics[1, 1]
    points = np.stack([depth * x, depth * y, depth], axis=-1) @ pose[:3, :3].T + pose[:3, 3]
    below, above, right, left = np.s_[2:, 1:-1], np.s_[:-2, 1:-1], np.s_[1:-1, 2:], np.s_[1:-1, :-2]
    n = np.cross(points[below] - points[above], points[right] - points[left])
    seen = np.min([alpha[at] for at in (below, above, right, left, np.s_[1:-1, 1:-1])], axis=0) >= 0.5
    result = np.zeros((*depth.shape, 3))
    result[1:-1, 1:-1][seen] = n[seen] / np.linalg.norm(n[seen], axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_equal_finite_differences_in_float64(antialiased, one_torch_thread):
    torch = pytest.importorskip("torch")
    torch_splats = pytest.importorskip("tests.support.torch_splats")
    width, height = 24, 20
    scene = _scene(4, 4, seed=5, spread=0.1)
    scene[1] *= 0.5
    scene[3][:] = (0.9, 0.85, 0.95, 0.8)
    cameras = _cameras(width, height).take([0])
    pose, intrinsics = cameras.world_from_camera[0], cameras.intrinsics[0]
    drawn = rasterize(Gaussians(*scene), cameras, antialiased=antialiased, depth=True)
    # Far from what is not differentiable: outlines of the depth and of the normals.
    sure = drawn.alpha[0] > 0.02
    upstream = {
        "color": _upstream(drawn.color.shape, 1),
        "alpha": _upstream(drawn.alpha.shape, 2),
        "depth": _upstream(drawn.depth.shape, 3) * sure,
        "normals": _upstream(drawn.normals.shape, 4),
    }
    assert (drawn.normals != 0).any(axis=-1).sum() > 20

    def value(arrays=scene, tangent=np.zeros(6), numbers=np.zeros(4)) -> float:  # noqa: B008 - not changed
        changed = intrinsics.copy()
        changed[[0, 1, 0, 1], [0, 1, 2, 2]] += numbers
        at = moved(pose, tangent)
        planes = torch_splats.render(
            *map(torch.from_numpy, arrays), at, changed, width, height, np.ones(3),
            depth=True, antialiased=antialiased,
        ).numpy()  # fmt: skip
        total = (planes[:3].transpose(1, 2, 0) * upstream["color"][0]).sum()
        total += (planes[3] * upstream["alpha"][0]).sum()
        depth = planes[4] / np.maximum(planes[3], 1e-9)
        total += (depth * upstream["depth"][0]).sum()
        return total + (_normals(depth, planes[3], at, changed) * upstream["normals"][0]).sum()

    gradients = drawn.backward(**upstream, cameras=True)
    for index, name in enumerate(NAMES):

        def of_array(array: np.ndarray, index: int = index) -> float:
            return value([array if i == index else given for i, given in enumerate(scene)])

        found = getattr(gradients.splats, name)
        assert _relative_error(_differences(of_array, scene[index], 1e-6), found) < 2e-4, name
    found = gradients.tangents[0]
    assert _relative_error(_differences(lambda t: value(tangent=t), np.zeros(6), 1e-6), found) < 2e-4
    found = gradients.intrinsics[0]
    assert _relative_error(_differences(lambda n: value(numbers=n), np.zeros(4), 1e-5), found) < 2e-4


def test_gradients_of_several_cameras_are_the_sum_of_each():
    gaussians, cameras = Gaussians(*_scene(100, 4, seed=2)), _cameras()
    drawn = rasterize(gaussians, cameras)
    upstream = _upstream(drawn.color.shape)
    whole = drawn.backward(color=upstream, cameras=True)
    parts = [
        rasterize(gaussians, cameras.take([i])).backward(color=upstream[i : i + 1], cameras=True)
        for i in range(2)
    ]
    for name in NAMES:
        expected = getattr(parts[0].splats, name) + getattr(parts[1].splats, name)
        np.testing.assert_array_equal(getattr(whole.splats, name), expected)
    np.testing.assert_array_equal(whole.tangents, np.concatenate([p.tangents for p in parts]))
    assert drawn.backward(color=upstream).tangents is None


# --------------------------------------------------------------------------------------- the GPU


def _everything(device_rasterize: Callable[..., Rasterization], scene: list[np.ndarray], antialiased: bool):
    """Picture and gradients of everything that has one."""
    drawn = device_rasterize(
        Gaussians(*scene), _cameras(), background=BACKGROUND, antialiased=antialiased,
        depth=True, median_depth=True,
    )  # fmt: skip
    gradients = drawn.backward(
        color=_upstream(drawn.color.shape, 1),
        alpha=_upstream(drawn.alpha.shape, 2),
        # Where alpha is near 1/255 a pair may count on one side only, and depth divides by alpha.
        depth=_upstream(drawn.depth.shape, 3) * (drawn.alpha > 0.05),
        normals=_upstream(drawn.normals.shape, 4) * (drawn.alpha > 0.9)[..., None],
        cameras=True,
    )
    return drawn, gradients


def _assert_same(
    ours: tuple[Rasterization, SplatGradients], theirs: tuple[Rasterization, SplatGradients], bar: float
) -> None:
    (drawn, gradients), (expected, expected_gradients) = ours, theirs
    assert _relative_error(expected.planes, drawn.planes) < bar
    # A pixel whose transmittance is almost exactly a half may choose the next Gaussian.
    same = np.isclose(expected.median_depth, drawn.median_depth, rtol=1e-4)
    assert same.mean() > 0.999
    assert same.any()
    seen = np.isfinite(expected.depth) & np.isfinite(drawn.depth)
    assert np.mean(seen == np.isfinite(drawn.depth)) > 0.999
    assert _relative_error(expected.depth[seen], drawn.depth[seen]) < bar
    for name in NAMES:
        error = _relative_error(getattr(expected_gradients.splats, name), getattr(gradients.splats, name))
        assert error < bar, name
    assert _relative_error(expected_gradients.tangents, gradients.tangents) < bar


@pytest.mark.parametrize(("coefficients", "antialiased"), [(1, False), (16, True)])
def test_the_code_around_gsplat_has_our_conventions(monkeypatch, coefficients, antialiased, one_torch_thread):
    """GSplat's CUDA kernels replaced by its torch code; what is tested is our adapter."""
    gsplat = pytest.importorskip("gsplat")
    standin = pytest.importorskip("tests.support.gsplat_standin")
    for name in ("rasterization", "rasterize_to_indices_in_range"):
        monkeypatch.setattr(gsplat, name, getattr(standin, name))

    def on_torch(gaussians, cameras, *, background, antialiased, depth, median_depth):
        planes, median, backward = splat_gsplat.draw_on(
            "cpu", gaussians, cameras, background, antialiased, depth, median_depth, True
        )
        return Rasterization(planes, cameras, median, backward)

    scene = _scene(300, coefficients, seed=3)
    scene[0][7], scene[1][8], scene[2][9], scene[3][10] = np.nan, np.inf, 0, np.nan
    _assert_same(_everything(rasterize, scene, antialiased), _everything(on_torch, scene, antialiased), 2e-4)


def _cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not _cuda(), reason="no CUDA device")
@pytest.mark.parametrize(("coefficients", "antialiased"), [(1, False), (4, True), (16, False)])
def test_gsplat_on_cuda_draws_the_same_with_the_same_gradients(coefficients, antialiased):
    def on_cuda(*arguments, **options):
        return rasterize(*arguments, **options, device="cuda")

    scene = _scene(1500, coefficients, seed=3)
    # GSplat computes in float32 too: thresholds at 1/255 flip on either side.
    _assert_same(_everything(rasterize, scene, antialiased), _everything(on_cuda, scene, antialiased), 2e-3)


@pytest.mark.skipif(_cuda(), reason="a CUDA device is present")
def test_without_a_cuda_device_drawing_on_cuda_says_what_to_do():
    with pytest.raises(EngineUnavailable, match="CUDA") as caught:
        rasterize(Gaussians(*_scene(5, 1)), _cameras(), device="cuda")
    assert "CPU" in caught.value.remedy


@pytest.mark.parametrize("package", ["torch", "gsplat"])
def test_without_the_packages_drawing_on_cuda_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineUnavailable, match=package) as caught:
        rasterize(Gaussians(*_scene(5, 1)), _cameras(), device="cuda")
    assert "pip install" in caught.value.remedy
