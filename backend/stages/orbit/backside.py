"""Colours for what the picture does not show: the contour's, carried around the object."""

import cv2
import numpy as np

from backend.stages.orbit.poisson import MaskProblem, mask_problem

UPRIGHT = 0.12
"""How much less colours spread up and down than sideways: an object's bands (head, trunk, feet) go around
it, so its back has them too. With 0.02 for turned objects a mug lost
0.2 dB over the other views and 1.3 dB of its front."""
CONTOUR_WIDTH = 1 / 56
"""Width of the band inside the contour that gives the colours, a share of the frame: outlines and rim
lights are averaged away."""


AGREEING = 0.03
"""Width of the band inside the contour where the fill keeps the contour's colours, a share of the frame."""
ALIKE = 0.08
"""Distance in sRGB at which two colours are about the same."""
LEAST_REACH = 0.04
"""Share of the outline that a colour must have to be one that goes around the object."""
DOMINANT = 1.5
"""How many times more of the surface than the outline's colour a row's median must have."""


def row_medians(colour: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(G, G, 3): in each row of `inside`, each unbroken run filled with the median of its colours."""
    result = np.zeros_like(colour)
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    for row, start, stop in zip(rows, starts, np.nonzero(edges == -1)[1], strict=True):
        result[row, start:stop] = np.median(colour[row, start:stop], axis=0)
    return result


def without_features(
    contour: np.ndarray, problem: MaskProblem, colour: np.ndarray, medians: np.ndarray
) -> np.ndarray:
    """Contour colours (L, 3) in which what only happens to lie on the outline gives way to its row's median.

    colour, medians (G, G, 3). A colour gives way when the median's is that of far more of the visible
    surface and reaches the outline elsewhere: a rocket's side windows do, on a white hull. The metal rim of
    a clock stays: its white face nowhere reaches the outline, so it does not go around.
    """
    inner = medians.reshape(-1, 3)[np.flatnonzero(problem.inside)[problem.links[:, 0]]]
    surface = colour[problem.inside]

    def support(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
        some = among[:: max(1, len(among) // 1024)]
        squared = ((wanted[:, None] - some[None]) ** 2).sum(axis=2)
        return np.exp(-squared / (2 * ALIKE**2)).mean(axis=1)

    reaches = np.clip(support(inner, contour) / LEAST_REACH - 1, 0, 1)
    ratio = support(inner, surface) / np.maximum(support(contour, surface), 1e-6)
    share = reaches * np.clip(ratio - DOMINANT, 0, 1)
    return contour + (inner - contour) * share[:, None]


def back_colour(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(S, S, 3) float32: a smooth continuation of the contour's colours over the whole frame.

    colour (S, S, 3), alpha (G, G) with G <= S. Inside the mask the fill is harmonic
    and anisotropic, so it agrees with the front along the contour and shows nothing of the interior: no
    second face looks backward.
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
    calm = without_features(contour, problem, small, row_medians(small, problem.inside))
    # Along the outline the front picture fades into this one: there it is to agree with the front.
    distance = cv2.distanceTransform(problem.inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = np.exp(-((distance / (grid * AGREEING)) ** 2))[..., None]
    fill = problem.fill(calm)
    fill += near * (problem.fill(contour) - fill)
    fill = np.where(problem.inside[..., None], fill, smooth).astype(np.float32)
    return cv2.resize(fill, colour.shape[1::-1], interpolation=cv2.INTER_LINEAR)
