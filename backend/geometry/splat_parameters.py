"""The numbers that a fit optimises, their activations, the chain rule, and what is dropped at the end."""

from dataclasses import dataclass

import numpy as np

from backend.geometry.splat_raster import Gaussians
from shared_protocol.errors import InvalidInput

HIGHER_DEGREES = 0.05
"""Learning rate of harmonics of degree 1 and above next to degree 0, as 3DGS."""
SMALLEST_OPACITY = 0.005
"""Gaussians fainter than this are dropped, as in 3DGS."""


@dataclass(frozen=True)
class Rates:
    """Learning rates at the first step, and the share left at the last one (exponential decay).

    all_fall  whether every rate falls; False: the positions' alone, as in 3DGS
    of_scene  whether the position is in units of the scene (`scene_extent`, 3DGS); False: of the object's
              extent
    degree_every  steps after which one more degree of harmonics is learned, from degree 0 on; 0: all at once
    Harmonics of degree 1 and above take a twentieth.
    Measured on four scans, 16 true views, 500 steps, at the views and between them, dB: scale 0.02 -> 0.12
    gains 0.4 to 1.6 and 0.2 to 1.2; harmonics 0.02 -> 0.04 a tenth; last 0.07 -> 0.1 up to 0.3, 0.04 loses
    0.3; position 1.9e-3 loses 0.3 to 1 at the views; half the rate of opacity loses 0.1; rotation
    0.005 -> 0.01 gains up to 0.2.
    """

    position: float = 1.2e-3
    harmonics: float = 0.04
    opacity: float = 0.05
    scale: float = 0.12
    rotation: float = 0.01
    last: float = 0.1
    all_fall: bool = True
    of_scene: bool = False
    degree_every: int = 0

    def coefficients(self, step: int, most: int) -> int:
        """Harmonics that step `step` (from 0) draws and learns, of `most`."""
        if not self.degree_every:
            return most
        return min((1 + (step + 1) // self.degree_every) ** 2, most)

    def columns(self, decay: float, extent: float, coefficients: int) -> dict[str, np.ndarray]:
        """Rate of every column of the arrays of `Raw`, float32; coefficients K of the harmonics."""
        degrees = np.repeat([1.0] + [HIGHER_DEGREES] * (coefficients - 1), 3)
        rates = {
            "positions": np.full(3, self.position * extent),
            "log_scales": np.full(3, self.scale),
            "rotations": np.full(4, self.rotation),
            "logits": np.full(1, self.opacity),
            "harmonics": self.harmonics * degrees,
        }
        return {
            name: ((decay if self.all_fall or name == "positions" else 1.0) * rate).astype(np.float32)
            for name, rate in rates.items()
        }


PUBLISHED = Rates(
    position=1.6e-4, harmonics=0.0025, opacity=0.05, scale=0.005, rotation=0.001, last=0.01, all_fall=False,
    of_scene=True, degree_every=1000,
)  # fmt: skip
"""Of 3DGS, which V3D's commands keep, for thousands of steps."""
RATES = {"measured": Rates(), "published": PUBLISHED}


_SCENE = 1.1


def scene_extent(centres: np.ndarray) -> float:
    """Of cameras at centres (N, 3), metres: 1.1 times the largest distance from their mean (3DGS)."""
    return _SCENE * float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())


def rates_called(name: str) -> Rates:
    """Of `SplatsOptions.rates`; InvalidInput for another name."""
    if name not in RATES:
        raise InvalidInput(f"no learning rates are called '{name}'", " or ".join(RATES))
    return RATES[name]


@dataclass
class Raw:
    """Positions, log scales, quaternions, opacity logits, harmonics; also the shape of their gradients."""

    positions: np.ndarray
    log_scales: np.ndarray
    rotations: np.ndarray
    logits: np.ndarray
    harmonics: np.ndarray

    @classmethod
    def of(cls, gaussians: Gaussians) -> "Raw":
        """Inverse of `activate`; copies."""
        opacities = np.clip(gaussians.opacities, 1e-6, 1 - 1e-6)
        return cls(
            gaussians.positions.copy(),
            np.log(gaussians.scales),
            gaussians.rotations.copy(),
            np.log(opacities / (1 - opacities)),
            gaussians.harmonics.copy(),
        )

    def __len__(self) -> int:
        return len(self.positions)

    def activate(self) -> Gaussians:
        """Gaussians to draw; positions, rotations and harmonics are not copied."""
        with np.errstate(over="ignore"):  # exp(88) is infinite in float32: opacity 0, or a scale not drawn
            opacities, scales = 1 / (1 + np.exp(-self.logits)), np.exp(self.log_scales)
        return Gaussians(self.positions, scales, self.rotations, opacities, self.harmonics)

    def take(self, rows: np.ndarray) -> "Raw":
        """Copies of these rows."""
        return Raw(*(array[rows] for array in vars(self).values()))


def chain(gradient: Gaussians, drawn: Gaussians) -> Raw:
    """dL/d activated values -> dL/d raw ones; drawn: the activated values."""
    return Raw(
        gradient.positions,
        gradient.scales * drawn.scales,
        gradient.rotations,
        gradient.opacities * drawn.opacities * (1 - drawn.opacities),
        gradient.harmonics,
    )


def prune(gaussians: Gaussians) -> Gaussians:
    """Without the Gaussians that are invisible or not finite; rotations of unit length."""
    arrays = vars(gaussians).values()
    finite = np.all([np.isfinite(a.reshape(len(gaussians), -1)).all(axis=1) for a in arrays], axis=0)
    norm = np.linalg.norm(gaussians.rotations, axis=1)
    keep = finite & (gaussians.opacities >= SMALLEST_OPACITY) & (norm > 1e-6)
    kept = [array[keep] for array in arrays]
    kept[2] = kept[2] / norm[keep, None]
    return Gaussians(*kept)
