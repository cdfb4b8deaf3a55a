"""Cuts the object out of a posed view that has no alpha, keeping the picture's frame."""

import numpy as np

from backend.pipeline.engines import find_engine, load_engine
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from backend.stages.matting.run import choose


def cut_out(picture: Picture) -> Picture:
    """The same picture with the object's alpha, by the engine that `generate` would choose."""
    name = choose(picture)
    engine = load_engine(find_engine("matting", name))
    alpha, _ = engine.cut(picture, StageContext("matting", engine, name))
    return Picture(np.dstack([picture.rgba[..., :3], np.asarray(alpha, dtype=np.float32)]))
