"""Small corrections of poses and exposures, for views that do not quite agree (generated orbits).

The pose of a view is its given one after a motion (rotation vector, translation) about the object's centre
as the camera sees it: turning about that point moves the picture little, so rotation and translation hardly
disturb one another, and one rate fits both. The exposure is a gain and an offset a channel, on the object's
own colour and not on the background. View 0, the input, is held: it fixes the frame and the colours.
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras, moved
from backend.geometry.splat_raster import CameraGradient

_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-15


@dataclass(frozen=True)
class CorrectionRates:
    """Learning rates at the first step, and how tightly corrections are held.

    rotation radians, translation in extents of the object, exposure in 0..1
    pull     weight of (rotation / 1 degree)^2 + (translation / 1 % of the extent)^2, and of the exposure in
             percent, in the loss of a view
    """

    rotation: float = 1e-3
    translation: float = 5e-4
    exposure: float = 2e-3
    pull: float = 1e-7


class Corrections:
    """Of N views; changed in place by `step`."""

    def __init__(
        self, cameras: Cameras, centre: np.ndarray, extent: float, rates: CorrectionRates | None = None
    ) -> None:
        """centre (3,) of the object in the world and its extent, metres."""
        self._poses = cameras.world_from_camera
        self._rates = rates or CorrectionRates()
        view = cameras.camera_from_world
        self._pivots = view[:, :3, :3] @ np.asarray(centre, dtype=np.float64) + view[:, :3, 3]
        self._extent = extent
        # Columns: rotation (3), translation in extents (3), gain - 1 (3), offset (3).
        self._values = np.zeros((len(cameras), 12))
        self._first, self._second = np.zeros_like(self._values), np.zeros_like(self._values)
        self._steps = np.zeros(len(cameras), dtype=np.int64)
        rates = self._rates
        self._columns = np.repeat([rates.rotation, rates.translation, rates.exposure], (3, 3, 6))
        self._scale = np.repeat([np.radians(1), 0.01, 0.01], (3, 3, 6))

    def pose(self, view: int) -> np.ndarray:
        """(4, 4) world_from_camera."""
        return moved(self._poses[view], self._tangent(view))

    def _tangent(self, view: int) -> np.ndarray:
        """Motion in the camera's axes: p -> R (p - pivot) + pivot + t."""
        rotation = self._values[view, :3]
        turned = np.linalg.inv(moved(np.eye(4), np.r_[rotation, 0, 0, 0]))[:3, :3] @ self._pivots[view]
        shift = self._pivots[view] - turned + self._extent * self._values[view, 3:6]
        return np.concatenate([rotation, shift])

    def expose(self, view: int, image: np.ndarray) -> np.ndarray:
        """image (4, H, W) over white -> as this view's camera recorded it, over white."""
        gain, offset = self.gains[view].astype(np.float32), self.offsets[view].astype(np.float32)
        if not (self._values[view, 6:] != 0).any():
            return image
        result = np.empty_like(image)
        alpha = image[3]
        result[3] = alpha
        for channel in range(3):
            own = image[channel] - 1 + alpha  # what the object adds, before the white behind it
            result[channel] = gain[channel] * own + offset[channel] * alpha + 1 - alpha
        return result

    def expose_back(
        self, view: int, image: np.ndarray, upstream: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """dL/d exposed image -> dL/d image, both (4, H, W), and dL/d (gain, offset) (6,)."""
        gain, offset = self.gains[view].astype(np.float32), self.offsets[view].astype(np.float32)
        alpha = image[3]
        result = upstream.copy()
        exposure = np.empty(6)
        for channel in range(3):
            slope = upstream[channel]
            exposure[channel] = np.vdot(slope, image[channel] - 1 + alpha)
            exposure[3 + channel] = np.vdot(slope, alpha)
            result[channel] = gain[channel] * slope
            result[3] += (gain[channel] + offset[channel] - 1) * slope
        return result, exposure

    def step(self, view: int, camera: CameraGradient, exposure: np.ndarray, decay: float) -> None:
        """One step of Adam; decay: share of the first learning rates. View 0 stays."""
        if view == 0:
            return
        rotation, translation = camera.tangent[:3], camera.tangent[3:]
        # About the pivot (where it is now) instead of the camera's centre; small rotations commute.
        pivot = self._pivots[view] + self._extent * self._values[view, 3:6]
        gradient = np.concatenate(
            [rotation - np.cross(pivot, translation), self._extent * translation, exposure]
        )
        gradient = gradient + 2 * self._rates.pull * self._values[view] / self._scale**2
        self._steps[view] += 1
        n = self._steps[view]
        first, second = self._first[view], self._second[view]
        first += (1 - _BETA1) * (gradient - first)
        second += (1 - _BETA2) * (gradient**2 - second)
        root = np.sqrt(second / (1 - _BETA2**n)) + _EPSILON
        self._values[view] -= decay * self._columns * first / (1 - _BETA1**n) / root

    @property
    def poses(self) -> np.ndarray:
        """(N, 4, 4) world_from_camera."""
        return np.stack([self.pose(view) for view in range(len(self._poses))])

    @property
    def gains(self) -> np.ndarray:
        """(N, 3) what the true colour is multiplied with in each view."""
        return 1 + self._values[:, 6:9]

    @property
    def offsets(self) -> np.ndarray:
        """(N, 3) what is added then."""
        return self._values[:, 9:]

    @property
    def degrees(self) -> np.ndarray:
        """(N,) angle of each correction."""
        return np.degrees(np.linalg.norm(self._values[:, :3], axis=1))

    @property
    def shifts(self) -> np.ndarray:
        """(N,) length of each translation, in extents."""
        return np.linalg.norm(self._values[:, 3:6], axis=1)
