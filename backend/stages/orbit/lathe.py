"""Surfaces of revolution: the largest solid of revolution whose outline stays inside the mask.

The axis stands in the world's X-Z plane (an object stands upright or leans sideways, whatever the camera's
elevation). Around each of its points grows a circle until its picture meets the outline, so that
perspective and elevation are exact: seen from above, the base of a bottle is the ellipse that it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

STATIONS = 192
"""Points along the axis."""
ANGLES = 48
"""Points around each circle."""
REACHES = 160
"""Radii tried."""
BISECTIONS = 3
"""Halvings of the step of a ray in which it enters or leaves, before the last, linear one."""
LEAN = 1.06
"""The two sides' radii may differ by this factor: pictures are never quite symmetric. Beyond, the wider side
is a handle or a spout."""
LEAN_CELLS = 1.5
"""And by so many cells of the mask."""
UNEVEN = 0.08
"""Where the radii differ by more than this share, a part leaves the body."""
FOOT = 0.04
"""Share of the rows that are the object's foot."""
COVER_LOSS = 0.002
"""Share of the covered pixels that flattening an end may lose."""
FLAT_TOP, FLAT_BASE = 0.7, 0.25
"""Radius at a flattened end over the largest: what is narrower is a dome. Objects stand, so
bases are flat; that a ball's is too costs it 7 % of its volume seen from 30 degrees above."""


@dataclass(frozen=True)
class Axis:
    """A line on the picture.

    point   (2,) pixels x, y; direction (2,) unit, upward
    agree   share of the rows across it whose span is centred on it
    held    share of the rows across it that it meets inside the mask
    stands  whether it meets the lowest rows inside the mask: the object stands on it, not on legs
    """

    point: np.ndarray
    direction: np.ndarray
    agree: float
    held: float
    stands: bool


@dataclass(frozen=True)
class Lathe:
    """A solid of revolution in the world.

    origin (3,), axis (3,) unit, side (3,) unit: the axis and the horizontal direction that `right` is on
    height (K,) metres along the axis, growing; left, right (K,) metres, radii on both sides
    coverage  share of the mask that its outline fills
    """

    origin: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    height: np.ndarray
    left: np.ndarray
    right: np.ndarray
    coverage: float

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(...,) metres: positive inside, about the distance to the surface; points (..., 3)."""
        offset = points - self.origin
        along = offset @ self.axis
        across = offset @ self.side
        distance = np.sqrt(np.maximum((offset**2).sum(axis=-1) - along**2, 1e-18))
        mean = np.interp(along, self.height, (self.left + self.right) / 2)
        half = np.interp(along, self.height, (self.right - self.left) / 2)
        ends = np.minimum(along - self.height[0], self.height[-1] - along)
        return np.minimum(mean + half * across / distance - distance, ends)


def find_axis(alpha: np.ndarray) -> Axis | None:
    """The line about which most rows of alpha (G, G) are centred; None when nothing is inside."""
    inside = (alpha > 0.5).astype(np.uint8)
    moments = cv2.moments(inside, binaryImage=True)
    if moments["m00"] < 16:
        return None
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    main = np.degrees(0.5 * np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]))
    best = None
    for start in (0.0, main + 90.0, main):
        # The turn about the picture's centre that makes the axis vertical, within a half turn.
        turn = (start + 90.0) % 180.0 - 90.0
        axis = _refined(alpha, centre, turn)
        # Upright unless another line is clearly better.
        if best is None or axis.agree > best.agree + 0.08:
            best = axis
    return best


def _refined(alpha: np.ndarray, centre: np.ndarray, turn: float) -> Axis:
    size = alpha.shape[0]
    for attempt in range(3):
        matrix = cv2.getRotationMatrix2D((float(centre[0] - 0.5), float(centre[1] - 0.5)), turn, 1.0)
        upright = cv2.warpAffine(alpha, matrix, (size, size)) > 0.5
        offset, slope, agree, held, stands = _centred_rows(upright, centre)
        if attempt == 2:
            break
        turn += float(np.degrees(np.arctan(slope)))
    back = cv2.invertAffineTransform(matrix)
    point = back[:, :2] @ np.array([offset - 0.5, centre[1] - 0.5]) + back[:, 2] + 0.5
    direction = back[:, :2] @ np.array([0.0, -1.0])
    direction *= 1 if direction[1] < 0 or (direction[1] == 0 and direction[0] > 0) else -1
    return Axis(point, direction / np.linalg.norm(direction), agree, held, stands)


def _centred_rows(upright: np.ndarray, centre: np.ndarray) -> tuple[float, float, float, float, bool]:
    """Place of the axis at the centre's row, its slope (columns a row), and how many rows agree."""
    rows = np.flatnonzero(upright.any(axis=1))
    tall = len(rows)
    middle, width = _spans(upright, rows, np.full(tall, centre[0]))
    tolerance = 0.012 * max(tall, float(np.nanmax(width, initial=0.0))) + 0.75
    at, slope = float(np.nanmedian(middle)) if np.isfinite(middle).any() else float(centre[0]), 0.0
    down = rows + 0.5 - centre[1]
    found = np.isfinite(middle)
    if found.any():
        # The most crowded place, not the mean: handles and spouts pull on the mean.
        near = np.abs(middle[found][:, None] - middle[found][None, :]) < tolerance
        at = float(np.median(middle[found][near[np.argmax(near.sum(axis=1))]]))
    for _ in range(4):
        middle, width = _spans(upright, rows, at + slope * down)
        good = np.abs(middle - at - slope * down) < tolerance
        if good.sum() < 8:
            break
        slope, at = np.polyfit(down[good], middle[good], 1)
    middle, width = _spans(upright, rows, at + slope * down)
    good = np.abs(middle - at - slope * down) < tolerance
    held = np.isfinite(middle)
    foot = held[-max(2, round(FOOT * tall)) :]
    return float(at), float(slope), float(good.mean()), float(held.mean()), bool(foot.mean() > 0.5)


