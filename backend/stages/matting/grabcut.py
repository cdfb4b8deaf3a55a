"""Cut-out without weights: a plain backdrop by its colour, anything else by GrabCut (Rother 2004)."""

import cv2
import numpy as np

from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, quantize
from backend.stages.matting.background import border_mask, fit_backdrop, plain_foreground
from backend.stages.matting.edges import flatten, object_box, soft_alpha
from shared_protocol.errors import StageFailed

PLAIN_SIDE, GRABCUT_SIDE = 768, 320
"""Pixels at which the two methods look at the picture."""
ITERATIONS = 6


PIECES_CONFIDENCE = 0.55
"""At most this where the cut-out is in several large pieces: mostly something between them was lost."""


class GrabCutMatting:
    """The embedded engine."""

    version = "1"

    def cut(self, picture: Picture, context: StageContext) -> tuple[np.ndarray, float]:
        """Returns alpha (H, W) float32 and confidence 0..1; StageFailed when nothing stands out."""
        context.step(0, ITERATIONS + 2, "Looking at the background")
        whole = flatten(picture.rgba)
        top, bottom, left, right = letterbox(whole)
        rgb = whole[top:bottom, left:right]
        context.check()
        small = _shrunk(rgb, PLAIN_SIDE)
        lab = _lab(small)
        backdrop = fit_backdrop(lab)
        if np.percentile(np.linalg.norm(lab - backdrop.lab, axis=2), 99.9) < 5:
            raise _nothing_found()
        context.check()
        if backdrop.plain:
            mask, confidence = _plain(small, lab, backdrop)
            context.note(background="plain", background_misfit=round(backdrop.residual, 2))
        else:
            small = _shrunk(rgb, GRABCUT_SIDE)
            mask, confidence = _grabcut(small, context)
            context.note(background="busy", background_misfit=round(backdrop.residual, 2))
        mask = main_parts(mask)
        if _falls_apart(mask):
            confidence = min(confidence, PIECES_CONFIDENCE)
        if mask.mean() < 5e-4:
            raise _nothing_found()
        context.step(ITERATIONS + 1, ITERATIONS + 2, "Softening the edge")
        size = rgb.shape[1::-1]
        large = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        radius = max(2, round(1.5 * max(1.0, max(size) / max(mask.shape))))
        box = object_box(large, 4 * radius + 4)
        alpha = np.zeros(whole.shape[:2], dtype=np.float32)
        context.check()
        alpha[top:bottom, left:right][box] = soft_alpha(rgb[box], large[box], radius)
        context.check()
        return alpha * picture.rgba[..., 3], confidence


def letterbox(rgb: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right of the picture without bars of one colour that end all at once."""
    top, left = 0, 0
    bottom, right = rgb.shape[:2]
    top = _bar(rgb)
    bottom -= _bar(rgb[::-1])
    left = _bar(rgb.transpose(1, 0, 2))
    right -= _bar(rgb.transpose(1, 0, 2)[::-1])
    return top, bottom, left, right


def _bar(rows: np.ndarray) -> int:
    """Number of first rows that form a bar; 0 when they end along an object rather than a straight edge."""
    differs = np.abs(rows - rows[0, 0]).max(axis=2) > 0.04
    share = differs.mean(axis=1)
    stop = int(np.argmax(share > 0.02)) if (share > 0.02).any() else 0
    # One or two blended rows may lie between the bar and the picture.
    if stop == 0 or stop > 0.4 * len(rows) or share[min(stop + 2, len(rows) - 1)] < 0.8:
        return 0
    return stop + 2


def _plain(small: np.ndarray, lab: np.ndarray, backdrop) -> tuple[np.ndarray, float]:
    mask = plain_foreground(small, lab, backdrop)
    if backdrop.residual > 1:  # noise; a rendered backdrop has none, and thin parts stay
        mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    edge = mask & ~(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    contrast = np.linalg.norm(lab - backdrop.lab, axis=2)[edge]
    strength = float(np.clip(np.median(contrast) / 20, 0, 1)) if len(contrast) else 0.0
    touching = float((mask & border_mask(*mask.shape)).sum() / max(1, border_mask(*mask.shape).sum()))
    return mask, float(np.clip(0.6 + 0.38 * strength - 1.5 * touching, 0.2, 0.98))


def _grabcut(small: np.ndarray, context: StageContext) -> tuple[np.ndarray, float]:
    """Seeds: the border is background; the rare colours near the middle are probably the object."""
    salience = _salience(_lab(small))
    seed = np.full(salience.shape, cv2.GC_PR_BGD, dtype=np.uint8)
    seed[salience > np.percentile(salience, 72)] = cv2.GC_PR_FGD
    seed[salience > np.percentile(salience, 97)] = cv2.GC_FGD
    seed[border_mask(*seed.shape)] = cv2.GC_BGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = quantize(small[..., ::-1])
    cv2.setRNGSeed(0)
    for index in range(ITERATIONS):
        context.step(index + 1, ITERATIONS + 2, "Separating object and background")
        mode = cv2.GC_INIT_WITH_MASK if index == 0 else cv2.GC_EVAL
        cv2.grabCut(bgr, seed, None, *models, 1, mode)
    mask = np.isin(seed, (cv2.GC_FGD, cv2.GC_PR_FGD))
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    # Without a network a busy background is a guess: always below the level that warns.
    area = float(mask.mean())
    return mask, 0.45 if 0.03 < area < 0.6 else 0.25


def _salience(lab: np.ndarray) -> np.ndarray:
    """(H, W) float32: how far a pixel's colour is from the border's colours, weighted toward the middle."""
    height, width = lab.shape[:2]
    border = lab[border_mask(height, width)]
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    cv2.setRNGSeed(0)
    centres = cv2.kmeans(border, 8, None, criteria, 2, cv2.KMEANS_PP_CENTERS)[2]
    smooth = cv2.GaussianBlur(lab, (0, 0), 2)
    distance = np.stack([np.linalg.norm(smooth - c, axis=2) for c in centres]).min(axis=0)
    y, x = np.mgrid[:height, :width]
    middle = np.exp(-(((x / width - 0.5) / 0.28) ** 2 + ((y / height - 0.52) / 0.3) ** 2) / 2)
    return ((distance + 8) * middle).astype(np.float32)


def main_parts(mask: np.ndarray) -> np.ndarray:
    """The largest part, and those beside it that are not mere crumbs; small holes closed.

    A part far from the largest one stays only if it is of its order: a pair of shoes, not a patch of fur.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 1:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = 1 + int(np.argmax(areas[1:]))
    away = cv2.distanceTransform((labels != largest).astype(np.uint8), cv2.DIST_L2, 5)
    gap = np.full(count, np.inf)
    np.minimum.at(gap, labels.ravel(), away.ravel())
    keep = (areas > 0.3 * areas[largest]) | ((areas > 0.01 * areas[largest]) & (gap < 0.02 * max(mask.shape)))
    keep[0] = False
    kept = keep[labels]
    holes = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    small = holes[2][:, cv2.CC_STAT_AREA] < 0.002 * areas[largest]
    return kept | small[holes[1]]


def _falls_apart(mask: np.ndarray) -> bool:
    """Whether the largest part holds less than 90 % of a mask."""
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return len(areas) > 1 and areas.max() < 0.9 * areas.sum()


def _shrunk(rgb: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(rgb.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(rgb, dtype=np.float32)
    size = (max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2LAB)


def _nothing_found() -> StageFailed:
    return StageFailed(
        "no object stands out from the background",
        "one object on a background of another colour",
        "Give a picture with a transparent background, or another picture.",
    )
