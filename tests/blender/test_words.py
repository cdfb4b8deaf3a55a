"""What the panel says: how long it takes, which button mends what. No Blender is needed for these."""

import pytest

from blender_addon import estimate, fixes
from blender_addon.jobs import Job, State
from shared_protocol.errors import (
    EngineUnavailable,
    InternalError,
    InvalidInput,
    NotReachable,
    OutOfMemory,
    ProtocolMismatch,
    Unauthorized,
    WeightsError,
)


def finished(**seconds):
    return Job("a", "duck", 0, {"quality": "draft"}, state=State.IMPORTED, stage_seconds=seconds)


def test_a_stage_takes_what_it_took_in_the_median_of_the_newest_five_jobs():
    jobs = [finished(splats=value) for value in (1000, 1000, 10, 20, 30, 40, 50)]
    assert estimate.stage_seconds(jobs, "draft", "image_to_3d")["splats"] == 30
    assert estimate.stage_seconds(jobs, "high", "image_to_3d") == estimate.USUAL["high"]


def test_a_stage_that_was_taken_from_the_store_teaches_nothing():
    jobs = [finished(splats=30), finished(splats=0)]
    assert estimate.stage_seconds(jobs, "draft", "image_to_3d")["splats"] == 30


def test_sides_need_no_orbit():
    assert "orbit" not in estimate.stage_seconds([], "draft", "sides_to_3d")


def test_the_time_left_counts_the_rest_of_the_stage_and_the_stages_to_come():
    before = [finished(matting=1, orbit=5, refine=1, splats=40, surface=10, texture=20, export=5)]
    job = Job("b", "duck", 0, {"quality": "draft"}, state=State.RUNNING, stage="splats", stage_began=100.0)
    assert estimate.left(job, before, now=110.0) == pytest.approx(30 + 10 + 20 + 5)
    job.done, job.total = 1, 2  # half of it in 10 s: faster than before
    assert 10 + 35 <= estimate.left(job, before, now=110.0) <= 30 + 35
    job.reused = ("texture",)
    assert estimate.left(job, before, now=110.0) <= 30 + 15
    job.reused = ("splats", "surface", "texture", "export")
    job.done = job.total = 0
    assert estimate.left(job, before, now=110.0) == 0
    job.state = State.QUEUED
    assert estimate.left(job, before, now=110.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "about 10 s"), (44, "about 40 s"), (100, "about 2 min"), (600, "about 10 min")]
)
def test_seconds_in_words(seconds, words):
    assert estimate.words(seconds) == words


@pytest.mark.parametrize(
    ("error", "labels"),
    [
        (NotReachable("no backend is running"), ["Start Backend"]),
        (NotReachable("no Python with the backend was found"), ["Install Backend", "Orrery's Preferences"]),
        (NotReachable("the backend ended with code 1: x", log="/a"), ["Start Backend", "Open Log"]),
        (Unauthorized("the backend is on another machine and Blender is offline"), ["Allow Online Access"]),
        (ProtocolMismatch("this add-on speaks 1.1, the backend 2.0"), ["Update Backend"]),
        (EngineUnavailable("x", remedy="Run: python -m backend models pull u2netp"), ["Pull Weights"]),
        (EngineUnavailable("x", remedy='Run: pip install "orrery[models]"'), ["Install Torch"]),
        (
            WeightsError("the repository is gated", remedy="Accept at https://hub/x and set a token."),
            ["Set Token", "Open Page"],
        ),
    ],
)
def test_each_error_has_the_button_that_mends_it(error, labels):
    assert [fix.label for fix in fixes.of_error(error)] == labels


def test_a_job_that_ran_out_of_memory_is_offered_as_a_draft():
    fix = fixes.of_error(OutOfMemory("8 GiB were needed"), "abc", True)[-1]
    assert (fix.label, fix.properties) == ("Retry as Draft", {"job": "abc", "quality": "draft"})


def test_an_error_of_the_picture_itself_offers_to_change_it():
    (fix,) = fixes.of_error(InvalidInput("one.png is 1 x 1 pixels"), "abc", True)
    assert (fix.label, fix.operator) == ("Change and Retry", "orrery.retry_with_changes")


def test_our_own_mistake_in_a_job_opens_that_jobs_log():
    fix = fixes.of_error(InternalError("something unforeseen happened"), "abc")[0]
    assert (fix.label, fix.properties) == ("Open Log", {"job": "abc"})


def test_the_names_of_the_weights_are_taken_from_the_remedy():
    (fix,) = fixes.of_remedy("Run: python -m backend models pull u2netp stlpips")
    assert fix.properties == {"names": "u2netp stlpips"}
