"""Views that disagree: by how much, told from pictures whose disturbance can be read off."""

import numpy as np
import pytest

from backend.evaluation.noise import disagreeing, smooth_field


def _ramp(size=256):
    """Colour is position: red = x, green = y, opaque."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    return np.stack([x, y, np.full_like(x, 0.5), np.ones_like(x)], axis=-1)


def test_level_zero_leaves_the_views_alone():
    views = _ramp()[None]
    assert disagreeing(views, 0, 0, "a") is views


def test_the_same_arguments_give_the_same_views_and_others_do_not():
    views = np.stack([_ramp(64)] * 2)
    first = disagreeing(views, 1, 0, "a")
    assert np.array_equal(first, disagreeing(views, 1, 0, "a"))
    assert not np.array_equal(first[0], first[1])
    for other in (
        disagreeing(views, 1, 1, "a"),
        disagreeing(views, 1, 0, "b"),
        disagreeing(views, 2, 0, "a"),
    ):
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("level", [1, 2])
def test_shift_scale_warp_and_gain_are_as_large_as_stated(level):
    size, count = 256, 60
    views = disagreeing(np.stack([_ramp(size)] * count), level, 3, "ramp")
    inner = slice(40, -40)
    gains = views[:, inner, inner, 2].mean(axis=(1, 2)) / 0.5 - 1
    assert np.std(gains) == pytest.approx(0.02 * level, rel=0.3)
    # Where each pixel came from, in pixels of 512, once its own gain is taken out by a fit.
    position = (np.arange(size) + 0.5)[inner]
    shifts, scales, warps = [], [], []
    for view in views:
        x = view[inner, inner, 0] * size
        line = np.polyfit(position, x.mean(axis=0), 1)
        residual = x - x.mean(axis=0)
        warps.append(residual.std())
        scales.append(line[0])
        shifts.append(np.polyval(line, size / 2) / line[0] - size / 2)
    # Half the size, half the pixels. The mean of the warp over rows joins the shift.
    assert 0.3 * level < np.mean(warps) < 0.55 * level
    assert 0.25 * level < np.std(shifts) < 0.8 * level
    assert np.std(scales) == pytest.approx(0.02 * level, rel=0.3)  # mostly the gain


def test_the_warp_is_smooth_and_of_unit_deviation():
    field = smooth_field(256, 256, np.random.default_rng(0))
    assert field.std() == pytest.approx(1)
    steps = np.abs(np.diff(field, axis=0)).max(), np.abs(np.diff(field, axis=1)).max()
    assert max(steps) < 0.25


def test_the_outline_moves_with_the_colour_and_nothing_leaks_in_from_outside():
    view = np.zeros((1, 128, 128, 4), dtype=np.float32)
    view[0, 32:96, 32:96] = (0.8, 0.4, 0.2, 1.0)
    moved = disagreeing(view, 1, 0, "box")[0]
    inside = moved[..., 3] > 0.01
    ratio = moved[inside][:, :3] / np.array([0.8, 0.4, 0.2])
    assert np.ptp(ratio, axis=0).max() < 1e-4  # one gain a channel, up to the last pixel of the outline
    assert 0.9 < moved[..., 3].sum() / view[..., 3].sum() < 1.1
