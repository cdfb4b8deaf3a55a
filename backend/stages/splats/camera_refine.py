"""Small corrections of poses and exposures, for views that do not quite agree (generated orbits).

The pose of a view is its given one after a motion (rotation vector, translation) about the object's centre
as the camera sees it: turning about that point moves the picture little, so rotation and translation hardly
disturb one another, and one rate fits both. The exposure is a gain and an offset a channel, on the object's
own colour and not on the background.

During the fit every view is free: holding view 0, the input, would hold a sixteenth of the evidence, and the
rest would slowly turn away from it. How the whole lies in the world the views cannot tell; at the end
`settle` moves it to where the given cameras, above all that of view 0, show it in its place.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from backend.geometry.cameras import Cameras, moved
from backend.geometry.harmonics import SH0
from backend.geometry.splat_parameters import Raw
from backend.geometry.splat_raster import CameraGradient, Gaussians
from backend.pipeline.values import ViewCorrections
from shared_protocol.splats.arrays import StoredSplats
from shared_protocol.splats.turn import turn

_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-15
_FRAME_POINTS = 200
"""Of the object, that say how its picture moves."""


@dataclass(frozen=True)
class CorrectionRates:
    """Learning rates at the first step, and how tightly corrections are held.

    rotation radians, translation in extents of the object, exposure in 0..1
    pull     weight of (rotation / 1 degree)^2 + (translation / 1 % of the extent)^2, and of the exposure in
             percent, in the loss of a view
    """

    rotation: float = 6e-3
    translation: float = 4e-3
    exposure: float = 5e-3
    pull: float = 1e-5


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
        self.extent = extent
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
        shift = self._pivots[view] - turned + self.extent * self._values[view, 3:6]
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
        """One step of Adam; decay: share of the first learning rates."""
        gradient = self.gradient(view, camera, exposure)
        gradient = gradient + 2 * self._rates.pull * self._values[view] / self._scale**2
        self._steps[view] += 1
        n = self._steps[view]
        first, second = self._first[view], self._second[view]
        first += (1 - _BETA1) * (gradient - first)
        second += (1 - _BETA2) * (gradient**2 - second)
        root = np.sqrt(second / (1 - _BETA2**n)) + _EPSILON
        self._values[view] -= decay * self._columns * first / (1 - _BETA1**n) / root

    def gradient(self, view: int, camera: CameraGradient, exposure: np.ndarray) -> np.ndarray:
        """(12,) dL/d rotation, translation, gain, offset of a view."""
        rotation, translation = camera.tangent[:3], camera.tangent[3:]
        # About the pivot (where it is now) instead of the camera's centre; small rotations commute.
        pivot = self._pivots[view] + self.extent * self._values[view, 3:6]
        return np.concatenate([rotation - np.cross(pivot, translation), self.extent * translation, exposure])

    @property
    def given(self) -> np.ndarray:
        """(N, 4, 4) world_from_camera before any correction."""
        return self._poses

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


def settle(corrections: Corrections, gaussians: Gaussians) -> tuple[Gaussians, ViewCorrections]:
    """Gaussians and corrections in the frame of the given cameras and in the colours of view 0.

    The frame is the similarity of the world that, over the views, least moves the object's picture from
    where the given cameras show it; view 0 counts as all others together. The pose of view 0 alone would
    not do: how far it stands from the object is what a long lens tells least.
    """
    scale, rotation, shift = _frame(corrections, gaussians.positions)
    poses = corrections.poses
    poses[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T + shift
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    raw = Raw(*turn(StoredSplats(**vars(Raw.of(gaussians))), rotation))
    positions = np.float32(scale) * raw.positions + shift.astype(np.float32)
    # View i shows gain * colour + offset; from now on the colour is what view 0 shows.
    gain, offset = corrections.gains[0], corrections.offsets[0]
    harmonics = raw.harmonics * gain.astype(np.float32)
    harmonics[:, 0] += ((0.5 * gain + offset - 0.5) / SH0).astype(np.float32)
    gains = corrections.gains / gain
    learned = ViewCorrections(poses, gains, corrections.offsets - gains * offset)
    scales = np.float32(scale) * gaussians.scales
    return Gaussians(positions, scales, raw.rotations, gaussians.opacities, harmonics), learned


def _frame(corrections: Corrections, positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3), shift (3,) of the world; see `settle`."""
    points = positions[:: -(-len(positions) // _FRAME_POINTS)].astype(np.float64)
    centre = points.mean(axis=0)
    now, given = (np.linalg.inv(poses) for poses in (corrections.poses, corrections.given))
    weights = np.ones((len(now), 1, 1))
    weights[0] = np.sqrt(max(len(now) - 1, 1))

    def seen(views: np.ndarray, where: np.ndarray) -> np.ndarray:
        local = where @ views[:, :3, :3].transpose(0, 2, 1) + views[:, None, :3, 3]
        return local[..., :2] / local[..., 2:]

    expected = seen(now, points)

    def motion(values: np.ndarray) -> tuple[float, np.ndarray]:
        return np.exp(values[6]), Rotation.from_rotvec(values[:3]).as_matrix()

    def errors(values: np.ndarray) -> np.ndarray:
        scale, rotation = motion(values)
        where = scale * (points - centre) @ rotation.T + centre + corrections.extent * values[3:6]
        return (weights * (seen(given, where) - expected)).ravel()

    found = least_squares(errors, np.zeros(7), x_scale="jac").x
    scale, rotation = motion(found)
    return scale, rotation, centre - scale * rotation @ centre + corrections.extent * found[3:6]
