"""kill -9 at every named point and at random moments: nothing acknowledged is lost, nothing has two ends."""

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
import uuid

import pytest

from backend.daemon.store import JobStore
from shared_protocol import messages as m
from shared_protocol.errors import NotReachable
from tests.support.crash_points import POINTS
from tests.support.daemon import PICTURE, CuttingProxy, running_daemon, submit, wait_until
from tests.support.fake_worker import STAGES

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")

QUICK_POINTS = ("submit.committed", "stage.blob", "finish.committed")
PLAN = {"all": {"milliseconds": 10, "size": 20_000}}


class Nurse(threading.Thread):
    """Starts the daemon again whenever it has died."""

    def __init__(self, daemon):
        super().__init__()
        self.daemon_ = daemon
        self.over = threading.Event()
        self.restarts = 0
        self.start()

    def run(self):
        while not self.over.wait(0.02):
            if self.daemon_.process.poll() is not None:
                self.daemon_.process.stdout.close()
                self.daemon_.start()
                self.restarts += 1

    def end(self):
        self.over.set()
        self.join()


@contextlib.contextmanager
def nursed(daemon):
    nurse = Nurse(daemon)
    try:
        yield nurse
    finally:
        nurse.end()


def _check_histories(daemon, client, jobs):
    """One end each, numbers without a gap, all files there and whole, the database in order."""
    contents = set()
    for job in jobs:
        events = [e for e in client.events(job) if e.kind != "step"]
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        assert [e.kind for e in events if e.state in m.TERMINAL] == ["succeeded"]
        assert events[-1].kind == "succeeded"
        files = client.manifest(job)
        assert [len(client.read(file)) for file in files] == [file.size for file in files]
        contents.add(tuple((file.name, file.sha256) for file in files))
    database = sqlite3.connect(daemon.state / "jobs.sqlite3")
    assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert database.execute("SELECT count(*) FROM jobs").fetchone()[0] == len(jobs)
    database.close()
    return contents


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of the plan when nobody disturbs it, by seed."""
    with running_daemon(tmp_path_factory.mktemp("undisturbed")) as daemon, daemon.client() as client:
        found = {}
        for seed in (1, 2):
            job = submit(client, PLAN, seed=seed)
            client.wait(job)
            found[seed] = {file.name: file.sha256 for file in client.manifest(job)}
        return found


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p in QUICK_POINTS else pytest.mark.slow) for p in POINTS]
)
@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_at_a_named_point_the_jobs_end_as_if_nothing_had_happened(tmp_path, undisturbed, point, count):
    marker = tmp_path / "crashed"
    environment = {"ORRERY_CRASH": f"{point}:{count}", "ORRERY_CRASHED": str(marker)}
    with running_daemon(tmp_path, environment) as daemon, nursed(daemon), daemon.client() as client:
        ids = {seed: uuid.uuid4().hex for seed in (1, 2)}
        for seed, job in ids.items():
            submit(client, PLAN, seed=seed, job=job)
        for seed, job in ids.items():
            client.wait(job)
            assert {file.name: file.sha256 for file in client.manifest(job)} == undisturbed[seed]
            assert client.job(job).attempts <= 2
        _check_histories(daemon, client, ids.values())
        assert marker.exists() or count > 1  # some points are passed less often than that
        # At most the stage that was interrupted ran again.
        assert len(daemon.runs()) <= 2 * len(STAGES) + 1


def _random_kills(daemon, client, kills, seed):
    """Jobs come all the while; daemon or worker is killed at random moments."""
    generator = random.Random(seed)
    jobs = []
    with nursed(daemon) as nurse:
        for number in range(kills):
            jobs.append(submit(client, PLAN, seed=number, job=uuid.uuid4().hex))
            time.sleep(generator.random() * 0.4)
            if generator.random() < 0.6:
                daemon.process.kill()
                wait_until(lambda n=nurse.restarts: nurse.restarts > n)
            else:
                with contextlib.suppress(ProcessLookupError, NotReachable):
                    pid = client.status().workers[0].pid
                    if pid:
                        os.kill(pid, signal.SIGKILL)
        for job in jobs:
            wait_until(lambda job=job: client.job(job).state in m.TERMINAL, 60)
    failed = [client.job(job) for job in jobs if client.job(job).state != m.SUCCEEDED]
    # Two kills of the worker in one job are a job that kills workers, as far as anybody can tell.
    assert [r for r in failed if r.error.code != "worker_crashed" or r.attempts < 2] == []
    done = [job for job in jobs if client.job(job).state == m.SUCCEEDED]
    assert len(done) >= len(jobs) * 0.7
    assert len(client.jobs(limit=1000)) == len(jobs)
    for job in done:
        assert [len(client.read(f)) for f in client.manifest(job)] == [f.size for f in client.manifest(job)]
    for job in jobs:
        events = [e for e in client.events(job) if e.kind != "step"]
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        assert sum(e.state in m.TERMINAL for e in events) == 1


def test_random_kills_of_daemon_and_worker_lose_nothing(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        _random_kills(daemon, client, 6, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_random_kills_lose_nothing(tmp_path):
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        _random_kills(daemon, client, 100, seed=6)


def _submits_through_a_bad_line(tmp_path, count):
    """Each submission is repeated until its acknowledgement gets through a line that is cut at random."""
    generator = random.Random(4)
    with running_daemon(tmp_path) as daemon:
        proxy = CuttingProxy(daemon.endpoint.address)
        try:
            with daemon.client() as client:
                client.upload(PICTURE[1])
                client.pause()  # the line is the matter here, not the jobs
            endpoint = type(daemon.endpoint)(proxy.address, daemon.endpoint.token)
            jobs = [uuid.uuid4().hex for _ in range(count)]
            with daemon.client(endpoint=endpoint) as far:
                for number, job in enumerate(jobs):
                    proxy.cut_next = generator.random() < 0.3
                    far.submit([PICTURE], recipe="fake", label="{}", seed=number, job=job)
            with daemon.client() as client:
                assert sorted(r.job for r in client.jobs(limit=2 * count)) == sorted(jobs)
                client.resume()
                for job in jobs[-3:]:
                    assert client.wait(job).attempts == 1
            assert proxy.cuts > count / 10
        finally:
            proxy.close()


def test_submissions_whose_acknowledgement_is_lost_make_one_job_each(tmp_path):
    _submits_through_a_bad_line(tmp_path, 40)


@pytest.mark.slow
def test_a_thousand_submissions_whose_acknowledgement_is_lost_make_one_job_each(tmp_path):
    _submits_through_a_bad_line(tmp_path, 1000)


def _fill(state, count):
    state.mkdir(parents=True, mode=0o700)
    store = JobStore(state / "jobs.sqlite3")
    store.submit(m.Submit("f" * 32, "fake", (m.InputFile("a.png", "ab" * 32, 3),)), "cli", 6, 1.0, count)
    columns = "state, recipe, quality, seed, options, inputs, label, content, created, stages"
    with store._db.transaction(durable=False):
        for number in range(1, count):
            store._db.execute(
                f"INSERT INTO jobs (id, client, seq, {columns}) SELECT ?, ?, 1, {columns} FROM jobs LIMIT 1",
                (f"{number:032x}", f"client {number % 20}"),
            )
        store._db.execute(
            "INSERT INTO events SELECT jobs.id, 1, event FROM jobs, events WHERE jobs.id != events.job"
        )
    store.close()


def test_it_is_ready_within_two_seconds_with_ten_thousand_jobs_in_its_store(tmp_path):
    _fill(tmp_path / "state", 10_000)
    with running_daemon(tmp_path) as daemon, daemon.client() as client:
        client.pause()
        assert client.hello()
        ready = daemon.processor_seconds()
        assert ready < 2.0  # what else this machine does is not counted
        assert sum(client.status().counts.values()) == 10_000
        assert len(client.jobs(limit=50)) == 50
        assert daemon.processor_seconds() - ready < 1.0
