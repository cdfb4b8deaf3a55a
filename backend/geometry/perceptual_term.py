"""The perceptual term of a fit: LPIPS of V3D's equation 1, made affordable on a CPU.

A whole view of 512 pixels costs 1.5 CPU seconds with its gradient, so the term looks at one random crop,
at every second step, in the last part of the fit. Measured on a scan with print on it (16 views of 384
pixels, 10,000 Gaussians, 250 steps, MSE + 0.2 D-SSIM + 0.02 of this; views between the fitted ones):

    where                              CPU s   PSNR      distance
    nowhere                                    28.72 dB  0.194
    crop of 129, every 4th step, all     5.4   28.14     0.178
    whole at 161, every 2nd, last 40 %   5.5   28.73     0.188
    crop of 129, every 2nd, last 40 %    4.4   28.65     0.167
    crop of 193, every 4th, last 40 %    4.9   28.67     0.167
    crop of 97, every step, last 40 %    4.9   28.67     0.168

Early on, the gradient of the large errors pulls the shape apart; late, it sharpens what stands.
"""

import numpy as np

from backend.geometry.perceptual import SMALLEST, PerceptualNet

CROP = 129
"""Pixels; odd sizes let the first two layers be one."""
EVERY = 2
FIRST_SHARE = 0.6
"""Of the fit's way, done before the term begins."""


class CropSchedule:
    """Which steps of a fit have the term, and where they look; the same on every device."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def wanted(self, step: int, share: float) -> bool:
        """Whether this step has the term; share: of the fit's way that is done, 0 to 1."""
        return share >= FIRST_SHARE and step % EVERY == 0

    def crop(self, shape: tuple[int, int, int], step: int) -> tuple[slice, slice, slice] | None:
        """Crop of a picture of this shape (3, H, W); None where it is too small for the network."""
        _, rows, columns = shape
        height, width = _odd(min(rows, CROP)), _odd(min(columns, CROP))
        if min(height, width) < SMALLEST:
            return None
        random = np.random.default_rng([self._seed, step])
        top, left = random.integers(rows - height + 1), random.integers(columns - width + 1)
        return slice(None), slice(top, top + height), slice(left, left + width)


class PerceptualTerm(CropSchedule):
    """Called by a fit at each step with a rendering and its target; one object a fit."""

    def __init__(self, net: PerceptualNet, seed: int) -> None:
        super().__init__(seed)
        self._net = net

    def __call__(self, image: np.ndarray, target: np.ndarray, step: int) -> tuple[float, np.ndarray]:
        """Distance of a crop, and the gradient to the image, (3, H, W) sRGB-encoded 0..1 over one background.

        The gradient is scaled up for the steps that have no term, and 0 outside of the crop. The same
        arguments give the same crop. Pictures too small for the network give 0.
        """
        gradient = np.zeros_like(image)
        window = self.crop(image.shape, step)
        if window is None:
            return 0.0, gradient
        value, slope = self._net.distance_and_gradient(image[window], self._net.features(target[window]))
        gradient[window] = np.float32(EVERY) * slope
        return value, gradient


def _odd(n: int) -> int:
    return n - 1 + n % 2
