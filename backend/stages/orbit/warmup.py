"""Compiles this stage's kernels on a tiny shape."""

import numpy as np

from backend.pipeline.options import OrbitOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from backend.stages.orbit.inflate import InflateOrbit


def warm_up() -> None:
    """Run the embedded engine on a disc of 64 pixels."""
    y, x = np.mgrid[:64, :64] + 0.5
    alpha = (np.hypot(x - 32, y - 32) < 24).astype(np.float32)
    picture = Picture(np.dstack([np.full((64, 64, 3), 0.5, np.float32), alpha]))
    engine = InflateOrbit()
    engine.generate(picture, OrbitOptions(views=4, size=64), StageContext("orbit", engine, "inflate"))
