"""Between the queue and the workers: gives them jobs, and takes in what they say of them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from backend.daemon.joblog import JobLogs
from backend.daemon.metrics import Metrics
from backend.daemon.pool import Pool
from backend.daemon.previews import Previews
from backend.daemon.reuse import chains
from backend.daemon.store import JobStore
from backend.daemon.supervisor import Ended, Supervisor, describe_exit
from backend.pipeline.engines import ENGINES
from shared_protocol import messages as m
from shared_protocol import worker_link
from shared_protocol.errors import DiskFull, OrreryError, WorkerCrashed
from shared_protocol.worker_link import Devices, Done, Failed, PreviewMade, Ready, Run, RunProgress

FAILED_STARTS = 3
"""After so many failed starts of every worker in a row the waiting jobs fail instead of waiting for ever."""
RETRY_SECONDS = 1.0
"""While the disk is full: pause before storing what a worker said is tried again."""
STEPS_OF_SILENCE = 10


class Dispatch:
    """The jobs in hand and the news of them. Used by the daemon's thread.

    engines  what can run here, ready or why not; a worker knows better than the daemon's own table
    steps    the newest step of each running job, which is not stored
    devices  what workers said of their GPUs
    """

    def __init__(
        self,
        store: JobStore,
        pool: Pool,
        *,
        log: logging.Logger,
        job_logs: JobLogs,
        previews: Previews,
        metrics: Metrics,
        recipes: dict[str, tuple[str, ...]],
        engines: tuple[m.EngineState, ...],
        stall_seconds: float,
    ) -> None:
        self._store = store
        self._pool = pool
        self._log = log
        self._job_logs = job_logs
        self._previews = previews
        self._metrics = metrics
        self._recipes = recipes
        self._stall_seconds = stall_seconds
        self._news: list[tuple[Supervisor | None, worker_link.Message | Ended]] = []
        self._retry_at = 0.0
        self._stopping = False
        self._submits: dict[str, m.Submit] = {}
        self.engines = engines
        self.steps: dict[str, m.Event] = {}
        self.devices: dict[str, m.DeviceState] = {}

    def feed_workers(self) -> None:
        """Start workers where there are none; give jobs to idle ones."""
        for worker in self._pool.workers:
            worker.tick()
            if not worker.running and not self._stopping:
                worker.ensure_started()
        if self._news or self._stopping:
            return
        for worker in self._pool.workers:
            if worker.idle and not self._begin(worker):
                return
        if all(worker.failed_starts >= FAILED_STARTS for worker in self._pool.workers):
            self._fail_next()

    def hear_workers(self) -> None:
        """Take in what the workers said; while the disk is full it is kept until it can be stored."""
        self._news += self._pool.received()
        if time.monotonic() < self._retry_at:
            return
        while self._news:
            try:
                self._take_in(*self._news[0], time.time())
            except DiskFull as error:
                self._log.error("%s", error)
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return
            del self._news[0]

    def cancel(self, job: str) -> None:
        """Ask the worker that runs this job, if one does, to stop it."""
        worker = self._pool.running(job)
        if worker is not None:
            worker.cancel(job)

    def begin_stop(self) -> None:
        """Ask the workers to end; their jobs go back to the queue."""
        self._stopping = True
        for worker in self._pool.workers:
            worker.ask_to_end()

    @property
    def stopped(self) -> bool:
        """All workers have ended."""
        return self._pool.ended

    def end_stop(self) -> None:
        """Kill the workers that are left, and put down what was running as interrupted."""
        for worker in self._pool.workers:
            worker.kill()
        until = time.monotonic() + 1.0
        while not self._pool.ended and time.monotonic() < until:
            self._pool.socket.poll(50)
            self.hear_workers()
        for job in list(self._submits):
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

    # ---- jobs to workers

    def _begin(self, worker: Supervisor) -> bool:
        submit, crashes = self._claim()
        if submit is None:
            return False
        self._submits[submit.job] = submit
        self._log.info("running", extra={"job": submit.job, "client": self._store.get(submit.job).client})
        self._job_logs.note(submit.job, "running")
        worker.silence_allowed = self._stall_seconds
        worker.run(Run(submit, str(self._job_logs.path(submit.job)), low_memory=crashes > 0))
        return True

    def _claim(self) -> tuple[m.Submit | None, int]:
        try:
            submit = self._store.claim(time.time())
        except DiskFull:
            return None, 0  # the jobs wait; a full disk is no reason to fail them
        return submit, self._store.crashes(submit.job) if submit else 0

    def _fail_next(self) -> None:
        submit, _ = self._claim()
        if submit is None:
            return
        self._log.error("the worker does not start: %s", self._pool.workers[0].log_tail())
        error = WorkerCrashed(
            "the worker process does not start",
            remedy="The backend's worker.log has the details; python -m backend doctor may know more.",
        )
        failed = Failed(submit.job, m.Failure.of(error))
        self._news.append((None, worker_link.Message(failed)))

    def _silence_allowed(self, job: str, stage: str) -> float:
        """Seconds without a word in this stage after which a worker is taken to hang."""
        submit = self._submits.get(job)
        chosen = submit.options.get(f"{stage}.engine", "auto") if submit else "auto"
        steps = [e.step_seconds for e in ENGINES if e.stage == stage and chosen in ("auto", e.name)]
        return max(self._stall_seconds, STEPS_OF_SILENCE * max(steps, default=0.0))

    # ---- news of workers

    def _take_in(self, worker: Supervisor | None, said: worker_link.Message | Ended, now: float) -> None:
        if isinstance(said, Ended):
            self._worker_ended(said, now)
            return
        record = said.record
        if isinstance(record, Ready):
            self.engines = record.engines
        elif isinstance(record, RunProgress):
            self._progress(worker, record, now)
        elif isinstance(record, PreviewMade):
            if record.job in self._submits:
                self._previews.put(record.job, record.name, record.media_type, said.buffer)
        elif isinstance(record, Devices):
            self.devices |= {device.name: device for device in record.devices}
        elif isinstance(record, Done):
            self._finish(record.job, m.SUCCEEDED, now, results=record.results)
        elif isinstance(record, Failed):
            cancelled = record.failure.code == "cancelled"
            if cancelled and self._stopping:
                return  # it took the end of its pipe as a cancel; the user wants the job to go on
            error = None if cancelled else record.failure
            self._finish(record.job, m.CANCELLED if cancelled else m.FAILED, now, error=error)

    def _progress(self, worker: Supervisor | None, record: RunProgress, now: float) -> None:
        event = m.Event(
            record.job, 0, record.kind, m.RUNNING, now, record.stage, record.index, record.stages,
            record.done, record.total, record.text, record.seconds,
        )  # fmt: skip
        if record.kind == "step":
            self.steps[record.job] = replace(event, seq=self._store.get(record.job).seq)
            return
        self.steps.pop(record.job, None)
        self._store.stage_event(event)
        if worker is not None and record.kind == "started":
            worker.silence_allowed = self._silence_allowed(record.job, record.stage)
        if record.kind == "finished":
            self._metrics.observe("stage", record.stage, record.seconds)
        if record.key:
            self._remember(record, now)
        self._job_logs.note(record.job, record.kind, stage=record.stage, seconds=round(record.seconds, 3))

    def _remember(self, record: RunProgress, now: float) -> None:
        submit = self._submits.get(record.job)
        stages: Sequence[str] = self._recipes.get(submit.recipe, ()) if submit else ()
        if submit is not None and record.stage in stages:
            self._store.remember_stage(chains(submit, stages)[record.stage], record.key, now)

    def _finish(
        self,
        job: str,
        state: str,
        now: float,
        *,
        error: m.Failure | None = None,
        results: tuple[m.ResultFile, ...] = (),
    ) -> None:
        self._store.finish(job, state, now, error, results)
        self._metrics.counters[f"jobs_{state}"] += 1
        self._log.info(state, extra={"job": job})
        self._job_logs.note(job, state, error=error.error().code if error else "", found=_found(error))
        self._let_go(job)

    def _worker_ended(self, ended: Ended, now: float) -> None:
        words = describe_exit(ended.code)
        if ended.silent:
            words = f"the worker hung: it said nothing for {ended.silent:.0f} s and was ended"
        self._log.warning(words, extra={"job": ended.job})
        self._metrics.counters["workers_ended"] += 1
        if ended.job and not self._stopping:
            record = self._store.interrupted(ended.job, now, crashed=True, words=words)
            self._job_logs.note(ended.job, words, state=record.state)
            self._let_go(ended.job)

    def _let_go(self, job: str) -> None:
        self.steps.pop(job, None)
        self._submits.pop(job, None)
        self._previews.drop(job)


def _found(error: m.Failure | None) -> str:
    known: OrreryError | None = error.error() if error else None
    return known.found if known else ""
