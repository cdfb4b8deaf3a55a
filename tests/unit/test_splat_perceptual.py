"""The perceptual term of the fit: where it looks, what it does to a picture, when it is on."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from backend.geometry.perceptual import PerceptualNet
from backend.geometry.perceptual_term import CROP, EVERY, FIRST_SHARE, PerceptualTerm
from backend.pipeline import runner
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.engines import availability, find_engine
from backend.pipeline.options import SplatsOptions, override, preset
from backend.pipeline.recipes import SPLATS
from backend.pipeline.values import Views
from backend.stages.splats import run
from backend.stages.splats.cpu import CpuSplats
from backend.stages.splats.perceptual import WEIGHT
from backend.weights import stlpips, store
from shared_protocol.errors import InvalidInput, WeightsError
from tests.support.torch_perceptual import random_weights

TINY = SplatsOptions(gaussians=200, steps=6, size=64)


@pytest.fixture(scope="module")
def net():
    return PerceptualNet.of(random_weights())


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "none"))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A catalogue whose stlpips file is written here, with random numbers."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in random_weights().items()}
    path = tmp_path / "weights" / "stlpips" / "net.pth"
    path.parent.mkdir(parents=True)
    torch.save(tensors, path)
    data = path.read_bytes()
    catalogue = tmp_path / "catalog.toml"
    catalogue.write_text(
        f'[stlpips]\nsummary = "s"\nlicence = "l"\n[[stlpips.files]]\nname = "net.pth"\nsize = {len(data)}\n'
        f'sha256 = "{hashlib.sha256(data).hexdigest()}"\nsources = []\n'
    )
    monkeypatch.setattr(store, "CATALOG_PATH", catalogue)
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "weights"))
    return path


def ball() -> Views:
    from backend.geometry.cameras import ring

    y, x = np.mgrid[0:64, 0:64].astype(np.float32) + 0.5 - 32
    rgba = np.full((4, 64, 64, 4), 0.5, dtype=np.float32)
    rgba[..., 0] = np.sin(x / 3) / 2 + 0.5
    rgba[..., 3] = np.clip(20.5 - np.hypot(x, y), 0, 1)
    return Views(rgba, ring(4, radius=2.0, elevation_degrees=10, fov_degrees=40, size=64))


def fit(options):
    result = runner.run_recipe((SPLATS,), {"views": ball()}, {"splats": options}, store=ArtifactStore())
    return result.reports[0], result.artifacts["splats"], result.values["splats"]


# ---- the term


def test_it_begins_late_and_rests_every_second_step(net):
    term = PerceptualTerm(net, 0)
    wanted = [step for step in range(100) if term.wanted(step, step / 100)]
    assert wanted == list(range(round(100 * FIRST_SHARE), 100, EVERY))


def test_the_gradient_lies_in_one_crop_and_is_that_of_the_crop(net):
    random = np.random.default_rng(0)
    image, target = random.random((2, 3, 150, 200), dtype=np.float32)
    value, gradient = PerceptualTerm(net, 0)(image, target, 4)
    rows, columns = (np.flatnonzero(np.abs(gradient).max(axis=axes)) for axes in ((0, 2), (0, 1)))
    window = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    assert gradient[window].shape == (3, CROP, CROP)
    expected, slope = net.distance_and_gradient(image[window], net.features(target[window]))
    assert value == expected
    assert np.array_equal(gradient[window], np.float32(EVERY) * slope)


def test_crops_move_from_step_to_step_and_return_with_the_seed(net):
    random = np.random.default_rng(0)
    image, target = random.random((2, 3, 150, 200), dtype=np.float32)

    def corner(seed, step):
        _, gradient = PerceptualTerm(net, seed)(image, target, step)
        return tuple(np.argwhere(gradient.any(axis=0))[0])

    assert corner(0, 0) == corner(0, 0)
    assert len({corner(0, step) for step in range(4)} | {corner(1, 0)}) > 2


def test_small_pictures_are_seen_whole_and_tiny_ones_not_at_all(net):
    random = np.random.default_rng(0)
    image, target = random.random((2, 3, 40, 200), dtype=np.float32)
    assert PerceptualTerm(net, 0)(image, target, 0)[0] > 0
    value, gradient = PerceptualTerm(net, 0)(image[:, :20], target[:, :20], 0)
    assert value == 0 and not gradient.any()


def test_descending_along_the_gradient_lowers_the_distance(net):
    random = np.random.default_rng(0)
    target = random.random((3, 65, 65), dtype=np.float32)
    image = np.full_like(target, 0.5)
    term, values = PerceptualTerm(net, 0), []
    for _ in range(8):
        value, gradient = term(image, target, 0)
        values.append(value)
        image = image - gradient / np.linalg.norm(gradient)
    assert values[-1] < 0.7 * values[0]


# ---- when it is on


def test_it_is_on_where_the_weights_are_and_off_where_they_are_not(weights, monkeypatch):
    assert run.settle(TINY, CpuSplats()) == (replace(TINY, perceptual=WEIGHT), [])
    assert run.settle(TINY, object()) == (replace(TINY, perceptual=0.0), [])
    assert run.settle(replace(TINY, perceptual=0.0), CpuSplats())[0].perceptual == 0
    weights.unlink()
    assert run.settle(TINY, CpuSplats()) == (replace(TINY, perceptual=0.0), [])


def test_asked_for_without_its_weights_it_is_a_warning_with_the_remedy(no_weights):
    report, _, _ = fit(replace(TINY, perceptual=0.5))
    assert "models pull stlpips" in report.warnings[0]
    assert report.facts["perceptual_weight"] == 0


def test_results_with_and_without_the_weights_have_different_keys(weights):
    with_weights, first, splats = fit(TINY)
    assert with_weights.facts["perceptual_weight"] == WEIGHT
    assert fit(TINY)[0].reused
    weights.rename(weights.with_name("away"))
    without, second, others = fit(TINY)
    assert without.facts["perceptual_weight"] == 0
    assert without.warnings == []
    assert first.key != second.key
    assert not np.array_equal(splats.positions, others.positions)


def test_the_same_seed_gives_the_same_splats(weights, tmp_path, monkeypatch):
    _, _, first = fit(TINY)
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path / "another"))
    report, _, second = fit(TINY)
    assert not report.reused
    for name in ("positions", "scales", "rotations", "opacities", "harmonics"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_a_file_that_differs_from_the_catalogue_is_refused(weights):
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(WeightsError, match="differs from the catalogue"):
        stlpips.load()


def test_the_table_of_engines_says_what_the_weights_would_add(weights):
    entry = find_engine("splats", "cpu")
    assert (availability(entry).ready, availability(entry).reason) == (True, "")
    weights.unlink()
    state = availability(entry)
    assert state.ready
    assert "stlpips" in state.reason and "models pull stlpips" in state.remedy


@pytest.mark.parametrize(("text", "value"), [("auto", None), ("0.3", 0.3), ("0", 0.0)])
def test_the_option_is_a_weight_or_auto(text, value):
    assert override(preset("draft"), {"splats.perceptual": text})["splats"].perceptual == value


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    from backend.pipeline.stage import StageContext

    with pytest.raises(InvalidInput, match="perceptual"):
        run.run(
            views=ball(),
            options=replace(TINY, perceptual=weight),
            context=StageContext("splats", CpuSplats(), "cpu"),
        )
