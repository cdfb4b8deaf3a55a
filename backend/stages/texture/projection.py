"""Projects texels into a view and gathers its colours: visibility by depth, weights by angle and trust."""

from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.jit import kernel
from backend.geometry.parallel import for_bands
from backend.stages.texture.atlas import Texels
from backend.stages.texture.sources import DEPTH_OVERSAMPLING, Source

POWERS = (2.0, 8.0)
FRONT_POWERS = (2.0, 3.0)
"""Exponents of the cosine between normal and view, for the low and the high band: colours are blended
over many views, so that no seam shows; detail comes from the view that looks most straight at it, so
that views that disagree by a pixel do not blur it. The front view keeps its detail to its silhouette.
Measured on hulls (drill, duck, monkey): against equal powers of 4, front +1.4 dB, held-out -0.05 dB."""


@kernel
def _project(
    positions, normals, matrix, centre, bands, trust, depth, tolerance, scale, powers, start, stop, out
):
    """Texels start..stop: adds weighted bands (6) and the two weights to `out` (P, 8)."""
    height, width = trust.shape
    fine_height, fine_width = depth.shape
    ratio = fine_width / width
    for i in range(start, stop):
        px, py, pz = positions[i, 0], positions[i, 1], positions[i, 2]
        dx, dy, dz = centre[0] - px, centre[1] - py, centre[2] - pz
        cosine = (dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]) / np.sqrt(
            dx * dx + dy * dy + dz * dz
        )
        if cosine <= 0.02:
            continue
        z = matrix[2, 0] * px + matrix[2, 1] * py + matrix[2, 2] * pz + matrix[2, 3]
        if z <= 0.0:
            continue
        x = (matrix[0, 0] * px + matrix[0, 1] * py + matrix[0, 2] * pz + matrix[0, 3]) / z
        y = (matrix[1, 0] * px + matrix[1, 1] * py + matrix[1, 2] * pz + matrix[1, 3]) / z
        if x < 0.5 or y < 0.5 or x > width - 0.5 or y > height - 0.5:
            continue
        # Visible: not behind the farthest of the four depth samples around.
        column, row = int(x * ratio - 0.5), int(y * ratio - 0.5)
        column1, row1 = min(column + 1, fine_width - 1), min(row + 1, fine_height - 1)
        farthest = max(depth[row, column], depth[row, column1], depth[row1, column], depth[row1, column1])
        if z > farthest + tolerance:
            continue
        s, t = x - 0.5, y - 0.5
        s0, t0 = min(int(s), width - 2), min(int(t), height - 2)
        fs, ft = s - s0, t - t0
        confidence = 0.0
        for k in range(4):
            weight = (fs if k & 1 else 1.0 - fs) * (ft if k >> 1 else 1.0 - ft)
            confidence += weight * trust[t0 + (k >> 1), s0 + (k & 1)]
        if confidence <= 0.0:
            continue
        smooth = scale * confidence * cosine ** powers[0]
        sharp = scale * confidence * cosine ** powers[1]
        for k in range(4):
            weight = (fs if k & 1 else 1.0 - fs) * (ft if k >> 1 else 1.0 - ft)
            for c in range(3):
                color = bands[t0 + (k >> 1), s0 + (k & 1), c]
                low = bands[t0 + (k >> 1), s0 + (k & 1), c + 3]
                out[i, c] += smooth * weight * low
                out[i, c + 3] += sharp * weight * (color - low)
        out[i, 6] += smooth
        out[i, 7] += sharp


@dataclass
class Gathered:
    """Sums over the views: (P, 8) float32 low band, high band, their weights."""

    sums: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Gathered":
        return cls(np.zeros((count, 8), dtype=np.float32))

    def colors(self) -> np.ndarray:
        """(P, 3) float32; black where no view sees the texel."""
        low, high = self.sums[:, 6:7], self.sums[:, 7:8]
        return self.sums[:, :3] / np.maximum(low, 1e-20) + self.sums[:, 3:6] / np.maximum(high, 1e-20)

    def seen(self) -> np.ndarray:
        """(P,) float32: sum of the smooth weights; 0 where no view sees the texel."""
        return self.sums[:, 6]


def gather(
    gathered: Gathered,
    texels: Texels,
    source: Source,
    cameras: Cameras,
    view: int,
    scale: float,
    extent: float,
) -> None:
    """Add one view, with its weights multiplied by `scale`; view 0 is the front view."""
    matrix = np.ascontiguousarray(
        cameras.intrinsics[view] @ cameras.camera_from_world[view][:3], dtype=np.float32
    )
    centre = cameras.centres[view].astype(np.float32)
    assert source.depth.shape[1] == DEPTH_OVERSAMPLING * source.trust.shape[1]
    powers = np.array(FRONT_POWERS if view == 0 else POWERS, dtype=np.float32)
    for_bands(
        lambda start, stop: _project(
            texels.positions, texels.normals, matrix, centre, source.bands, source.trust, source.depth,
            np.float32(2e-3 * extent), np.float32(scale), powers, start, stop, gathered.sums,
        ),
        len(texels),
    )  # fmt: skip
