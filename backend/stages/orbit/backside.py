"""Colours for what the picture does not show: the contour's, carried around the object."""

import cv2
import numpy as np

from backend.stages.orbit.poisson import mask_problem

UPRIGHT = 0.12
"""How much less colours spread up and down than sideways: an object's bands (head, trunk, feet) go around
it, so its back has them too."""
CONTOUR_WIDTH = 1 / 56
"""Width of the band inside the contour that gives the colours, a share of the frame: outlines and rim
lights are averaged away."""


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
    fill = problem.fill(smooth.reshape(-1, 3)[problem.links[:, 1]])
    fill = np.where(problem.inside[..., None], fill, smooth).astype(np.float32)
    return cv2.resize(fill, colour.shape[1::-1], interpolation=cv2.INTER_LINEAR)
