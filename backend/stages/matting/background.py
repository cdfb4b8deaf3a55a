"""A plain backdrop: its colour as a smooth function of place, and what belongs to it, soft shadows too."""

from dataclasses import dataclass

import cv2
import numpy as np

from shared_protocol.conventions import linear_from_srgb

RING = 0.04
"""Width of the border that shows the backdrop, as a share of the picture's shorter side."""
PLAIN_RESIDUAL = 3.5
"""CIE Lab units: the median misfit along the border below which a backdrop counts as plain."""
PLAIN_TAIL = 9.0
"""CIE Lab units: 65 of 100 border pixels fit better than this on a plain backdrop; the object may touch
the rest."""


@dataclass(frozen=True)
class Backdrop:
    """Fitted backdrop of a picture.

    lab       (H, W, 3) float32 CIE Lab, what the backdrop would be everywhere
    residual  Lab units, median misfit along the border; tail the 65th percentile
    """

    lab: np.ndarray
    residual: float
    tail: float

    @property
    def plain(self) -> bool:
        return self.residual < PLAIN_RESIDUAL and self.tail < PLAIN_TAIL


def border_mask(height: int, width: int) -> np.ndarray:
    """(H, W) bool, the ring along the border."""
    ring = max(2, round(RING * min(height, width)))
    mask = np.ones((height, width), dtype=bool)
    mask[ring:-ring, ring:-ring] = False
    return mask


def fit_backdrop(lab: np.ndarray) -> Backdrop:
    """Fit a quadratic of place to the border of a Lab picture (H, W, 3), robust to an object touching it."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width]
    x, y = x / width - 0.5, y / height - 0.5
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    border = border_mask(height, width)
    a, b = terms[border], lab[border].astype(np.float64)
    weight = np.ones(len(a))
    start = np.median(b, axis=0)
    weight /= 1 + (np.linalg.norm(b - start, axis=1) / 15) ** 2
    # Iteratively re-weighted, Cauchy weights.
    for _ in range(8):
        root = np.sqrt(weight)[:, None]
        coefficients = np.linalg.lstsq(a * root, b * root, rcond=None)[0]
        misfit = np.linalg.norm(b - a @ coefficients, axis=1)
        weight = 1 / (1 + (misfit / max(1.0, 2 * float(np.median(misfit)))) ** 2)
    fitted = (terms @ coefficients).astype(np.float32)
    return Backdrop(fitted, float(np.median(misfit)), float(np.percentile(misfit, 65)))


SOFT, SHARP = 0.045, 0.12
"""Relative change of light a pixel: a penumbra stays below the first, an object's outline is above the
second, the edge of a shadow near its object lies between."""
EVEN, SOFTEST = 0.15, 0.015
"""On a backdrop even to this misfit (one painted, not photographed) only the softest shadow is believed."""
HOLE_EDGE = 10.0
"""CIE Lab units by which the edge of a small hole differs from the backdrop."""
GROUND = 0.45
"""The lower share of the object's box in which cast shadows are looked for."""
_SQUARE = np.ones((3, 3), np.uint8)


