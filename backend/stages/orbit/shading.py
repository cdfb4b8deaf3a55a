"""Whether a rectangle is the side of a cylinder: its light falls off to both sides, as on nothing flat."""

import cv2
import numpy as np

EDGE = 0.04
"""Share of the width left out at either side: outlines and frames are dark on boxes too."""
BANDS = 3
"""Stripes across the object that must all tell the same: a painted box rarely has three such pictures."""
LEAST_EXPLAINED = 0.9
"""Share of the variance along a stripe that the light on a cylinder must explain."""
LEAST_ROUND = 0.2
"""Least fall of the light from the middle to the sides, a share of its mean."""
FLAT_UPWARD = 0.5
"""The same fit from top to bottom may find at most this share of it: vignettes fall off both ways."""


def round_sideways(rgba: np.ndarray) -> bool:
    """Whether the object in rgba (M, M, 4), an upright rectangle, is shaded like a standing cylinder.

    Lambert's law on a cylinder lit from anywhere in front: a + b x + c sqrt(1 - x^2) for x in -1..1 across
    it. c must be large and the sum must explain the light; on a flat face c is about zero.
    """
    rows, columns = np.nonzero(rgba[..., 3] > 0.95)
    if len(rows) < 64:
        return False
    crop = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, :3]
    light = cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64) ** 2.2
    light = light @ np.array([0.2126, 0.7152, 0.0722])
    stripes = np.array_split(light[4:-4], BANDS)
    across = [_cylinder(np.median(stripe, axis=0)) for stripe in stripes]
    if min(explained for explained, _ in across) < LEAST_EXPLAINED:
        return False
    roundness = min(fall for _, fall in across)
    _, upward = _cylinder(np.median(light[:, 4:-4], axis=1))
    return roundness > LEAST_ROUND and abs(upward) < FLAT_UPWARD * roundness


def _cylinder(profile: np.ndarray) -> tuple[float, float]:
    """How much of the profile's variance the cylinder explains, and c over the mean."""
    x = (np.arange(len(profile)) + 0.5) / len(profile) * 2 - 1
    use = np.abs(x) < 1 - 2 * EDGE
    x, profile = x[use], profile[use]
    model = np.stack([np.ones_like(x), x, np.sqrt(1 - x**2)], axis=1)
    factors = np.linalg.lstsq(model, profile, rcond=None)[0]
    spread = float(((profile - profile.mean()) ** 2).sum())
    left = float(((profile - model @ factors) ** 2).sum())
    return 1 - left / max(spread, 1e-12), float(factors[2] / max(profile.mean(), 1e-6))
