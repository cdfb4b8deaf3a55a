"""Presets and overrides."""

import pytest

from backend.pipeline.engines import EMBEDDED, all_engines, find_engine
from backend.pipeline.options import QUALITIES, STAGE_NAMES, override, preset
from shared_protocol.errors import InvalidInput


@pytest.mark.parametrize("quality", QUALITIES)
def test_every_preset_has_options_for_every_stage(quality):
    assert tuple(preset(quality)) == STAGE_NAMES


def test_texts_become_the_type_of_the_field():
    options = override(
        preset("standard"), {"texture.size": "2048", "orbit.elevation": "12.5", "surface.carve": "false"}
    )
    assert options["texture"].size == 2048
    assert options["orbit"].elevation == 12.5
    assert options["surface"].carve is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"textures.size": "1"}, "names no stage"),
        ({"texture.sise": "1"}, "is unknown"),
        ({"texture.size": "big"}, "does not fit"),
        ({"texture.size": 10.5}, "does not fit"),
        ({"texture.size": "63"}, "out of bounds"),
        ({"texture.size": "4097"}, "out of bounds"),
    ],
)
def test_wrong_options_are_named(changes, words):
    with pytest.raises(InvalidInput, match=words):
        override(preset("draft"), changes)


def test_an_unknown_quality_lists_the_known_ones():
    with pytest.raises(InvalidInput, match="draft, standard, high"):
        preset("ultra")


def test_every_stage_has_an_embedded_engine_in_the_table():
    assert set(EMBEDDED) == set(STAGE_NAMES)
    for stage, name in EMBEDDED.items():
        entry = find_engine(stage, name)
        assert not entry.cuda and not entry.weights


def test_an_unknown_engine_lists_the_known_ones():
    names = [entry.name for entry in all_engines() if entry.stage == "matting"]
    with pytest.raises(InvalidInput, match=", ".join(names)):
        find_engine("matting", "magic")


@pytest.mark.parametrize(
    ("text", "budgets"),
    [("0", ()), ("1", (5000,)), ("2", (5000, 1250)), ("8000,1000", (8000, 1000)), ("900", (900,))],
)
def test_coarser_copies_are_a_number_or_budgets(text, budgets):
    assert override(preset("standard"), {"surface.lods": text})["surface"].lod_budgets() == budgets


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("surface.lods", "few"),
        ("surface.lods", "-1"),
        ("surface.lods", "5000,50"),
        ("surface.lods", "1000,5000"),
        ("export.mesh_formats", "glb,fbx"),
        ("export.up", "x"),
    ],
)
def test_finishing_options_that_say_nothing_clear_are_refused_in_words(path, value):
    with pytest.raises(InvalidInput, match=r"names no|no format|no axis"):
        override(preset("standard"), {path: value})
