"""The queue as clients see it: turns, order, pause, several workers; previews, logs, reuse."""

import io
import json
import threading
import time

import pytest
from PIL import Image

from shared_protocol import messages as m
from shared_protocol.errors import InvalidInput, LimitExceeded, UnknownJob
from tests.support.daemon import PICTURE, running_daemon, submit, wait_until
from tests.support.fake_worker import STAGES


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client
        client.resume()


def _started(client, jobs):
    """Jobs in the order in which they were begun."""
    for job in jobs:
        client.wait(job)
    return sorted(jobs, key=lambda job: client.job(job).started)


def test_a_greedy_client_does_not_keep_the_others_waiting(daemon, client):
    client.pause()
    greedy = [submit(client, seed=n) for n in range(10)]
    others = []
    for number in range(5):
        with daemon.client(name=f"modest {number}") as modest:
            others.append(submit(modest, seed=100 + number))
    client.resume()
    order = _started(client, greedy + others)
    assert set(order[:6]) == {greedy[0], *others}


def test_fifty_clients_at_once_are_all_served(daemon, client):
    client.upload(PICTURE[1])
    states, lock = [], threading.Lock()

    def work(number):
        with daemon.client(name=f"client {number}", reply_seconds=30.0) as mine:
            state = mine.wait(submit(mine, seed=1000 + number)).state
            with lock:
                states.append(state)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["succeeded"] * 50


def test_the_user_orders_the_queue(client):
    client.pause()
    jobs = [submit(client, seed=10 + n) for n in range(4)]
    urgent = submit(client, seed=20, priority=5)
    assert client.job(urgent).position == 0
    assert client.move(jobs[3], 0).position == 0
    assert [client.job(job).position for job in jobs] == [2, 3, 4, 0]
    client.resume()
    assert _started(client, [*jobs, urgent]) == [jobs[3], urgent, *jobs[:3]]
    with pytest.raises(InvalidInput, match="is succeeded"):
        client.move(jobs[0], 0)
    with pytest.raises(InvalidInput, match="priority"):
        submit(client, priority=1000)


def test_a_paused_queue_begins_nothing_also_after_a_restart_and_what_runs_goes_on(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        running = submit(client, {"two": {"trouble": "gate"}})
        wait_until(lambda: client.job(running).stage == "two")
        assert client.pause().paused
        waiting = submit(client, seed=1)
        daemon.open_gate()
        assert client.wait(running).state == "succeeded"
        daemon.kill()
        daemon.start()
        assert client.status().paused
        wait_until(lambda: client.status().workers[0].state == "idle")
        time.sleep(0.1)
        assert client.job(waiting).state == "queued"
        client.resume()
        assert client.wait(waiting).state == "succeeded"


def test_several_workers_share_one_queue(tmp_path):
    with running_daemon(tmp_path, workers=3) as daemon, daemon.client() as client:
        jobs = [submit(client, {"two": {"trouble": "gate"}}, seed=n) for n in range(3)]
        wait_until(lambda: client.status().counts["running"] == 3)
        workers = client.status().workers
        assert {worker.job for worker in workers} == set(jobs)
        assert len({worker.pid for worker in workers}) == 3
        assert all(worker.device == "cpu" and worker.memory_bytes > 0 for worker in workers)
        client.cancel(jobs[1])
        wait_until(lambda: client.job(jobs[1]).state == "cancelled")
        daemon.open_gate()
        for job in (jobs[0], jobs[2]):
            assert client.wait(job).state == "succeeded"


@pytest.mark.slow
def test_more_than_a_thousand_waiting_jobs_of_one_client_are_refused(client):
    limit = client.hello().limits.queued_jobs
    assert limit == 1000
    client.pause()
    request = m.InputFile("a.png", client.upload(PICTURE[1]), len(PICTURE[1]))
    waiting = client.status().counts["queued"]
    for number in range(limit - waiting):
        client._send(m.Submit(f"{number + 2**64:032x}", "fake", (request,), label="{}"))
        client._expect(client._request, m.Submitted)
    with pytest.raises(LimitExceeded, match="1000 jobs are waiting"):
        submit(client)
    for number in range(limit - waiting):
        client._exchange(m.Cancel(f"{number + 2**64:032x}"), m.CancelReply)


def test_previews_come_while_the_job_runs_and_only_to_those_who_ask(client):
    job = submit(client, {"two": {"milliseconds": 800, "trouble": "preview"}}, seed=30)
    seen, number = [], 0
    for event in client.events(job, previews=True):
        if event.kind == "preview" and event.done > number:
            found, data = client.preview(job, event.text, number)
            if data:
                number = found.number
                picture = Image.open(io.BytesIO(data))
                seen.append((found.name, found.media_type, picture.format, picture.size))
                assert len(data) <= m.PREVIEW_BYTES
                assert client.preview(job, event.text, number)[1] == b""
    assert 2 <= len(seen) <= 4
    assert set(seen) == {("two", "image/jpeg", "JPEG", (256, 384))}
    assert client.preview(job, "two")[1] == b""  # gone with the job
    assert "preview" not in [event.kind for event in client.events(job)]
    with pytest.raises(UnknownJob):
        client.preview("0" * 32, "two")


def test_the_log_of_one_job_has_its_stages_and_what_was_printed(client):
    job = submit(client, {"three": {"trouble": "bug"}}, seed=40)
    wait_until(lambda: client.job(job).state == "failed")
    text = client.log(job).decode()
    notes = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {note["job"] for note in notes} == {job}
    assert [note["text"] for note in notes if note["text"] not in ("started", "finished")] == [
        "submitted", "running", "failed",
    ]  # fmt: skip
    assert [note["stage"] for note in notes if note["text"] == "started"] == list(STAGES[:3])
    assert "a library prints to stdout" in text
    assert "ZeroDivisionError: a bug of ours" in text
    other = submit(client, seed=41)
    client.wait(other)
    assert "ZeroDivisionError" not in client.log(other).decode()
    with pytest.raises(UnknownJob):
        client.log("0" * 32)


def test_a_submission_is_told_which_stages_are_stored_already(client):
    first = client.submit([PICTURE], recipe="fake", label="{}", seed=50)
    assert first.reused == ()
    client.wait(first.job)
    again = client._call(
        m.Submit("ab" * 16, "fake", (m.InputFile("a.png", client.upload(PICTURE[1]), len(PICTURE[1])),),
                 seed=50, label="{}"),
        m.Submitted,
    )  # fmt: skip
    assert again.reused == again.record.reused == STAGES
    client.wait(again.record.job)
    assert client.job(again.record.job).reused == STAGES
