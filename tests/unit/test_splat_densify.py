"""Densification: the closed form of relocation, the counts, and what the picture keeps."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import Raw
from backend.geometry.splat_raster import Gaussians, render_gaussians
from backend.geometry.splat_targets import Target, make_targets
from backend.pipeline.stage import StageContext
from backend.stages.splats.densify import densifier
from backend.stages.splats.divide import Classic, picture_pull
from backend.stages.splats.fit import fit
from backend.stages.splats.init import start_on_hull
from backend.stages.splats.mcmc import Mcmc, relocated
from backend.stages.splats.strategy import Keep
from tests.unit.test_splat_fit import OPTIONS, _ball, _context
from tests.unit.test_splat_raster import _camera, _scene


@pytest.mark.parametrize("together", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.97])
def test_coinciding_gaussians_look_as_the_one_they_replace(together, opacity):
    """Oracle: the alpha of N Gaussians behind one another, integrated across them numerically."""
    each, factor = (value[0] for value in relocated(np.array([opacity]), np.array([together])))

    def alpha_of_all(x: float) -> float:
        return 1 - (1 - each * np.exp(-0.5 * (x / factor) ** 2)) ** together

    assert alpha_of_all(0) == pytest.approx(opacity, rel=1e-9)
    seen, _ = quad(alpha_of_all, -40, 40, points=[-1, 1])
    expected, _ = quad(lambda x: opacity * np.exp(-0.5 * x * x), -40, 40, points=[-1, 1])
    assert seen == pytest.approx(expected, rel=1e-6)


def _state(count: int, seed: int = 0) -> tuple[Raw, Adam]:
    raw = Raw.of(Gaussians(*_scene(count, 1, seed=seed, spread=0.2)))
    return raw, Adam(vars(raw))


def _rounds(strategy: Keep) -> list[int]:
    return strategy._rounds


def test_mcmc_moves_the_dead_onto_the_living_and_keeps_the_picture():
    raw, adam = _state(60)
    raw.logits[:20] = -9.0
    strategy = Mcmc(100, 60, 1.0, np.random.default_rng(0), weight=0.0)
    camera = _camera(64, 64)

    def picture(state: Raw) -> np.ndarray:
        return render_gaussians(
            state.activate(), camera.world_from_camera[0], camera.intrinsics[0], 64, 64, np.ones(3)
        ).image

    before = picture(raw)
    after, _ = strategy.after_step(_rounds(strategy)[-1], raw, adam, 1.0)
    assert len(after) == 60
    assert (after.logits > -6).all()
    # Measured 0.004: the order of depth among copies, and pixels cut off at alpha 1/255.
    assert np.abs(picture(after) - before).mean() < 0.01


def test_mcmc_grows_to_its_limit_and_not_beyond():
    raw, adam = _state(100)
    strategy = Mcmc(100, 130, 1.0, np.random.default_rng(0), weight=0.0)
    counts = []
    for number in range(100):
        raw, adam = strategy.after_step(number, raw, adam, 1.0)
        counts.append(len(raw))
    assert counts[0] == 100
    assert counts[-1] == 130
    assert max(np.diff(counts)) <= 6


def test_noise_reaches_the_faint_only_and_follows_their_shape():
    raw, adam = _state(50)
    raw.logits[:] = 3.0
    raw.logits[:25] = -7.0
    raw.log_scales[:] = np.log([0.02, 0.001, 0.001])
    raw.rotations[:] = (1, 0, 0, 0)
    before = raw.positions.copy()
    strategy = Mcmc(100, 50, 1.0, np.random.default_rng(0), weight=0.0)
    after, _ = strategy.after_step(0, raw, adam, 1.0)
    moved = after.positions - before
    assert not moved[25:].any()
    assert np.abs(moved[:25, 0]).mean() > 100 * np.abs(moved[:25, 1:]).mean()


def test_the_terms_of_mcmc_are_the_gradients_of_mean_opacity_and_mean_scale():
    raw, _ = _state(5)
    strategy = Mcmc(100, 5, 2.0, np.random.default_rng(0), weight=0.3)

    def term(state: Raw) -> float:
        drawn = state.activate()
        return 0.3 * float(drawn.opacities.astype(np.float64).mean() + drawn.scales.mean() / 2.0)

    gradient = Raw(*(np.zeros_like(a) for a in vars(raw).values()))
    strategy.regularise(gradient, raw.activate())
    for name, index in (("logits", 2), ("log_scales", (3, 1))):
        high, low = raw.take(np.arange(5)), raw.take(np.arange(5))
        getattr(high, name)[index] += 1e-2
        getattr(low, name)[index] -= 1e-2
        expected = (term(high) - term(low)) / 2e-2
        assert getattr(gradient, name)[index] == pytest.approx(expected, rel=2e-2)


def test_classic_clones_the_small_splits_the_large_and_drops_the_faint():
    raw, adam = _state(40)
    raw.logits[:] = 2.0
    raw.logits[39] = -8.0
    raw.log_scales[:] = np.log(0.002)
    raw.log_scales[7] = np.log(0.05)
    strategy = Classic(100, 400, 1.0, np.random.default_rng(0))
    strategy.begin(raw.positions)
    gradient = np.zeros((40, 3), dtype=np.float32)
    gradient[[3, 7]] = 1.0
    camera = _camera(64, 64)
    target = Target(
        np.zeros((4, 64, 64), np.float32), camera.world_from_camera[0], camera.intrinsics[0], 64 * 64
    )
    zeros = {name: np.zeros_like(a) for name, a in vars(raw.activate()).items()}
    strategy.observe(Gaussians(**{**zeros, "positions": gradient}), target)
    after, _ = strategy.after_step(_rounds(strategy)[0], raw, adam, 1.0)
    # 38 stay, one is cloned, one gives two halves, one is dropped.
    assert len(after) == 38 + 1 + 2
    assert sum((after.positions == raw.positions[3]).all(axis=1)) == 2
    np.testing.assert_allclose(after.log_scales[-2:], np.log(0.05 / 1.6), rtol=1e-5)
    assert not (after.positions == raw.positions[7]).all(axis=1).any()
    assert np.linalg.norm(after.positions[-2:] - raw.positions[7], axis=1).max() < 0.2
    assert not (after.positions == raw.positions[39]).all(axis=1).any()


def test_classic_resets_opacities_as_rarely_as_3dgs():
    raw, adam = _state(10)
    raw.logits[:] = 3.0
    strategy = Classic(9000, 10, 1.0, np.random.default_rng(0))
    strategy.begin(raw.positions)
    strategy.after_step(2999, raw, adam, 1.0)
    assert (raw.logits == 3.0).all()
    strategy.after_step(3000, raw, adam, 1.0)
    np.testing.assert_allclose(1 / (1 + np.exp(-raw.logits)), 0.01, rtol=1e-5)


def test_the_pull_on_the_picture_is_the_gradient_of_the_projected_centre():
    """A colour-free loss of the pixel position alone: its gradient to the point, and to the pixel."""
    camera = _camera(80, 60)
    target = Target(
        np.zeros((4, 60, 80), np.float32), camera.world_from_camera[0], camera.intrinsics[0], 80 * 60
    )
    point = np.array([[0.13, -0.2, 0.07]])
    wanted = np.array([0.3, -0.8])
    gradient = np.zeros(3)
    for axis in range(3):
        step = np.eye(3)[axis] * 1e-6
        high, low = camera.project(point + step)[0][0, 0], camera.project(point - step)[0][0, 0]
        gradient[axis] = (high - low) @ wanted / 2e-6
    pull = picture_pull(gradient[None].astype(np.float32), point.astype(np.float32), target)
    assert pull[0] == pytest.approx(np.linalg.norm(wanted) * 0.5 * np.sqrt(4800), rel=1e-3)


@pytest.mark.parametrize("densify", ["classic", "mcmc"])
def test_a_fit_that_densifies_reaches_its_count_with_the_same_bits_again(densify):
    options = replace(OPTIONS, gaussians=300, most=500, steps=60, densify=densify)
    views = _ball()

    def fitted() -> tuple[Gaussians, StageContext]:
        context = _context(3)
        start = start_on_hull(views, options, context)
        return fit(start, make_targets(views, 80), options, context), context

    first, context = fitted()
    assert 450 <= len(first) <= 500
    second, _ = fitted()
    for a, b in zip(vars(first).values(), vars(second).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert context.facts["steps"] == 60


def test_none_leaves_everything_as_it_is():
    raw, adam = _state(5)
    strategy = densifier(
        "none", steps=10, most=9, positions=raw.positions, extent=1.0, scene=1.0, weight=0.0,
        opacity=0.0, random=np.random.default_rng(0),
    )  # fmt: skip
    assert strategy.after_step(5, raw, adam, 1.0) == (raw, adam)
