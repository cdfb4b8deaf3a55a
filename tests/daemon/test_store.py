"""The job store by itself: its state machine under every order of events, and what it keeps."""

import shutil
import sqlite3
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from backend.daemon.database import MIGRATIONS
from backend.daemon.store import KEEP_SECONDS, MAX_CRASHES, MAX_INTERRUPTIONS, JobStore
from shared_protocol import messages as m
from shared_protocol.errors import (
    AccessDenied,
    Conflict,
    DiskFull,
    InvalidInput,
    LimitExceeded,
    UnknownJob,
    Unsupported,
)

SHA = "ab" * 32
QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder in memory, where a sync costs nothing."""


def _submission(job=None, **fields):
    return m.Submit(job or uuid.uuid4().hex, "fake", (m.InputFile("a.png", SHA, 3),), **fields)


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs.sqlite3")
    yield store
    store.close()


def _add(store, now=1.0, client="cli", **fields):
    return store.submit(_submission(**fields), client, 6, now, 1000)[0].job


def test_submitting_again_gives_the_same_record_and_other_content_is_a_conflict(store):
    message = _submission(seed=3)
    first, created = store.submit(message, "cli", 6, 1.0, 1000)
    again, created_again = store.submit(message, "cli", 6, 2.0, 1000)
    assert (created, created_again) == (True, False)
    assert again == first
    with pytest.raises(Conflict):
        store.submit(_submission(job=message.job, seed=4), "cli", 6, 3.0, 1000)
    assert store.counts()[m.QUEUED] == 1


def test_jobs_are_claimed_in_the_order_they_came(store):
    jobs = [_add(store, now=10.0 - n) for n in range(3)]
    assert [store.get(job).position for job in jobs] == [0, 1, 2]
    assert [store.claim(20.0).job for _ in jobs] == jobs
    assert store.claim(20.0) is None


def test_a_client_may_not_fill_the_queue(store):
    for _ in range(2):
        store.submit(_submission(), "greedy", 6, 1.0, 2)
    with pytest.raises(LimitExceeded, match="2 jobs are waiting"):
        store.submit(_submission(), "greedy", 6, 1.0, 2)
    store.submit(_submission(), "other", 6, 1.0, 2)


def test_a_second_crash_of_the_worker_fails_the_job_with_the_stage_named(store):
    job = _add(store)
    for _ in range(MAX_CRASHES):
        assert store.claim(2.0).job == job
        store.stage_event(m.Event(job, 0, "started", m.RUNNING, 2.0, "surface", 4, 7))
        record = store.interrupted(job, 3.0, crashed=True, words="the worker was killed (SIGSEGV)")
    assert record.state == m.FAILED
    assert record.error.code == "worker_crashed"
    assert "SIGSEGV" in record.error.found
    assert "surface" in record.error.found
    assert record.attempts == MAX_CRASHES


def test_deaths_of_the_daemon_are_forgiven_as_long_as_stages_get_finished(store):
    job = _add(store)
    for n in range(3 * MAX_INTERRUPTIONS):
        assert store.claim(2.0).job == job
        if n % (MAX_INTERRUPTIONS // 2) == 0:
            store.stage_event(m.Event(job, 0, "finished", m.RUNNING, 2.0, f"stage {n}", n, 99))
        store.recover(3.0)
    assert store.get(job).state == m.QUEUED
    for _ in range(MAX_INTERRUPTIONS):
        store.claim(2.0)
        store.recover(3.0)
    assert store.get(job).state == m.FAILED


def test_a_stage_that_is_finished_again_is_no_progress(store):
    """Its result was lost: a job that crashes after it would else be tried for ever."""
    job = _add(store)
    for _ in range(MAX_CRASHES + 1):
        store.claim(2.0)
        store.stage_event(m.Event(job, 0, "finished", m.RUNNING, 2.0, "matting", 0, 7))
        record = store.interrupted(job, 3.0, crashed=True, words="gone")
    assert record.state == m.FAILED


def test_a_crash_after_a_cancel_is_a_cancel(store):
    job = _add(store)
    store.claim(2.0)
    store.cancel(job, 3.0)
    assert store.interrupted(job, 4.0, crashed=True, words="gone").state == m.CANCELLED


def test_everything_is_there_after_opening_the_file_again(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    store = JobStore(path)
    done, waiting = _add(store), _add(store, options={"texture.size": 512}, label="a rocket")
    store.claim(2.0)
    store.stage_event(m.Event(done, 0, "reused", m.RUNNING, 2.0, "one", 0, 6, seconds=1.5))
    store.finish(done, m.SUCCEEDED, 3.0, results=[m.ResultFile("mesh.glb", 12, SHA)])
    before = [store.get(job) for job in (done, waiting)], store.events(done, 0, 100)
    store.close()
    store = JobStore(path)
    assert ([store.get(job) for job in (done, waiting)], store.events(done, 0, 100)) == before
    assert store.results(done, 0, 10) == ([m.ResultFile("mesh.glb", 12, SHA)], 1)
    assert store.result_size(SHA) == 12
    assert before[0][0].reused == ("one",)
    store.close()


def test_unknown_names_are_unknown_and_never_done(store):
    for ask in (store.get, lambda job: store.cancel(job, 1.0), lambda job: store.results(job, 0, 10)):
        with pytest.raises(UnknownJob):
            ask("0" * 32)
    with pytest.raises(UnknownJob):
        store.result_size("0" * 64)


def test_old_jobs_are_forgotten_with_their_events_and_results(store, tmp_path):
    old, waiting = _add(store), _add(store)
    store.claim(2.0)
    store.finish(old, m.SUCCEEDED, 3.0, results=[m.ResultFile("mesh.glb", 12, SHA)])
    assert store.forget_old(3.0 + KEEP_SECONDS) == []
    assert store.forget_old(4.0 + KEEP_SECONDS) == [old]
    assert not store.knows(old)
    assert store.knows(waiting)
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM results").fetchone()[0] == 0
        assert database.execute("SELECT count(*) FROM events WHERE job = ?", (old,)).fetchone()[0] == 0
    database.close()


def test_the_oldest_results_go_when_there_are_too_many(store):
    jobs = [_add(store) for _ in range(4)]
    for number, job in enumerate(jobs):
        store.claim(2.0)
        results = [m.ResultFile("mesh.glb", 100, SHA)] if number else []
        store.finish(job, m.SUCCEEDED, 3.0 + number, results=results)
    assert store.forget_old(10.0, quota_bytes=250) == [jobs[1]]
    assert [store.knows(job) for job in jobs] == [True, False, True, True]


def test_pages_cover_all_jobs_once_the_newest_first(store):
    jobs = [_add(store) for _ in range(7)]
    pages, before = [], 0
    while True:
        records, before = store.page((), 3, before)
        pages.append([record.job for record in records])
        if not before:
            break
    assert pages == [jobs[:3:-1], jobs[3:0:-1], jobs[:1]]
    store.claim(2.0)
    assert [record.job for record in store.page((m.RUNNING,), 10, 0)[0]] == jobs[:1]


def _claimed(store):
    """Clients of all waiting jobs in the order they are begun."""
    jobs = []
    while (submit := store.claim(20.0)) is not None:
        jobs.append(store.get(submit.job))
        store.finish(submit.job, m.SUCCEEDED, 21.0)
    return [job.client for job in jobs], [job.job for job in jobs]


def test_clients_take_turns_however_many_jobs_one_of_them_has(store):
    for _ in range(50):
        _add(store, client="greedy")
    for number in range(49):
        _add(store, client=f"client {number}")
    order = _claimed(store)[0]
    assert sorted(order[:50]) == sorted({"greedy", *(f"client {n}" for n in range(49))})
    assert order[50:] == ["greedy"] * 49


def test_a_client_that_comes_later_waits_for_one_job_of_the_other_at_most(store):
    for _ in range(5):
        _add(store, client="first")
    store.claim(2.0)
    late = _add(store, client="late")
    assert store.get(late).position == 0


def test_priority_orders_the_jobs_of_one_client_and_no_others(store):
    low, normal = _add(store, priority=-5), _add(store)
    high, other = _add(store, priority=7), _add(store, client="other")
    assert _claimed(store)[1] == [high, other, normal, low]


def test_a_job_is_moved_to_any_place_of_its_clients_queue(store):
    jobs = [_add(store) for _ in range(4)]
    assert store.move(jobs[3], 0).position == 0
    assert store.move(jobs[3], 99).position == 3
    for _ in range(80):  # halving the gap between two places comes to its end
        store.move(jobs[1], 1)
        store.move(jobs[2], 1)
    assert store.move(jobs[0], 1).position == 1
    assert _claimed(store)[1] == [jobs[2], jobs[0], jobs[1], jobs[3]]
    with pytest.raises(InvalidInput, match="is succeeded"):
        store.move(jobs[0], 0)


def test_a_paused_queue_begins_nothing_not_even_after_a_restart(tmp_path):
    store = JobStore(tmp_path / "jobs.sqlite3")
    job = _add(store)
    store.pause(True)
    store.close()
    store = JobStore(tmp_path / "jobs.sqlite3")
    assert (store.paused, store.claim(2.0)) == (True, None)
    store.pause(False)
    assert store.claim(2.0).job == job
    store.close()


def test_a_store_of_the_first_version_is_taken_over_with_its_queue(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    database = sqlite3.connect(path)
    database.executescript(f"BEGIN; {MIGRATIONS[0]}; PRAGMA user_version = 1; COMMIT;")
    for number in range(3):
        database.execute(
            "INSERT INTO jobs (id, client, state, recipe, quality, seed, options, inputs, label, content,"
            " created) VALUES (?, 'cli', 'queued', 'fake', 'draft', 0, '{}', '[]', '', '', 1)",
            (f"{number:032x}",),
        )
    database.commit()
    database.close()
    store = JobStore(path)
    new = _add(store)
    assert _claimed(store)[1] == [f"{n:032x}" for n in range(3)] + [new]
    store.close()


class Orders(RuleBasedStateMachine):
    """Any order of submissions, claims, progress, moves, pauses, cancels, crashes, reopenings and ends,
    against a plain model."""

    jobs = Bundle("jobs")

    @initialize()
    def open(self):
        self.folder = tempfile.TemporaryDirectory(dir=QUICK)
        self.store = JobStore(Path(self.folder.name) / "jobs.sqlite3")
        self.paused = False
        self.submissions = {}
        self.states = {}
        self.cancelling = set()
        self.events = {}

    def teardown(self):
        self.store.close()
        self.folder.cleanup()

    @rule(target=jobs, client=st.sampled_from("abc"), priority=st.integers(-2, 2))
    def submit(self, client, priority):
        message = _submission(priority=priority)
        self.store.submit(message, client, 6, 1.0, 1000)
        self.submissions[message.job], self.states[message.job] = message, m.QUEUED
        return message.job

    @rule(job=jobs)
    def submit_again(self, job):
        record, created = self.store.submit(self.submissions[job], "a", 6, 1.0, 1000)
        assert (record.state, created) == (self.states[job], False)

    @rule()
    def claim(self):
        waiting = [] if self.paused else self._queue()
        claimed = self.store.claim(2.0)
        assert (claimed and claimed.job) == (waiting[0].job if waiting else None)
        if claimed:
            # A moved job has its new neighbour's priority.
            assert replace(claimed, priority=0) == replace(self.submissions[claimed.job], priority=0)
            self.states[claimed.job] = m.RUNNING

    def _queue(self):
        """Waiting jobs by their position: every position is taken once."""
        records = [self.store.get(job) for job, state in self.states.items() if state == m.QUEUED]
        records.sort(key=lambda record: record.position)
        assert [record.position for record in records] == list(range(len(records)))
        return records

    @rule(job=jobs, position=st.integers(0, 4))
    def move(self, job, position):
        if self.states[job] != m.QUEUED:
            return
        client = self.store.get(job).client
        before = [r.job for r in self._queue() if r.client == client and r.job != job]
        self.store.move(job, position)
        before.insert(position, job)
        assert [r.job for r in self._queue() if r.client == client] == before

    @rule(paused=st.booleans())
    def pause(self, paused):
        self.store.pause(paused)
        self.paused = paused

    @rule()
    def reopen(self):
        """The daemon was killed: a copy of its files as they are is opened, and what ran goes on."""
        copy = tempfile.TemporaryDirectory(dir=QUICK)
        for path in Path(self.folder.name).iterdir():
            shutil.copy(path, copy.name)
        self.store.close()
        self.folder.cleanup()
        self.folder = copy
        self.store = JobStore(Path(copy.name) / "jobs.sqlite3")
        self.store.recover(7.0)
        for job, state in self.states.items():
            if state == m.RUNNING:
                self.states[job] = self.store.get(job).state
                wanted = (m.CANCELLED,) if job in self.cancelling else (m.QUEUED, m.FAILED)
                assert self.states[job] in wanted

    @rule(job=jobs, kind=st.sampled_from(["started", "finished", "reused"]))
    def progress(self, job, kind):
        self.store.stage_event(m.Event(job, 0, kind, m.RUNNING, 3.0, "three", 2, 6))

    @rule(job=jobs)
    def cancel(self, job):
        record = self.store.cancel(job, 4.0)
        if self.states[job] == m.QUEUED:
            self.states[job] = m.CANCELLED
        elif self.states[job] == m.RUNNING:
            self.cancelling.add(job)
        assert record.state == self.states[job]

    @rule(job=jobs, state=st.sampled_from(m.TERMINAL))
    def finish(self, job, state):
        ended = self.states[job] in m.TERMINAL
        assert self.store.finish(job, state, 5.0) is not ended
        if not ended:
            self.states[job] = state

    @rule(job=jobs, crashed=st.booleans())
    def interrupt(self, job, crashed):
        record = self.store.interrupted(job, 6.0, crashed=crashed, words="gone")
        if self.states[job] != m.RUNNING:
            assert record.state == self.states[job]
        elif job in self.cancelling:
            assert record.state == m.CANCELLED
        else:
            assert record.state in (m.QUEUED, m.FAILED)
        self.states[job] = record.state

    @invariant()
    def states_and_events_agree(self):
        for job, state in self.states.items():
            record = self.store.get(job)
            assert record.state == state
            events = self.store.events(job, 0, 1000)
            assert [event.seq for event in events] == list(range(1, record.seq + 1))
            assert events[: len(self.events.get(job, []))] == self.events.get(job, [])
            self.events[job] = events
            final = [event for event in events if event.state in m.TERMINAL]
            assert final == (events[-1:] if state in m.TERMINAL else [])


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)


def test_a_full_disk_is_told_and_leaves_the_store_whole(store):
    done = _add(store)
    store._db.execute(f"PRAGMA max_page_count = {store._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(DiskFull, match="no space"):
        for _ in range(200):
            _add(store, label="x" * 500)
    before = store.counts()
    store._db.execute("PRAGMA max_page_count = 100000")
    assert store.counts() == before
    assert store.claim(2.0).job == done
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_store_that_is_none_or_of_a_newer_version_is_refused_in_words(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(AccessDenied, match="cannot be used"):
        JobStore(path)
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Unsupported, match="newer version"):
        JobStore(path)