def plain_foreground(rgb: np.ndarray, lab: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """(H, W) bool: what stands on a plain backdrop, without its shadow.

    Background grows from the border over pixels of the backdrop's colour; over soft changes of light
    where the backdrop is not even; and, near the ground, over shadow: darker, of the same chromaticity,
    without an outline's sharp edge. Holes that show the backdrop are background too.
    """
    distance = np.linalg.norm(lab - backdrop.lab, axis=2)
    # A little more than sensor noise: JPEG rings around sharp edges.
    close = 1.5 + 2.5 * backdrop.residual + (2.0 if backdrop.residual > 0.3 else 0.0)
    same = distance < close
    light = linear_from_srgb(rgb)
    expected = linear_from_srgb(cv2.cvtColor(backdrop.lab, cv2.COLOR_LAB2RGB).clip(0, 1))
    ratio = (light + 0.01) / (expected + 0.01)
    darkness = ratio.mean(axis=2)
    tint = np.abs(ratio / darkness[..., None] - 1).max(axis=2)
    chroma = np.linalg.norm(lab[..., 1:] - backdrop.lab[..., 1:], axis=2)
    logarithm = np.log(cv2.GaussianBlur(light.mean(axis=2), (0, 0), 0.7) + 0.01)
    slopes = [np.abs(cv2.Sobel(logarithm, cv2.CV_32F, *axis)) / 8 for axis in ((1, 0), (0, 1))]
    slope = np.maximum(*slopes)

    grey = (darkness > 0.12) & (tint < 0.15) & (chroma < 7)
    neutral = grey & (tint < 0.07) & (chroma < 4)
    tinted = (
        (darkness > 0.12) & (tint < 0.2 + 0.2 * (1 - darkness).clip(0, 1)) & (chroma < 11)
    )  # light thrown back by the object
    uneven = (backdrop.residual > 0.3) & (distance < 14) & (chroma < 4) & (slope < SOFT)
    first = ~_grown_from_border(same | uneven, same)
    ground = np.zeros_like(same)
    rows = np.flatnonzero(main_rows(first))
    if len(rows):
        ground[round(rows[-1] - GROUND * (rows[-1] - rows[0])) :] = True
    shadow = (
        ground
        & (darkness < 1.05)
        & ((neutral & (slope < 2 * SHARP)) | (grey & (slope < SHARP)) | (tinted & (slope < 2 * SOFT)))
    )
    if backdrop.residual < EVEN:
        shadow &= slope < SOFTEST
    # The object's own greys must not be taken for shadow when it has little else.
    if (shadow & first).sum() > 0.4 * first.sum():
        shadow &= slope < SOFT
    passable = same | uneven | shadow
    background = _grown_from_border(passable, same)
    background |= _backdrop_holes(same & ~background, distance, close, uneven | shadow)
    # The rim of shaded pixels beside the object's own edge, which the slope test keeps.
    for _ in range(2):
        grown = cv2.dilate(background.astype(np.uint8), _SQUARE) > 0
        background |= grown & (same | uneven | (ground & grey)) & (slope < 2 * SHARP)
    if backdrop.residual > 0.3:
        background |= _colour_crumbs(background, distance < 16)
    return ~_without_slivers(background, ground & tinted & (darkness < 0.9))


def _colour_crumbs(background: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Crumbs on the outline that differ little from the backdrop: JPEG stores colour in blocks of 16
    pixels, which reach over the edge. What survives a median filter, or differs much, is object."""
    smooth = cv2.medianBlur(background.astype(np.uint8) * 255, 11) > 0
    return smooth & weak


def _without_slivers(background: np.ndarray, shaded: np.ndarray) -> np.ndarray:
    """Background with small shaded islands added that lie mostly open to it: contact shadows whose own
    edge is sharp."""
    island = (shaded & ~background).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(island, connectivity=4)
    ring = cv2.dilate(background.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    rim = (island > 0) & (cv2.erode(island, _SQUARE) == 0)
    rims = np.bincount(labels[rim], minlength=count)
    open_rims = np.bincount(labels[rim & ring], minlength=count)
    small = stats[:, cv2.CC_STAT_AREA] < 0.02 * (~background).sum()
    removed = small & (open_rims > 0.6 * rims) & (stats[:, cv2.CC_STAT_AREA] > 8)
    removed[0] = False
    if not removed.any():
        return background
    # With the blended pixels between the island and the background.
    closed = cv2.morphologyEx(
        (background | removed[labels]).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)
    )
    near = cv2.dilate(removed[labels].astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return background | removed[labels] | ((closed > 0) & near & shaded)


def _ring(region: np.ndarray, pixels: int) -> np.ndarray:
    """(H, W) bool: what lies so far outside a region."""
    outer, inner = (cv2.dilate(region, _SQUARE, iterations=n) for n in (pixels, pixels - 1))
    return outer > inner


def main_rows(mask: np.ndarray) -> np.ndarray:
    """(H,) bool: rows that hold a fair share of a mask, so that crumbs do not count."""
    counts = mask.sum(axis=1)
    return counts > 0.03 * counts.max(initial=1)


def _grown_from_border(passable: np.ndarray, seed: np.ndarray) -> np.ndarray:
    # Opened, so that a one-pixel line where the object's shading crosses the backdrop's lets nothing in.
    opened = cv2.morphologyEx(passable.astype(np.uint8), cv2.MORPH_OPEN, _SQUARE)
    labels = cv2.connectedComponents(opened, connectivity=4)[1]
    start = seed & border_mask(*seed.shape)
    touched = np.unique(labels[start])
    return np.isin(labels, touched[touched > 0])


def _backdrop_holes(enclosed: np.ndarray, distance: np.ndarray, close: float, soft: np.ndarray) -> np.ndarray:
    """Enclosed regions that look just like the backdrop: holes, not paint.

    A small one, as between arm and body, must look more so: as even as the backdrop itself, and with a
    sharp edge, which a highlight does not have.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(enclosed.astype(np.uint8), connectivity=4)
    large, small = 0.0015 * enclosed.size, 0.0004 * enclosed.size
    holes = np.zeros(count, dtype=bool)
    for number in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= small) + 1:
        x, y, width, height, area = stats[number]
        box = slice(max(y - 8, 0), y + height + 8), slice(max(x - 8, 0), x + width + 8)
        inside, misfit = (labels[box] == number).astype(np.uint8), distance[box]
        if area >= large:
            holes[number] = float(np.median(misfit[inside > 0])) < 0.6 * close
            continue
        core = cv2.erode(inside, _SQUARE) > 0
        near, far = (float(np.median(misfit[_ring(inside, pixels)])) for pixels in (3, 7))
        even = core.any() and float(np.percentile(misfit[core], 90)) < EVEN
        holes[number] = even and near > max(HOLE_EDGE, 0.7 * far)
    hole = holes[labels]
    if not hole.any():
        return hole
    # A hole's own shadow belongs to it.
    grown = cv2.connectedComponents((hole | soft).astype(np.uint8), connectivity=4)[1]
    numbers = np.unique(grown[hole])
    return np.isin(grown, numbers[numbers > 0])
