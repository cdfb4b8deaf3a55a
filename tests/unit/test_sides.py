"""Pictures of an object's sides become posed views of one size, whatever their own size and framing."""

import numpy as np
import pytest

from backend.inputs.sides import arrange_sides
from backend.pipeline.options import preset
from backend.pipeline.values import Picture
from shared_protocol.errors import Cancelled, InvalidInput

OPTIONS = preset("draft")


def slab(width, height, colour, size=(200, 240), at=(30, 50)):
    """A picture with a rectangle of an object on a clear ground."""
    rgba = np.zeros((*size, 4), np.float32)
    rgba[at[0] : at[0] + height, at[1] : at[1] + width] = (*colour, 1)
    return Picture(rgba)


def box(view):
    """(width, height) of what a view shows, over the frame."""
    solid = view[..., 3] > 0.5
    return solid.any(0).sum() / view.shape[1], solid.any(1).sum() / view.shape[0]


def arrange(pictures):
    return arrange_sides(pictures, OPTIONS["matting"], OPTIONS["orbit"])


def test_the_object_is_as_high_in_every_view_and_the_widest_fills_the_frame():
    views, warnings = arrange(
        {
            "front": slab(100, 50, (1, 0, 0)),
            "right": slab(60, 120, (0, 1, 0)),  # another scale: a quarter as wide
            "back": slab(100, 50, (0, 0, 1)),
        }
    )
    size = OPTIONS["matting"].size
    assert views.rgba.shape == (3, size, size, 4)
    widths, heights = np.array([box(view) for view in views.rgba]).T
    np.testing.assert_allclose(heights, OPTIONS["matting"].fill / 2, atol=2 / size)
    np.testing.assert_allclose(widths, OPTIONS["matting"].fill * np.array([1, 0.25, 1]), atol=2 / size)
    assert warnings == []


def test_the_views_stand_where_blenders_views_of_those_names_look_from():
    pictures = {side: slab(50, 50, (1, 1, 1)) for side in ("left", "back", "right", "front")}
    views, _ = arrange(pictures)
    radius = OPTIONS["orbit"].radius
    expected = radius * np.array([(0, -1, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0)])  # front, right, back, left
    np.testing.assert_allclose(views.cameras.centres, expected, atol=1e-9)


def test_opposite_views_that_cannot_be_of_one_object_are_named():
    _, warnings = arrange({"front": slab(50, 50, (1, 0, 0)), "back": slab(100, 50, (1, 0, 0))})
    assert "right slots" in warnings[0]


@pytest.mark.parametrize("sides", [("right", "left"), ("front",), ("front", "top")])
def test_sides_that_are_not_enough_are_refused(sides):
    with pytest.raises(InvalidInput, match="the sides are"):
        arrange({side: slab(50, 50, (1, 0, 0)) for side in sides})


def test_a_cancel_is_heard_between_the_pictures():
    def step(done, total, text):
        if done:
            raise Cancelled("cancelled")

    pictures = {side: slab(50, 50, (1, 0, 0)) for side in ("front", "back")}
    with pytest.raises(Cancelled):
        arrange_sides(pictures, OPTIONS["matting"], OPTIONS["orbit"], step)
