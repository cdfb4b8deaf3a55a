"""What is asked of memory before an engine begins, and what is understood of its running out."""

import numpy as np
import pytest

from backend.pipeline import runner
from backend.pipeline.engines import EngineEntry
from backend.pipeline.memory import free_bytes, give_back, keep_little
from backend.pipeline.stage import Stage, StageContext
from backend.worker.memory import is_out_of_memory, is_sick, with_one_retry
from shared_protocol.errors import OutOfMemory


def test_an_engine_that_may_not_fit_takes_its_frugal_way_at_once(monkeypatch):
    entry = EngineEntry("splats", "big", "x:Y", "", memory_bytes=8 << 30)
    for free, low in ((16 << 30, False), (0, False), (4 << 30, True)):
        monkeypatch.setattr(runner, "free_bytes", lambda device, free=free: free)
        context = StageContext("splats", None, "big")
        runner._estimate_memory(entry, context)
        assert (context.low_memory, bool(context.warnings)) == (low, low)


@pytest.mark.parametrize("cuda", [True, False])
def test_an_engine_for_a_gpu_is_measured_by_the_gpu_where_there_is_one(monkeypatch, cuda):
    entry = EngineEntry("orbit", "video", "x:Y", "", memory_bytes=10 << 30, gpu_bytes=7 << 30)
    monkeypatch.setattr(runner, "cuda_present", lambda: cuda)
    monkeypatch.setattr(runner, "free_bytes", lambda device: (6 << 30) if device else (9 << 30))
    context = StageContext("orbit", None, "video")
    runner._estimate_memory(entry, context)
    assert context.low_memory
    assert ("GPU memory" in context.warnings[0]) == cuda
    assert ("7.0 GiB are usual" if cuda else "10.0 GiB are usual") in context.warnings[0]


def test_the_published_engines_tell_what_they_need():
    from backend.pipeline.engines import ENGINES
    from backend.weights.store import find_entry

    published = [entry for entry in ENGINES if entry.gpu_bytes]
    assert {entry.name for entry in published} == {"hi3d", "v3d", "sv3d_u", "sv3d_p"}
    for entry in published:
        least = min(find_entry(entry.weights[0]).memory)
        assert 0.8 * least * 10**9 < entry.gpu_bytes <= least * 10**9 and entry.memory_bytes > 8 << 30


def test_free_memory_is_told_here():
    assert free_bytes(device=False) >= 0


class OutOfMemoryError(RuntimeError):
    """As torch's, which is not at hand."""


@pytest.mark.parametrize(
    ("error", "memory", "sick"),
    [
        (MemoryError(), True, False),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("shapes do not fit"), False, False),
        (ValueError("CUDA error is only a word here"), False, False),
    ],
)
def test_errors_are_told_apart(error, memory, sick):
    assert (is_out_of_memory(error), is_sick(error)) == (memory, sick)


def test_the_second_time_it_fails_with_the_numbers(capsys):
    tries = []

    def run(low_memory):
        tries.append(low_memory)
        return np.zeros((1 << 45,), np.float64)

    with pytest.raises(OutOfMemory, match="GiB were asked for") as caught:
        with_one_retry(run, False, lambda: tries.append("retry"))
    assert tries == [False, "retry", True]
    assert caught.value.details["needed_bytes"] == 8 << 45
    with pytest.raises(OutOfMemory):
        with_one_retry(run, True, lambda: tries.append("never"))
    assert tries[-1] is True


def test_what_was_freed_can_be_given_back_anywhere():
    keep_little()
    give_back()


def test_what_no_later_stage_takes_is_let_go():
    recipe = (Stage("a", ("picture",), "x"), Stage("b", ("picture", "x"), "y"), Stage("c", ("y",), "z"))
    values = dict.fromkeys(("picture", "x", "y"))
    runner._let_go(values, recipe, 1)
    assert list(values) == ["picture", "y"]
    values["z"] = None
    runner._let_go(values, recipe, 2)
    assert list(values) == ["picture", "y", "z"]