def _spans(upright: np.ndarray, rows: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and width of each row's span around column `at`; NaN where that is outside."""
    width = upright.shape[1]
    column = np.clip(at.astype(int), 0, width - 1)
    lines = upright[rows]
    here = lines[np.arange(len(rows)), column]
    place = np.arange(width)
    right = np.where(~lines & (place > column[:, None]), place, width).min(axis=1)
    left = np.where(~lines & (place < column[:, None]), place, -1).max(axis=1) + 1
    middle = np.where(here, (left + right) / 2, np.nan)
    return middle, np.where(here, (right - left).astype(float), np.nan)


def turn_lathe(
    alpha: np.ndarray, axis: Axis, pose: np.ndarray, intrinsics: np.ndarray, check: Callable[[], None]
) -> Lathe | None:
    """The largest lathe about the axis inside alpha (G, G), seen by a camera (pose (4, 4), intrinsics (3, 3)
    in cells of alpha). None when the axis cannot be placed."""
    size = alpha.shape[0]
    inverse = np.linalg.inv(intrinsics)
    eye = pose[:3, 3]

    def on_plane(pixel: np.ndarray) -> np.ndarray:
        ray = pose[:3, :3] @ inverse @ np.array([*pixel, 1.0])
        return eye - ray * (eye[1] / ray[1])

    origin = on_plane(axis.point)
    top = on_plane(axis.point + axis.direction * size * 0.1)
    direction = (top - origin) / np.linalg.norm(top - origin)
    side = np.cross(direction, [0.0, 1.0, 0.0])
    side *= np.sign(side[0]) or 1.0
    cell = np.linalg.norm(eye - origin) / intrinsics[0, 0]
    framed = np.pad(alpha[1:-1, 1:-1], 1)
    height = np.linspace(-1.0, 1.0, 2 * size + 1) * size * cell

    def to_pixels(points: np.ndarray) -> np.ndarray:
        local = (points - eye) @ pose[:3, :3] @ intrinsics.T
        return local[..., :2] / local[..., 2:]

    def cover(points: np.ndarray) -> np.ndarray:
        # Coverage between pixel centres is interpolated: a sub-pixel contour.
        at = (to_pixels(points) - 0.5).astype(np.float32)
        value = cv2.remap(framed, at.reshape(len(at), -1, 2), None, cv2.INTER_LINEAR)
        return value.reshape(at.shape[:-1]).astype(np.float64) - 0.5

    stations = origin + height[:, None] * direction
    lit = np.flatnonzero(cover(stations) > 0)
    if len(lit) < 8:
        return None
    # The run of the axis inside the mask around its middle.
    low, high = lit[0], lit[-1]
    height = np.linspace(height[low], height[high], STATIONS)
    stations = origin + height[:, None] * direction
    angle = (np.arange(ANGLES) + 0.5) * 2 * np.pi / ANGLES
    spoke = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.array([0.0, 1.0, 0.0])
    reach = np.linspace(0, 0.75 * size * cell, REACHES)
    columns = np.arange(ANGLES)
    radius = np.empty((STATIONS, ANGLES))
    for index in range(STATIONS):
        if index % 32 == 0:
            check()
        value = cover(stations[index] + reach[:, None, None] * spoke)  # (REACHES, ANGLES)
        value[-1] = -1
        out = np.maximum(np.argmax(value <= 0, axis=0), 1)
        a, b = value[out - 1, columns], value[out, columns]
        share = np.clip(a / np.where(a - b == 0, 1, a - b), 0, 1)
        radius[index] = reach[out - 1] + share * (reach[out] - reach[out - 1])
    is_right = np.cos(angle) > 0
    right, left = radius[:, is_right].min(axis=1), radius[:, ~is_right].min(axis=1)
    least = np.minimum(left, right)
    even = np.abs(left - right) < UNEVEN * np.maximum(left, right) + 2 * LEAN_CELLS * cell
    if even.any():
        # Where a handle or a spout leaves on one side, the body goes on as above and below it.
        least = np.where(even, least, np.minimum(least, np.interp(height, height[even], least[even])))
    left, right = (_calm(np.minimum(r, LEAN * least + LEAN_CELLS * cell)) for r in (left, right))
    return _flattened(alpha, origin, direction, side, height, left, right, to_pixels)


def _calm(radius: np.ndarray) -> np.ndarray:
    """Single notches of the outline do not become grooves around the object."""
    kernel = np.ones(5)
    padded = np.pad(radius, 2, mode="edge")
    median = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    return np.convolve(np.pad(median, 2, mode="edge"), kernel / 5, mode="valid")


def _flattened(
    alpha: np.ndarray,
    origin: np.ndarray,
    direction: np.ndarray,
    side: np.ndarray,
    height: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    to_pixels: Callable[[np.ndarray], np.ndarray],
) -> Lathe | None:
    """Cut off the ends that the outline does not need: seen from above, the ellipse of a rim is also
    the outline of a dome over it."""
    angle = np.arange(ANGLES) * 2 * np.pi / ANGLES
    across = np.cos(angle)
    rim = (left[:, None] + right[:, None]) / 2 + (right - left)[:, None] / 2 * across
    ring = origin + height[:, None, None] * direction + rim[..., None] * (
        across[:, None] * side + np.sin(angle)[:, None] * np.array([0.0, 1.0, 0.0])
    )  # fmt: skip
    pixels = np.rint((to_pixels(ring) - 0.5) * 16).astype(np.int32)
    first = np.full(alpha.shape, -1, dtype=np.int32)
    last = np.full(alpha.shape, -1, dtype=np.int32)
    for index in range(len(height)):
        cv2.fillPoly(last, [pixels[index]], index, shift=4)
        cv2.fillPoly(first, [pixels[-1 - index]], len(height) - 1 - index, shift=4)
    # `first`: drawn from the top down, so the lowest circle over a pixel remains; `last` the highest.
    solid = alpha > 0.5
    covered = (first >= 0) & solid
    total = int(covered.sum())
    if total == 0:
        return None
    widest = max(left.max(), right.max())
    spare = COVER_LOSS * total
    count = np.bincount(first[covered], minlength=len(height))
    stop = int(np.argmax(np.cumsum(count) >= total - spare))
    count = np.bincount(last[covered], minlength=len(height))
    start = len(height) - 1 - int(np.argmax(np.cumsum(count[::-1]) >= total - spare))
    stop = stop if left[stop] > FLAT_TOP * widest else len(height) - 1
    start = start if left[start] > FLAT_BASE * widest else 0
    if stop - start < 8:
        return None
    keep = slice(start, stop + 1)
    return Lathe(
        origin, direction, side, height[keep], left[keep], right[keep], total / max(1, int(solid.sum()))
    )


def depths(
    lathe: Lathe, eye: np.ndarray, rays: np.ndarray, check: Callable[[], None], steps: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where rays eye + t * rays (P, 3) enter and leave: near, far, nearest, depth (P,) in units of t.

    nearest  t where the ray comes nearest to (or deepest into) the lathe; near = far = nearest for rays
             that miss it
    depth    metres inside at `nearest`, negative for a miss
    """
    reach = 1.05 * max(float(lathe.left.max()), float(lathe.right.max()), 1e-6)
    near, far, nearest, depth = (np.empty(len(rays)) for _ in range(4))
    # The stretch of each ray within `reach` of the axis.
    for start in range(0, len(rays), 8192):
        check()
        part = slice(start, min(start + 8192, len(rays)))
        ray = rays[part]
        across = ray - (ray @ lathe.axis)[:, None] * lathe.axis
        offset = (eye - lathe.origin) - ((eye - lathe.origin) @ lathe.axis) * lathe.axis
        middle = -(across @ offset) / np.maximum((across**2).sum(axis=1), 1e-12)
        half = reach / np.maximum(np.linalg.norm(across, axis=1), 1e-9)
        t = middle[:, None] + half[:, None] * np.linspace(-1, 1, steps)
        value = lathe.inside(eye + t[..., None] * ray[:, None, :])
        index = np.arange(len(ray))
        peak = np.argmax(value, axis=1)
        inside = value > 0
        one, two = np.argmax(inside, axis=1), steps - 1 - np.argmax(inside[:, ::-1], axis=1)

        def crossing(outer, inner, ray=ray, value=value, t=t, index=index):
            a, b, fa, fb = t[index, outer], t[index, inner], value[index, outer], value[index, inner]
            for _ in range(BISECTIONS):
                middle = (a + b) / 2
                between = lathe.inside(eye + middle[:, None] * ray)
                out = between <= 0
                a, fa = np.where(out, middle, a), np.where(out, between, fa)
                b, fb = np.where(out, b, middle), np.where(out, fb, between)
            share = np.clip(fa / np.where(np.abs(fa - fb) < 1e-15, 1.0, fa - fb), 0, 1)
            return a + share * (b - a)

        miss = ~inside.any(axis=1)
        top = t[index, peak]
        near[part] = np.where(miss, top, crossing(np.maximum(one - 1, 0), one))
        far[part] = np.where(miss, top, crossing(np.minimum(two + 1, steps - 1), two))
        nearest[part], depth[part] = top, value[index, peak]
    return near, far, nearest, depth
