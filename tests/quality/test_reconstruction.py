"""The whole of `reconstruct` against scans: never below the plain hull, and how far above it at the median.

Every comparison is with the hull of the same views in the same run, coloured by the same texture stage, so
that neither a slow machine nor a change of the texture moves a bar.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backend.evaluation.settings import Settings
from backend.pipeline.options import preset
from benchmarks.baseline import PROTOTYPES
from benchmarks.heldout import ORRERY, Case, judge_baselines, judge_product
from benchmarks.results import run_measured
from benchmarks.tables import below
from tests.support.shared import shared_path

pytestmark = [pytest.mark.quality, pytest.mark.slow, pytest.mark.timeout(900)]

CLEAN = {
    "drill": "protocol/drill",
    "duck": "protocol/duck",  # hardly any texture
    "monkey": "protocol/monkey",
    "mug": "protocol/mug",  # hollow
    "banana": "protocol/banana",  # thin
    "lunch_box": "objects/gso/lunch_box/model.obj",
    "boat_shoe": "objects/gso/boat_shoe/model.obj",  # hollow
    "hammer": "objects/gso/hammer/model.obj",  # thin
    "wooden_track": "objects/gso/wooden_track/model.obj",
    "school_bell": "objects/gso/school_bell/model.obj",  # hollow
}
NOISY = {name: f"protocol/{name}" for name in ("drill_noise1", "duck_noise1", "monkey_noise1")}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Name -> figures of the product, with those of the hulls; each object is run once."""
    folder = tmp_path_factory.mktemp("reconstruction")
    settings = Settings(ORRERY, "views", preset("standard"))

    @cache
    def row(name: str) -> dict:
        path: Path = shared_path("data", *(CLEAN | NOISY)[name].split("/"))
        case = Case.read(path, folder, settings)
        run_measured(case.folder, folder / name, [])
        figures = judge_product(case, folder / name)
        return figures | {"baselines": judge_baselines(case, folder / name, "standard", {})}

    return row


@pytest.mark.parametrize("name", CLEAN | NOISY)
def test_no_figure_is_below_the_hull(measured, name):
    row = measured(name)
    assert {other: lost for other, figures in row["baselines"].items() if (lost := below(row, figures))} == {}


@pytest.mark.parametrize("name", CLEAN | NOISY)
def test_the_mesh_is_one_an_artist_can_keep(measured, name):
    row = measured(name)
    assert row["watertight"] and row["faces"] <= 20_000 and row["charts"] <= 100


@pytest.mark.parametrize("name", [name for name in PROTOTYPES if name in CLEAN | NOISY])
def test_every_figure_is_better_than_the_best_prototypes(measured, name):
    row, bar = measured(name), PROTOTYPES[name]
    assert row["chamfer"] <= bar["chamfer"]
    assert all(row[figure] >= bar[figure] for figure in ("f_005", "f_01", "iou"))


def test_the_medians_are_well_above_those_of_the_hull(measured):
    rows = [measured(name) for name in CLEAN]
    hulls = [row["baselines"]["hull"] for row in rows]

    def medians(figure: str) -> tuple[float, float]:
        return tuple(float(np.median([row[figure] for row in group])) for group in (rows, hulls))

    chamfer, hull_chamfer = medians("chamfer")
    assert chamfer < 0.5 * hull_chamfer
    for figure, gain in (("f_01", 0.1), ("iou", 0.03), ("off_psnr", 3.0), ("mid_psnr", 0.3)):
        ours, hull = medians(figure)
        assert ours > hull + gain, figure


def test_the_memory_above_the_start_is_bounded(measured):
    used = [row["extra_mib"] for row in map(measured, CLEAN) if row["extra_mib"] is not None]
    if not used:
        pytest.skip("memory is read from /proc, which is Linux'")
    assert np.median(used) <= 400
