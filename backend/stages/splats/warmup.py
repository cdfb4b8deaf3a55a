"""Compiles the kernels of the splats stage, so that the first job does not wait in the middle of it."""

import numpy as np

from backend.geometry.cameras import ring
from backend.pipeline.options import SplatsOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views


def warm_up() -> None:
    """Run the stage once, two steps, on four tiny views of a ball: every kernel, with its one signature."""
    from backend.stages.splats import run
    from backend.stages.splats.cpu import CpuSplats

    y, x = np.mgrid[0:32, 0:32].astype(np.float32) + 0.5 - 16
    rgba = np.full((4, 32, 32, 4), 0.5, dtype=np.float32)
    rgba[..., 3] = np.clip(10.5 - np.hypot(x, y), 0, 1)
    depth = np.where(rgba[..., 3] >= 0.5, np.float32(1.8), np.float32(np.inf))
    cameras = ring(4, radius=2.0, elevation_degrees=10, fov_degrees=40, size=32)
    views = Views(rgba, cameras, depth=depth)
    run.run(
        views=views,
        options=SplatsOptions(gaussians=200, steps=2, size=32),
        context=StageContext("splats", CpuSplats(), "cpu"),
    )
