"""Cut-outs against five hand masks of photos (RealFusion's natural images)."""

import numpy as np
import pytest
from PIL import Image

from backend.inputs.picture import read_picture
from backend.pipeline.engines import find_engine, load_engine
from backend.pipeline.stage import StageContext
from backend.weights.store import weights_present
from tests.support.shared import shared_path

NAMES = ("bird_sparrow", "cactus_1", "colorful_teapot", "dragon_statue_1", "teddy_bear_1")


def intersections(engine_name: str) -> dict[str, float]:
    engine = load_engine(find_engine("matting", engine_name))
    result = {}
    for name in NAMES:
        folder = shared_path("data", "images", "realfusion", name)
        context = StageContext("matting", engine, engine_name)
        alpha, _ = engine.cut(read_picture(folder / "image.png"), context)
        truth = np.asarray(Image.open(folder / "mask.png").convert("L")) > 127
        ours = alpha > 0.5
        result[name] = float((ours & truth).sum() / (ours | truth).sum())
    return result


@pytest.mark.quality
def test_grabcut_on_hand_masks():
    # Measured: 0.752, 0.948, 0.961, 0.942, 0.961; mean 0.913.
    found = intersections("grabcut")
    assert np.mean(list(found.values())) > 0.89, found
    assert min(found.values()) > 0.7, found


@pytest.mark.quality
def test_rembg_on_hand_masks():
    if not weights_present("u2netp"):
        pytest.skip("the weights of u2netp are not here (python -m backend models pull u2netp)")
    # Measured: 0.963, 0.973, 0.968, 0.976, 0.972; mean 0.970.
    found = intersections("rembg")
    assert np.mean(list(found.values())) > 0.96, found
    assert min(found.values()) > 0.9, found
