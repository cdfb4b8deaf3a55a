"""Between the queue and the worker: gives it jobs, and takes in what it says of them."""

import logging
import time
from dataclasses import replace

from backend.daemon.store import JobStore
from backend.daemon.supervisor import Ended, Supervisor, describe_exit
from shared_protocol import messages as m
from shared_protocol import worker_link
from shared_protocol.errors import DiskFull, WorkerCrashed
from shared_protocol.worker_link import Done, Failed, Ready, Record, RunProgress

FAILED_STARTS = 3
"""After so many failed starts of the worker in a row the waiting jobs fail instead of waiting for ever."""
RETRY_SECONDS = 1.0
"""While the disk is full: pause before storing what the worker said is tried again."""


class Dispatch:
    """The job in hand and the news of it. Used by the daemon's thread.

    engines  what can run here, ready or why not; the worker knows better than the daemon's own table
    steps    the newest step of a running job, which is not stored
    """

    def __init__(
        self,
        store: JobStore,
        supervisor: Supervisor,
        log: logging.Logger,
        engines: tuple[m.EngineState, ...],
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._log = log
        self._news: list[Record | Ended] = []
        self._retry_at = 0.0
        self._stopping = False
        self.engines = engines
        self.steps: dict[str, m.Event] = {}

    def feed_worker(self) -> None:
        """Start a worker where there is none; give it the next job when it is idle."""
        self._supervisor.tick()
        if not self._supervisor.running:
            self._supervisor.ensure_started()
        hopeless = self._supervisor.failed_starts >= FAILED_STARTS
        if self._news or not (self._supervisor.idle or hopeless):
            return
        try:
            submit = self._store.claim(time.time())
        except DiskFull:
            return  # the jobs wait; a full disk is no reason to fail them
        if submit is None:
            return
        if hopeless:
            self._log.error("the worker does not start: %s", self._supervisor.log_tail())
            error = WorkerCrashed(
                "the worker process does not start",
                remedy="The backend's worker.log has the details; python -m backend doctor may know more.",
            )
            self._news.append(Failed(submit.job, m.Failure.of(error)))
        else:
            self._log.info("running", extra={"job": submit.job})
            self._supervisor.run(submit)

    def hear_worker(self) -> None:
        """Take in what the worker said; while the disk is full it is kept until it can be stored."""
        self._news += self._supervisor.received()
        if time.monotonic() < self._retry_at:
            return
        while self._news:
            try:
                self._take_in(self._news[0], time.time())
            except DiskFull as error:
                self._log.error("%s", error)
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return
            del self._news[0]

    def stop(self, seconds: float) -> None:
        """End the worker; its job goes back to the queue."""
        job = self._supervisor.job
        self._stopping = True
        self._supervisor.stop(seconds)
        self.hear_worker()
        if job:
            try:
                self._store.interrupted(job, time.time(), crashed=False, words="the backend was stopped")
            except DiskFull:
                return  # found running at the next start, with the same outcome

    def with_step(self, record: m.JobRecord) -> m.JobRecord:
        """The record with the newest step."""
        step = self.steps.get(record.job)
        if record.state != m.RUNNING or step is None:
            return record
        return replace(record, done=step.done, total=step.total, text=step.text)

    # ---- inside

    def _take_in(self, record: Record | Ended, now: float) -> None:
        if isinstance(record, Ready):
            self.engines = record.engines
        elif isinstance(record, RunProgress):
            self._progress(record, now)
        elif isinstance(record, Done):
            self._finish(record.job, m.SUCCEEDED, now, results=record.results)
        elif isinstance(record, Failed):
            cancelled = record.failure.code == "cancelled"
            if cancelled and self._stopping:
                return  # it took the end of its pipe as a cancel; the user wants the job to go on
            error = None if cancelled else record.failure
            self._finish(record.job, m.CANCELLED if cancelled else m.FAILED, now, error=error)
        elif isinstance(record, Ended):
            self._worker_ended(record, now)

    def _progress(self, record: worker_link.RunProgress, now: float) -> None:
        event = m.Event(
            record.job, 0, record.kind, m.RUNNING, now, record.stage, record.index, record.stages,
            record.done, record.total, record.text, record.seconds,
        )  # fmt: skip
        if record.kind == "step":
            self.steps[record.job] = replace(event, seq=self._store.get(record.job).seq)
        else:
            self.steps.pop(record.job, None)
            self._store.stage_event(event)

    def _finish(
        self,
        job: str,
        state: str,
        now: float,
        *,
        error: m.Failure | None = None,
        results: tuple[m.ResultFile, ...] = (),
    ) -> None:
        self.steps.pop(job, None)
        self._store.finish(job, state, now, error, results)
        self._log.info(state, extra={"job": job})

    def _worker_ended(self, ended: Ended, now: float) -> None:
        words = describe_exit(ended.code)
        self._log.warning(words, extra={"job": ended.job})
        if ended.job and not self._stopping:
            self.steps.pop(ended.job, None)
            self._store.interrupted(ended.job, now, crashed=True, words=words)
