"""Colours for what the picture does not show: the contour's, carried around the object."""

import cv2
import numpy as np

from backend.stages.orbit.poisson import MaskProblem, mask_problem

UPRIGHT = 0.12
"""How much less colours spread up and down than sideways: an object's bands (head, trunk, feet) go around
it, so its back has them too."""
CONTOUR_WIDTH = 1 / 56
"""Width of the band inside the contour that gives the colours, a share of the frame: outlines and rim
lights are averaged away."""


CONSENSUS = 0.25
"""Radius of the stretch of contour that tells what colour is usual, a share of the object's height."""
SURPRISE = 0.15
"""How much farther (sRGB) than the row's median a contour colour lies from the usual to be given up."""


def row_medians(colour: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(G, G, 3): in each row of `inside`, each unbroken run filled with the median of its colours."""
    result = np.zeros_like(colour)
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    for row, start, stop in zip(rows, starts, np.nonzero(edges == -1)[1], strict=True):
        result[row, start:stop] = np.median(colour[row, start:stop], axis=0)
    return result


def without_features(contour: np.ndarray, problem: MaskProblem, medians: np.ndarray) -> np.ndarray:
    """Contour colours (L, 3) in which what only happens to lie on the outline gives way to its row's median.

    A window on the side of a rocket is unlike the contour above and below it, and the row's median is not;
    the metal rim of a clock is like the rest of the rim, and stays.
    """
    cells = np.flatnonzero(problem.inside)[problem.links[:, 0]]
    width = problem.inside.shape[1]
    place = np.column_stack([cells % width, cells // width]).astype(np.float32)
    reach = CONSENSUS * np.ptp(place[:, 1])
    inner = medians.reshape(-1, 3)[cells]
    every = np.arange(0, len(cells), max(1, len(cells) // 512))
    near = np.hypot(*(place[:, None] - place[None, every]).transpose(2, 0, 1)) < max(reach, 2.0)
    known = np.where(near[..., None], contour[None, every], np.nan).astype(np.float32)
    usual = np.nanmedian(known, axis=1)
    own, other = (np.linalg.norm(c - usual, axis=1) for c in (contour, inner))
    share = np.clip((own - other) / SURPRISE, 0, 1)[:, None]
    return contour * (1 - share) + inner * share


def back_colour(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(S, S, 3) float32: a smooth continuation of the contour's colours over the whole frame.

    colour (S, S, 3), alpha (G, G) with G <= S. Inside the mask the fill is harmonic (anisotropic,
    UPRIGHT), so it agrees with the front along the contour and shows nothing of the interior: no second
    face looks backward.
    """
    grid = alpha.shape[0]
    small = cv2.resize(colour, (grid, grid), interpolation=cv2.INTER_AREA)
    solid = (alpha > 0.95).astype(np.float32)
    sigma = grid * CONTOUR_WIDTH
    weight = cv2.GaussianBlur(solid, (0, 0), sigma, sigmaY=2 * sigma)
    smooth = (
        cv2.GaussianBlur(small * solid[..., None], (0, 0), sigma, sigmaY=2 * sigma)
        / np.maximum(weight, 1e-4)[..., None]
    )
    smooth = np.where(weight[..., None] > 1e-3, smooth, small)
    problem = mask_problem(alpha, vertical=UPRIGHT)
    contour = smooth.reshape(-1, 3)[problem.links[:, 1]]
    fill = problem.fill(without_features(contour, problem, row_medians(small, problem.inside)))
    fill = np.where(problem.inside[..., None], fill, smooth).astype(np.float32)
    return cv2.resize(fill, colour.shape[1::-1], interpolation=cv2.INTER_LINEAR)
