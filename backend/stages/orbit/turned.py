"""Objects made on a lathe, with or without handles: whether the cut-out shows one, and its two layers.

Recognised from the outline (only what fills a rectangle by its shading), on 18 pictures and 45 views of 9
scans. Measured there (thresholds lie between): bells, cups, pots have most rows centred on one upright line
that ends in their base, and the largest lathe in the mask fills it but for handles. Chairs, people and
rockets on fins have the line between their legs, animals from the side have no such line. Rounded boxes
come near: a mask that fills its rectangle must be exactly symmetric.
"""

from collections.abc import Callable

import cv2
import numpy as np

from backend.geometry.cameras import Cameras
from backend.stages.orbit.contour import FlatMesh
from backend.stages.orbit.lathe import Axis, Lathe, depths, find_axis, turn_lathe
from backend.stages.orbit.poisson import mask_problem
from backend.stages.orbit.shading import round_sideways
from backend.stages.orbit.thickness import BOX_FILL

AGREE, HELD, COVERAGE = 0.63, 0.80, 0.82
"""Least shares of centred rows, of rows held by the axis, of the mask filled by the lathe."""
AGREE_AND_COVERAGE = 1.575
"""Least sum of these two: cups with handles have 1.60 and more, teapots and toy houses, whose bodies come out
ragged under their spouts and chimneys, at most 1.54."""
BOXY_FILL, BOXY_AGREE, BOXY_HELD = 0.80, 0.945, 0.985
"""Beyond this fill of its smallest rectangle a mask may be a box's: then these shares are asked for."""
MAX_LEAN = 25.0
"""Degrees between the axis and upright: with a lying object nothing tells how the axis recedes (lathes
lost 0.015 to 0.075 of volume IoU against inflation on all three such views)."""
MAX_LEAN_SHADED = 3.0
"""The same where the shading, looked at column by column, has to tell."""
OVERLAP = 0.03
"""How far handles reach into the lathe, a share of the frame: where they meet they are at full thickness."""


def recognise(
    alpha: np.ndarray,
    pose: np.ndarray,
    intrinsics: np.ndarray,
    check: Callable[[], None] = lambda: None,
    rgba: np.ndarray | None = None,
) -> tuple[Lathe | None, float]:
    """The lathe that alpha (G, G) shows, or None; and a confidence of 0..1 that it is one.

    pose, intrinsics of camera 0, pixels of alpha; the confidence is at most 0.5 for None, more for a lathe
    rgba (M, M, 4) tells a cylinder seen exactly from the side, which has a box's outline, by its shading
    """
    axis = find_axis(alpha)
    if axis is None or not axis.stands or _lean(axis) > MAX_LEAN:
        return None, 0.0
    fill = rectangle_fill(alpha)
    if fill > BOX_FILL and (rgba is None or _lean(axis) > MAX_LEAN_SHADED or not round_sideways(rgba)):
        return None, 0.5
    agree, held = (BOXY_AGREE, BOXY_HELD) if fill > BOXY_FILL else (AGREE, HELD)
    if axis.agree < agree or axis.held < held:
        return None, 0.5 * min(axis.agree / agree, axis.held / held)
    lathe = turn_lathe(alpha, axis, pose, intrinsics, check)
    if lathe is None or lathe.coverage < COVERAGE:
        return None, 0.5 * (lathe.coverage / COVERAGE if lathe else 0.0)
    total = axis.agree + lathe.coverage
    if total < AGREE_AND_COVERAGE:
        return None, 0.5 * total / AGREE_AND_COVERAGE
    return lathe, min(1.0, 0.51 + 0.5 * (total - AGREE_AND_COVERAGE) / (2 - AGREE_AND_COVERAGE))


def rectangle_fill(alpha: np.ndarray) -> float:
    """Share of its smallest rectangle, at any angle, that the mask fills."""
    inside = alpha > 0.5
    rows, columns = np.nonzero(inside)
    corners = np.concatenate([np.column_stack([columns + dx, rows + dy]) for dx in (0, 1) for dy in (0, 1)])
    width, height = cv2.minAreaRect(corners.astype(np.float32))[1]
    return float(inside.sum() / max(width * height, 1e-6))


def turned_layers(
    lathe: Lathe,
    alpha: np.ndarray,
    flat: FlatMesh,
    cameras: Cameras,
    rays: np.ndarray,
    check: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Near (V,) and far (inner,) surface along the rays (V, 3) of the mask's vertices, in units of the rays.

    What the lathe does not fill (handles, spouts, legs) is inflated about the plane of its axis.
    """
    near, far, nearest, depth = depths(lathe, cameras.centres[0], rays, check)
    inner = flat.inner
    missed = np.zeros(alpha.size, dtype=np.uint8)
    missed[flat.grid] = depth[:inner] <= 0
    missed = missed.reshape(alpha.shape)
    if missed.any():
        radius = max(2, round(OVERLAP * alpha.shape[0]))
        # Slivers along the outline are no parts: they get no root inside the lathe.
        sturdy = cv2.morphologyEx(missed, cv2.MORPH_OPEN, _disc(radius // 2))
        check()
        parts = mask_problem(alpha * (missed | cv2.dilate(sturdy, _disc(radius))))
        cell = np.linalg.norm(cameras.centres[0]) / cameras.intrinsics[0, 0, 0] * cameras.width / len(alpha)
        thickness = np.sqrt(parts.inflate()).ravel()[flat.grid] * cell
        there = thickness > 0
        near[:inner] = np.where(there, np.minimum(near[:inner], nearest[:inner] - thickness), near[:inner])
        far[:inner] = np.where(there, np.maximum(far[:inner], nearest[:inner] + thickness), far[:inner])
    near[inner:] = nearest[inner:]
    return near, far[:inner]


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _lean(axis: Axis) -> float:
    return float(np.degrees(np.arctan2(abs(axis.direction[0]), abs(axis.direction[1]))))
