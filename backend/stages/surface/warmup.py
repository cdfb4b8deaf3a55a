"""Compiles the stage's kernels, so that the first job does not wait in the middle of a stage."""

import numpy as np

from backend.geometry.cameras import ring
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views


def warm_up() -> None:
    """Run the whole stage once on eight tiny views of a ball with a chequered coat."""
    from backend.stages.surface.hull import HullSurface

    cameras = ring(8, radius=2.0, elevation_degrees=10, fov_degrees=40, size=64)
    y, x = np.mgrid[0:64, 0:64].astype(np.float32) + 0.5 - 32
    rgba = np.zeros((8, 64, 64, 4), dtype=np.float32)
    rgba[..., :3] = ((x // 4 + y // 4) % 2)[None, ..., None]
    rgba[..., 3] = np.clip(20.5 - np.hypot(x, y), 0, 1)
    one, none = np.zeros((1, 3), np.float32), np.ones(1, np.float32)
    splats = Splats(one, one, np.zeros((1, 4), np.float32), none, np.zeros((1, 1, 3), np.float32))
    engine = HullSurface()
    engine.reconstruct(
        Views(rgba, cameras),
        splats,
        SurfaceOptions(grid=32, faces=400, agreement="generated"),
        StageContext("surface", engine, "hull"),
    )
    _trace_once()


def _trace_once() -> None:
    """One ray through an empty field: the ball has too few pixels on top to be tried for a hollow."""
    from backend.geometry.field_rays import Photographs, SightLines, agreement
    from backend.stages.surface.vessel import carve_points

    point, along = np.zeros((1, 3)), np.array([[1.0, 0.0, 0.0]])
    line = SightLines(np.zeros(1, np.int64), point, along, np.zeros(1), np.zeros((1, 3), np.float32))
    pictures = Photographs(
        np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 3, 4)), point, np.full((1, 4), -1, dtype=np.int64)
    )
    agreement(np.full((3, 3, 3), -1, dtype=np.float32), pictures, line)
    one = np.zeros(1, dtype=np.float32)
    carve_points(np.zeros(1, np.int64), one, one, one, one, np.zeros(2), np.float32(0), 0, 1, one.copy())
