"""How the papers measure, one frozen value each: cameras, what is judged, how shapes are compared.

Everything is in the frame of the normalised truth: its box's longest side 1, centred at the origin, seen
from -Y by the input view. Where a paper leaves something open, `chosen` says what we took.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared_protocol.errors import InvalidInput

if TYPE_CHECKING:  # the command line lists the protocols without loading numpy
    import numpy as np

    from backend.geometry.cameras import Cameras

TASKS = ("image", "views")
"""image: one picture -> 3D (`generate`). views: posed pictures -> 3D (`reconstruct`)."""
PLACEMENTS = ("camera", "box", "icp")
"""See `placing`."""


@dataclass(frozen=True)
class Rig:
    """A ring of cameras around the truth; view 0 is the input view.

    elevation  degrees, or the range in which each object gets its own, drawn from the seed and its name
    distance   from the object's centre, its longest side being 1
    fov        degrees, horizontal
    size       pixels, square
    """

    views: int
    elevation: float | tuple[float, float]
    distance: float
    fov: float
    size: int

    def elevation_of(self, generator: "np.random.Generator") -> float:
        """Degrees, for one object."""
        if isinstance(self.elevation, tuple):
            return round(float(generator.uniform(*self.elevation)), 2)
        return self.elevation

    def cameras(self, directions: list[tuple[float, float]], size: int) -> "Cameras":
        """Cameras at these (azimuth, elevation) in degrees."""
        import numpy as np

        from backend.geometry.cameras import Cameras, pinhole_intrinsics
        from shared_protocol.conventions import look_at, ring_position

        poses = [look_at(ring_position(*direction, self.distance)) for direction in directions]
        intrinsics = np.repeat(pinhole_intrinsics(self.fov, size, size)[None], len(poses), axis=0)
        return Cameras(np.array(poses).reshape(-1, 4, 4), intrinsics, size, size)

    def ring(self, elevation: float, turn: float = 0.0) -> list[tuple[float, float]]:
        """Azimuth and elevation of the ring's views, `turn` degrees further around."""
        return [(turn + 360.0 * i / self.views, elevation) for i in range(self.views)]


@dataclass(frozen=True)
class ShapeRules:
    """How two meshes are compared.

    points      "area": `samples` points of each surface, uniform by area, and the IoU on `cells`^3 points
                of the cube around both; "visible": SyncDreamer's points of 16 depth maps, one for each cell
                of 0.01, and its IoU on mesh2sdf's 64^3 points of the cube -1..1
    thresholds  of the F-score; none where the paper gives none
    Chamfer is the mean of both directional mean distances, un-squared, halved.
    """

    points: str
    samples: int = 0
    cells: int = 0
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """One paper's measurement.

    source        paper and section
    rig           cameras of the input and of the ring
    extra         further judged directions off the ring, (azimuth, elevation)
    with_input    whether the input view counts among the judged ones (task "image")
    frames        whether the paper judges the generated frames themselves
    shape         None where the paper measures no shapes of objects
    lit           fixed lights on the truth (plain shapes need them); the colours alone otherwise
    states        what the paper says, in short
    chosen        what it leaves open, and what we took
    """

    name: str
    source: str
    rig: Rig
    shape: ShapeRules | None
    states: str
    chosen: str
    extra: tuple[tuple[float, float], ...] = ()
    with_input: bool = False
    frames: bool = True
    lit: bool = False

    def judged(self, task: str, elevation: float) -> list[tuple[float, float]]:
        """Azimuth and elevation of the judged views.

        From one picture: the ring's, with or without the input view. From views, which were the ring: views
        half a step between them, at most eight evenly spread.
        """
        if task == "views":
            between = self.rig.ring(elevation, 180.0 / self.rig.views)
            step = max(1, len(between) // (4 if self.extra else 8))
            return [*between[::step], *self.extra]
        ring = self.rig.ring(elevation)
        return [*ring[0 if self.with_input else 1 :], *self.extra]


_SYNC_LENS = 2 * math.degrees(math.atan(128 / 280))
"""Degrees: 35 mm on a 32 mm sensor, 280 pixels for 256."""

PROTOCOLS = (
    Protocol(
        "orrery",
        "this project's own, docs/evaluation.md",
        Rig(16, 15.0, 2.0, 40.0, 512),
        ShapeRules("area", 100_000, 128, (0.005, 0.01, 0.02)),
        "16 azimuths at elevation 15, distance 2, fov 40, 512 px, lit; held-out views between them and off "
        "it (elevations 35, 35, 55, -10); 100,000 area samples; F-score at .005, .01, .02; IoU on 128^3",
        "nothing is open",
        extra=((146.0, 35.0), (-34.0, 35.0), (-140.0, 55.0), (30.0, -10.0)),
        lit=True,
    ),
    Protocol(
        "syncdreamer",
        "SyncDreamer (Liu 2024), section 4.1; its eval_mesh.py and eval_nvs.py",
        Rig(16, 30.0, 1.5, _SYNC_LENS, 256),
        ShapeRules("visible"),
        "16 views at elevation 30, distance 1.5, 35 mm on 32 mm, 256 px, over white, the input view counted; "
        "Chamfer of visible points thinned at .01; IoU of mesh2sdf signs on 64^3 of the cube -1..1; no "
        "alignment",
        "colours without lights (theirs: an even environment); the result placed by the input camera, which "
        "their model has by construction",
        with_input=True,
    ),
    Protocol(
        "hi3d",
        "Hi3D (Yang 2024), sections 5.1 to 5.3: 'following SyncDreamer, EpiDiff, Wonder3D'",
        Rig(16, 30.0, 1.5, _SYNC_LENS, 512),
        ShapeRules("visible"),
        "GSO; PSNR, SSIM, LPIPS of 16 novel views; Chamfer and volume IoU of one-view reconstructions",
        "elevation 30 and the shape script of SyncDreamer; 512 px, its first stage's size (its pictures are "
        "1024 px); the input view not counted; the result placed by the input camera",
    ),
    Protocol(
        "v3d",
        "V3D (Chen 2024), section 4.1, table 2; cameras of its training data",
        Rig(18, 0.0, 2.0, 60.0, 512),
        None,
        "GSO; PSNR, SSIM, LPIPS of dense views; 18 views at elevation 0, distance 2, object of unit length, "
        "512 px; no shape figures for objects",
        "fov 60 (its released code); the input view not counted; over white",
    ),
    Protocol(
        "gsv3d",
        "GSV3D, section 4.1, table 1",
        Rig(21, (-5.0, 30.0), 2.0, 33.8, 512),
        ShapeRules("area", 4_096, 64, (0.01, 0.02, 0.05)),
        "GSO; 21 views at one elevation drawn from -5..30 for each object, the first is the input, the "
        "others are judged on renderings of the 3D result; 4,096 points; Chamfer, IoU, F-score",
        "longest side 1; distance 2 and fov 33.8 (SV3D's lens); Chamfer halved and un-squared; F-score at "
        ".01, .02, .05; IoU on 64^3; the result placed by the input camera. Its text states none of these",
        frames=False,
    ),
)  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """The protocol of this name; InvalidInput lists the names there are."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    names = ", ".join(protocol.name for protocol in PROTOCOLS)
    raise InvalidInput(f"no protocol is called '{name}'", f"one of {names}")
