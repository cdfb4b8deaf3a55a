"""The views as targets of the fit's first steps: at half its size."""

from collections.abc import Callable

from backend.geometry.splat_targets import Target, make_targets
from backend.pipeline.options import SplatsOptions
from backend.pipeline.values import Views

SMALLEST_HALF = 128
"""Pixels; below, Gaussians are smaller than pixels at half size, and what they learn there has to be
unlearned."""


def half_targets(
    views: Views, options: SplatsOptions, check: Callable[[], None] = lambda: None
) -> list[Target] | None:
    """The views at half the size of the fit; None where the options or the size want no such steps."""
    size = options.size // 2
    if not options.coarse or min(size, max(views.rgba.shape[1:3]) // 2) < SMALLEST_HALF:
        return None
    return make_targets(views, size, check)
