"""The camera rings of the published orbit models, and the one number their films leave open.

Sources: the SyncDreamer rendering scripts that Hi3D trained on (distance 1.5 for an object of unit
longest extent, 35 mm lens on a 32 mm sensor), V3D's recon/utils/camera_utils.py, SV3D's release
(azimuths linspace(0, 360, 22)[1:], so the last frame is the input view).
"""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras, pinhole_intrinsics
from shared_protocol.conventions import look_at, ring_position


@dataclass(frozen=True)
class OrbitPreset:
    """A ring as a published model draws it; azimuth counter-clockwise seen from +Z.

    fov          degrees
    radius       metres, for an object of unit longest extent
    elevations   degrees, the range to search when the film does not tell
    input_last   the input view is the last frame instead of the first
    """

    name: str
    views: int
    fov: float
    radius: float
    elevations: tuple[float, float]
    input_last: bool = False

    def front_first(self) -> list[int]:
        """Frame numbers in our order: view 0 is the input view."""
        return [self.views - 1, *range(self.views - 1)] if self.input_last else list(range(self.views))

    def cameras(self, elevation: float, width: int, height: int) -> Cameras:
        """The ring at this elevation, view 0 on -Y."""
        poses = [
            look_at(ring_position(360.0 * i / self.views, elevation, self.radius)) for i in range(self.views)
        ]
        intrinsics = np.repeat(pinhole_intrinsics(self.fov, width, height)[None], self.views, axis=0)
        return Cameras(np.stack(poses), intrinsics, width, height)


ORBITS = {
    preset.name: preset
    for preset in (
        OrbitPreset("hi3d", 16, 49.13, 1.5, (-10.0, 40.0)),
        OrbitPreset("syncdreamer", 16, 49.13, 1.5, (30.0, 30.0)),
        OrbitPreset("v3d", 18, 60.0, 2.0, (0.0, 0.0)),
        OrbitPreset("sv3d", 21, 33.8, 2.0, (-10.0, 40.0), input_last=True),
    )
}


def estimate_elevation(alpha: np.ndarray, preset: OrbitPreset) -> float:
    """Elevation in degrees at which the silhouettes (N, H, W) agree best.

    At the true elevation the visual hull fills every silhouette; at a wrong one the views carve into
    each other. Searched in steps of 5, then 1 degree, on a coarse grid of points.
    """
    low, high = preset.elevations
    if low == high:
        return low
    step = max(1, alpha.shape[1] // 128)
    masks = alpha[:, step // 2 :: step, step // 2 :: step] > 0.5

    def score(elevation: float) -> float:
        return _coverage(masks, preset.cameras(elevation, masks.shape[2], masks.shape[1]))

    coarse = max(np.arange(low, high + 1, 5.0), key=score)
    fine = np.arange(max(low, coarse - 4), min(high, coarse + 4) + 0.5, 1.0)
    return float(max(fine, key=score))


def _coverage(masks: np.ndarray, cameras: Cameras, cells: int = 72) -> float:
    """Mean share of each silhouette that the hull of all silhouettes still covers."""
    axis = (np.arange(cells) + 0.5) / cells * 1.3 - 0.65
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    height, width = masks.shape[1:]
    projection = cameras.intrinsics @ cameras.camera_from_world[:, :3]

    def shown(view: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column (P,) of each point; all lie before the camera."""
        image = points @ projection[view, :, :3].T + projection[view, :, 3]
        column, row = (np.clip((image[:, i] / image[:, 2]).astype(np.int64), 0, n - 1) for i, n in sizes)
        return row, column

    sizes = (0, width), (1, height)
    first = (0, len(cameras) // 4)  # from two sides: they leave the fewest points to the others
    for view in (*first, *(v for v in range(len(cameras)) if v not in first)):
        points = points[masks[view][shown(view)]]
    shares = []
    for view in range(len(cameras)):
        row, column = shown(view)
        seen = np.zeros((height, width), dtype=np.float32)
        seen[row, column] = 1
        # a grid point covers about two pixels; close the gaps before comparing
        grown = seen.copy()
        for shift in (-1, 1):
            grown = np.maximum(grown, np.roll(seen, shift, 0))
        seen = grown.copy()
        for shift in (-1, 1):
            grown = np.maximum(grown, np.roll(seen, shift, 1))
        overlap = np.logical_and(grown > 0, masks[view]).sum()
        shares.append(overlap / max(1, masks[view].sum()))
    return float(np.mean(shares))
