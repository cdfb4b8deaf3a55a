"""Cancel, at any moment: acknowledged at once, over soon, nothing left behind, the next job runs."""

import itertools
import random
import signal
import time

import pytest

from shared_protocol import messages as m
from tests.support.daemon import submit, wait_until
from tests.support.fake_worker import STAGES

ACKNOWLEDGED, OVER = 0.1, 1.0
"""Seconds, as promised; a machine that does other things besides gets some more."""
SLACK = 0.4

DAEMON = {"grace": 0.3}


def _ends(client, job):
    return [event.kind for event in client.events(job) if event.state in m.TERMINAL]


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_is_cancelled_in_every_stage_and_the_next_one_runs(client, stage):
    job = submit(client, {stage: {"milliseconds": 30_000}}, seed=100 + STAGES.index(stage))
    wait_until(lambda: client.job(job).stage == stage)
    start = time.monotonic()
    client.cancel(job)
    acknowledged = time.monotonic() - start
    assert _ends(client, job) == ["cancelled"]
    assert acknowledged < ACKNOWLEDGED + SLACK
    assert time.monotonic() - start < OVER + SLACK
    assert client.wait(submit(client, seed=1)).state == "succeeded"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
def test_a_call_that_never_returns_and_holds_the_interpreter_is_ended(daemon, client):
    job = submit(client, {"two": {"trouble": "stuck_in_c"}}, seed=2)
    wait_until(lambda: client.job(job).stage == "two")
    worker = daemon.worker_pid()
    client.cancel(job)
    assert _ends(client, job) == ["cancelled"]
    assert client.wait(submit(client, seed=3)).state == "succeeded"
    assert daemon.worker_pid() != worker


def test_a_cancelled_job_gives_its_memory_back(daemon, client):
    def memory():
        return client.status().workers[0].memory_bytes

    client.wait(submit(client, {"all": {"milliseconds": 20}}, seed=4))
    if not memory():
        pytest.skip("the system does not tell the memory of a process")
    before = memory()
    job = submit(client, {"two": {"milliseconds": 20_000, "trouble": "fill", "size": 2_000_000}}, seed=5)
    wait_until(lambda: memory() > before + 100_000_000)
    client.cancel(job)
    assert _ends(client, job) == ["cancelled"]
    client.wait(submit(client, seed=6))
    wait_until(lambda: memory() < before * 1.05 + 5_000_000)


def _cancel_at_random(client, count, seed):
    generator = random.Random(seed)
    jobs = []
    for number in range(count):
        job = submit(client, {"all": {"milliseconds": 10}}, seed=1000 * seed + number)
        if number == count // 2:
            client.wait(job)  # however slow the machine is, one was done before
        else:
            time.sleep(generator.random() * 0.25)
        client.cancel(job)
        jobs.append(job)
    states = []
    for job in jobs:
        kinds = [event.kind for event in client.events(job) if event.kind != "step"]
        assert sum(kind in m.TERMINAL for kind in kinds) == 1
        record = client.job(job)
        assert kinds[-1] == record.state
        assert record.state in (m.SUCCEEDED, m.CANCELLED)
        states.append(record.state)
    assert set(states) == {m.SUCCEEDED, m.CANCELLED}  # both orders of cancel and completion were met
    assert client.wait(submit(client, seed=7)).state == "succeeded"


def test_cancels_at_random_moments_leave_one_end_each(client):
    _cancel_at_random(client, 15, seed=1)


@pytest.mark.slow
def test_two_hundred_cancels_at_random_moments_leave_one_end_each(client):
    _cancel_at_random(client, 200, seed=2)


def test_a_late_cancel_never_stops_the_next_job(client):
    """The cancel of a job that has just ended reaches the worker when it runs another one."""
    jobs = [submit(client, {"one": {"milliseconds": 150}}, seed=200 + n) for n in range(4)]
    for job, following in itertools.pairwise(jobs):
        wait_until(lambda following=following: client.job(following).state != "queued")
        client.cancel(job)
    for job in jobs[1:]:
        assert client.wait(job).state == "succeeded"
