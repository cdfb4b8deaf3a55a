"""The order of views and sizes, the early end, weights, views held out."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from backend.geometry.rasterize import rasterize
from backend.geometry.splat_targets import make_targets, pixel_weights
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.splats import run
from backend.stages.splats.fit import held_out_targets
from backend.stages.splats.schedule import Schedule
from backend.stages.splats.targets import SMALLEST_HALF, half_targets
from shared_protocol.errors import InvalidInput
from tests.unit.test_splat_fit import OPTIONS, _ball, _context


def _steps(views: int = 5, steps: int = 20, judge=lambda number: None, **options):
    context = StageContext("splats", None, "cpu")
    schedule = Schedule(views, steps, 0.1, context, **options)
    taken = []
    for step in schedule:
        taken.append(step)
        if step.judge and judge(step.number) is not None:
            schedule.judge(judge(step.number))
    return taken, context


def test_every_view_comes_once_before_any_comes_again():
    taken, context = _steps()
    views = [view for step in taken for view in step.views]
    for start in range(0, 20, 5):
        assert sorted(views[start : start + 5]) == list(range(5))
    assert context.facts["steps"] == 20


def test_several_views_a_step_are_drawn_from_the_same_queue():
    taken, _ = _steps(views=4, steps=6, batch=3)
    views = [view for step in taken for view in step.views]
    assert [len(step.views) for step in taken] == [3] * 6
    assert np.bincount(views[:16], minlength=4).tolist() == [4] * 4


def test_rates_fall_exponentially_to_their_last_share():
    taken, _ = _steps(steps=21)
    assert taken[0].decay == 1
    assert taken[10].decay == pytest.approx(0.1**0.5)
    assert taken[20].decay == pytest.approx(0.1)


def test_the_first_share_of_the_steps_is_at_half_size():
    taken, _ = _steps(steps=20, coarse=0.4)
    assert [step.half for step in taken] == [True] * 8 + [False] * 12
    assert not any(step.judge for step in taken[:8])


def test_a_fit_that_gains_no_more_ends_within_forty_steps_at_its_last_rates():
    taken, context = _steps(steps=1000, judge=lambda number: min(number, 200) / 10)
    # Judged every 83 steps: 249 is the last gain, 332 and 415 are none.
    assert len(taken) == 415 + 1 + 40
    assert taken[-1].decay == pytest.approx(0.1)
    decays = [step.decay for step in taken]
    assert all(a > b for a, b in itertools.pairwise(decays))
    assert context.facts["steps"] == len(taken)


def test_a_fit_that_gains_all_the_time_takes_all_its_steps():
    taken, _ = _steps(steps=100, judge=float)
    assert len(taken) == 100


@pytest.mark.parametrize(("views", "count", "expected"), [(16, 2, [4, 12]), (16, 0, []), (3, 5, [2])])
def test_views_held_out_lie_evenly_and_are_never_the_input(views, count, expected):
    assert held_out_targets(views, count) == expected


def test_views_held_out_are_not_fitted_but_judged():
    context = _context()
    run.run(views=_ball(), options=replace(OPTIONS, hold_out=2), context=context)
    # Measured 40.0 and 33.0 dB: two views of eight are seen from between their neighbours alone.
    assert context.facts["held_out_psnr"] < context.facts["fit_psnr"] - 2
    assert context.facts["held_out_psnr"] > 28


def test_several_views_a_step_fit_as_well():
    context = _context()
    run.run(views=_ball(), options=replace(OPTIONS, batch=2, steps=40), context=context)
    # Measured 40.1 dB.
    assert context.facts["fit_psnr"] > 38


def test_half_size_is_for_pictures_large_enough():
    views = _ball(2 * SMALLEST_HALF)
    half = half_targets(views, replace(OPTIONS, size=2 * SMALLEST_HALF))
    whole = make_targets(views, 2 * SMALLEST_HALF)
    assert len(half) == len(whole)
    np.testing.assert_allclose(half[1].intrinsics[0, 0], whole[1].intrinsics[0, 0] / 2)
    assert half_targets(views, replace(OPTIONS, size=SMALLEST_HALF)) is None
    assert half_targets(views, replace(OPTIONS, size=2 * SMALLEST_HALF, coarse=0.0)) is None


def _with(views: Views, confidence: list[float], pixels: np.ndarray | None = None) -> Views:
    return replace(views, confidence=np.array(confidence, dtype=np.float32), pixel_confidence=pixels)


def test_weights_are_confidences_over_their_mean_on_the_object():
    views = _ball()
    assert pixel_weights(views, 80, 80) is None
    weights = pixel_weights(_with(views, [1.0] + [0.5] * 7), 80, 80)
    # Eight views of one ball: equal shares of the object.
    np.testing.assert_allclose(weights[0], 1 / 0.5625, rtol=1e-3)
    np.testing.assert_allclose(weights[3], 0.5 / 0.5625, rtol=1e-3)
    pixels = np.ones((8, 80, 80), dtype=np.float32)
    pixels[2, :, :40] = 0
    weights = pixel_weights(_with(views, [1.0] * 8, pixels), 40, 40)
    assert weights[2, 20, 5] == 0
    seen = views.rgba[..., 3] >= 0.5
    full = pixel_weights(_with(views, [1.0] * 8, pixels), 80, 80)
    assert full[seen].mean() == pytest.approx(1, rel=1e-5)


def test_what_is_not_to_be_trusted_is_not_fitted():
    """Half of the first view is painted over: with confidence 0 there the splats keep the ball's colours."""
    views = _ball()
    rgba = views.rgba.copy()
    rgba[0, :, :40, :3] = (1, 0, 0)
    pixels = np.ones((8, 80, 80), dtype=np.float32)
    pixels[0, :, :40] = 0
    error = {}
    for name, confidence in (("trusted", None), ("doubted", pixels)):
        painted = replace(views, rgba=rgba, pixel_confidence=confidence)
        splats = run.run(views=painted, options=replace(OPTIONS, steps=40), context=_context())
        shown = rasterize(splats, views.cameras.take([0])).color[0]
        inside = views.rgba[0, ..., 3] == 1
        error[name] = np.abs(shown - views.rgba[0, ..., :3])[inside].mean()
    # Measured 0.094 and 0.013.
    assert error["doubted"] < 0.4 * error["trusted"]


@pytest.mark.parametrize(
    "change",
    [{"densify": "more"}, {"loss": "l3"}, {"batch": 0}, {"coarse": 1.5}, {"hold_out": -1}, {"most": -5}],
)
def test_options_of_the_training_out_of_range_are_refused(change):
    with pytest.raises(InvalidInput, match="splats options"):
        run.run(views=_ball(), options=replace(OPTIONS, **change), context=_context())


def test_anti_aliased_splats_keep_their_looks_at_twice_the_size():
    """Fitted at 60 pixels, seen at 120: without the filter each Gaussian loses the blur of its fit."""
    views, large = _ball(60), _ball(120)
    quality = {}
    for antialiased in (False, True):
        options = replace(OPTIONS, size=60, antialiased=antialiased)
        splats = run.run(views=views, options=options, context=_context())
        assert splats.antialiased == antialiased
        drawn = rasterize(splats, large.cameras, antialiased=antialiased, differentiable=False)
        alpha = large.rgba[..., 3:]
        error = np.mean((drawn.color - (large.rgba[..., :3] * alpha + 1 - alpha)) ** 2)
        quality[antialiased] = -10 * np.log10(error)
    # Measured 24.7 and 28.0 dB.
    assert quality[True] > quality[False] + 2
