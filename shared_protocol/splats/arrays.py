"""Gaussians as arrays: activated, as the program uses them, and stored, as files hold them."""

from typing import NamedTuple

import numpy as np

from shared_protocol.errors import InvalidInput

SH0 = 0.28209479177387814
"""Y_0: a Gaussian's base colour is 0.5 + SH0 * c_0."""
COEFFICIENTS = (1, 4, 9, 16)
"""Coefficients a channel of degree 0 to 3."""
LARGEST_LOGIT = 16.0
"""Opacities 0 and 1 are stored as sigmoid(+-16): 1 - 1.1e-7 is the last float32 below 1 but one."""
_SMALLEST_SCALE = 1e-30
_LARGEST_LOG_SCALE = 88.0
"""exp of more is no float32."""


class SplatArrays(NamedTuple):
    """3D Gaussians, activated.

    positions  (G, 3) float32 metres, world
    scales     (G, 3) float32 metres, standard deviations along the local axes
    rotations  (G, 4) float32 unit quaternions, wxyz
    opacities  (G,) float32 0..1
    harmonics  (G, K, 3) float32, K = 1, 4, 9 or 16; colour = 0.5 + sum(Y_k * c_k), sRGB-encoded
    """

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacities: np.ndarray
    harmonics: np.ndarray


class StoredSplats(NamedTuple):
    """3D Gaussians before activation, so that a PLY goes through bit for bit.

    positions   (G, 3) float32
    log_scales  (G, 3) float32, natural logarithm
    rotations   (G, 4) float32 quaternions of any length, wxyz
    logits      (G,) float32, opacity = 1 / (1 + exp(-logit)); may be infinite
    harmonics   (G, K, 3) float32 as in `SplatArrays`
    """

    positions: np.ndarray
    log_scales: np.ndarray
    rotations: np.ndarray
    logits: np.ndarray
    harmonics: np.ndarray

    @property
    def count(self) -> int:
        return len(self.positions)

    @property
    def degree(self) -> int:
        return COEFFICIENTS.index(self.harmonics.shape[1])


def activate(stored: StoredSplats) -> SplatArrays:
    """Logarithms and logits -> scales and opacities; quaternions are normalised (zero -> identity)."""
    return SplatArrays(
        stored.positions,
        np.exp(stored.log_scales),
        unit_quaternions(stored.rotations),
        opacities_of(stored.logits).astype(np.float32),
        stored.harmonics,
    )


def store(splats: SplatArrays) -> StoredSplats:
    """The inverse of `activate`. Scales come back within 1e-5 relative, opacities within 2e-7 absolute:
    the rounding of the float32 logarithm and logit. A scale of 0 is stored as 1e-30."""
    scales = np.maximum(np.asarray(splats.scales, np.float64), _SMALLEST_SCALE)
    return StoredSplats(
        np.asarray(splats.positions, np.float32),
        np.log(scales).astype(np.float32),
        np.asarray(splats.rotations, np.float32),
        logits_of(np.asarray(splats.opacities, np.float64)),
        np.asarray(splats.harmonics, np.float32),
    )


def opacities_of(logits: np.ndarray) -> np.ndarray:
    """(G,) logits -> (G,) float64 0..1."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


def logits_of(opacities: np.ndarray) -> np.ndarray:
    """(G,) float64 0..1 -> (G,) float32, within +-LARGEST_LOGIT."""
    with np.errstate(divide="ignore"):
        logits = np.log(opacities) - np.log1p(-opacities)
    return np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT).astype(np.float32)


def unit_quaternions(rotations: np.ndarray) -> np.ndarray:
    """(G, 4) float32 of any length -> unit length; those within 1e-6 of it stay as they are."""
    result = rotations.astype(np.float64)
    length = np.sqrt(np.einsum("gi,gi->g", result, result))
    off = np.abs(length - 1) > 1e-6
    if not off.any():
        return rotations
    result /= np.where(off & (length > 0), length, 1)[:, None]
    result[length == 0] = (1, 0, 0, 0)
    return result.astype(np.float32)


def cut_degree(stored: StoredSplats, degree: int) -> StoredSplats:
    """Leave out harmonics above `degree` (0 to 3); a lower degree stays as it is."""
    return stored._replace(harmonics=stored.harmonics[:, : COEFFICIENTS[degree]])


def usable(stored: StoredSplats) -> np.ndarray:
    """(G,) bool: every number is finite once activated. An infinite logit is (opacity 0 or 1), and so is
    a scale of zero."""
    fine = np.isfinite(stored.positions).all(axis=1)
    fine &= (stored.log_scales <= _LARGEST_LOG_SCALE).all(axis=1)  # False for NaN
    fine &= np.isfinite(stored.rotations).all(axis=1)
    fine &= ~np.isnan(stored.logits)
    # One sum a row finds NaN and infinity several times faster than isfinite on every number; a row of
    # huge but finite harmonics that overflows it shows nothing sensible either.
    flat = stored.harmonics.reshape(stored.count, 3 * stored.harmonics.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        fine &= np.isfinite(flat.sum(axis=1))
    return fine


def without_broken(stored: StoredSplats, *, drop: bool) -> StoredSplats:
    """`stored` when every Gaussian is usable; else without the others (`drop`), or InvalidInput."""
    fine = usable(stored)
    if fine.all():
        return stored
    if not drop:
        broken = int((~fine).sum())
        raise InvalidInput(
            f"{broken} of {stored.count} Gaussians hold numbers that are not finite",
            "finite positions, scales, rotations, opacities and harmonics",
            "'python -m backend convert IN OUT --drop-broken' leaves them out.",
            broken=broken,
        )
    return StoredSplats(*(values[fine] for values in stored))
