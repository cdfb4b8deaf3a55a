"""Reconstruction from true views against scans: bars of earlier prototypes, and never below the hull."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.shared import shared_path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import reconstruction

pytestmark = pytest.mark.quality

# Chamfer, F at .01, IoU: what an earlier prototype reached on the same views (the bar); then measured here.
BARS = {
    "drill": (0.00455, 0.934, 0.945),  # .00314 .965 .969
    "duck": (0.00793, 0.890, 0.944),  # .00389 .973 .978
    "monkey": (0.00392, 0.944, 0.864),  # .00338 .959 .957
    "banana": (0.00209, 0.980, 0.983),  # .00190 .992 .986
    "mug": (0.02927, 0.611, 0.304),  # .01903 .716 .334
    "drill_noise1": (0.00581, 0.903, 0.920),  # .00419 .955 .942
    "monkey_noise1": (0.00713, 0.863, 0.830),  # .00522 .926 .927
    "duck_noise1": (0.00867, 0.880, 0.934),  # .00790 .883 .936; prototype's F .882
}


@pytest.mark.parametrize("name", BARS)
def test_reconstruction_from_true_views_reaches_the_bar_and_beats_its_hull(name):
    folder = shared_path("data", "protocol", name)
    carved, hull = reconstruction.measure(folder, [], True), reconstruction.measure(folder, [], False)
    chamfer, f01, iou = BARS[name]
    assert carved["watertight"] and carved["faces"] <= 20_000
    assert carved["chamfer"] <= chamfer and carved["f01"] >= f01 and carved["iou"] >= iou
    assert carved["chamfer"] <= 1.01 * hull["chamfer"] and carved["iou"] >= hull["iou"] - 2e-3
    assert carved["front"] >= 0.97 and carved["worst"] >= 0.955


def test_rendered_scans_are_closer_than_their_hulls_at_the_median():
    ratios = []
    for name in ("boat_shoe", "lunch_box", "school_bell"):
        folder = shared_path("data", "renders", name)
        carved, hull = reconstruction.measure(folder, [], True), reconstruction.measure(folder, [], False)
        ratios.append(carved["chamfer"] / hull["chamfer"])
        assert carved["watertight"] and carved["worst"] >= 0.97
    assert np.median(ratios) < 0.85  # measured .77
