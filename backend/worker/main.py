"""The worker process: takes one job at a time from the daemon, runs it, reports, can be killed any time.

    python -m backend.worker.main

stdin and stdout carry `shared_protocol.worker_link`; all else that is printed goes to stderr, the worker's
log. The recipe runs in a thread of its own, so that a cancel is heard during compiled code. When stdin
ends the daemon is gone, and the worker ends too: finished stages are in the artifact store.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO

from backend.pipeline.engines import EMBEDDED, all_engines, availability
from backend.pipeline.stage import Progress
from backend.worker.failures import as_orrery_error
from shared_protocol import worker_link
from shared_protocol.messages import EngineState, Failure, ResultFile, Submit
from shared_protocol.worker_link import CancelRun, Done, Failed, Ready, Run, RunProgress

Execute = Callable[[Submit, Callable[[Progress], None], threading.Event], Sequence[ResultFile]]
"""Runs one job: (what to do, progress, set when cancelled) -> its files, which lie in the artifact store."""

STEP_SECONDS = 0.1
"""Steps of one stage are reported at most this often; its start and end always."""
END_SECONDS = 1.0
"""How long a running stage has to notice that the daemon is gone."""


def main() -> None:
    """Serve the daemon that started this process, with the real recipes; compile while no job is here yet."""
    from backend.warmup import start_warm_up
    from backend.worker.job import execute

    warm_up = start_warm_up()
    serve(partial(execute, warm_up=warm_up), at_end=warm_up.stop)


def serve(execute: Execute, at_end: Callable[[], None] = lambda: None) -> None:
    """Take jobs from stdin until it ends; never returns."""
    commands, replies = _take_over_pipes()
    worker = _Worker(execute, replies)
    worker.say(Ready(os.getpid(), engine_states()))
    while (command := worker_link.read(commands)) is not None:
        if isinstance(command, Run):
            worker.start(command.submit)
        elif isinstance(command, CancelRun):
            worker.cancel(command.job)
    at_end()
    worker.end()


class _Worker:
    """The job in hand."""

    def __init__(self, execute: Execute, replies: BinaryIO) -> None:
        self._execute = execute
        self._replies = replies
        self._saying = threading.Lock()
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self._job = ""

    def say(self, record: worker_link.Record) -> None:
        """Tell the daemon; when it is gone nobody listens, and this process ends."""
        with self._saying:
            try:
                worker_link.write(self._replies, record)
            except OSError:
                os._exit(0)

    def start(self, submit: Submit) -> None:
        self._job, self._cancelled = submit.job, threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(submit, self._cancelled), name="orrery-recipe", daemon=True
        )
        self._thread.start()

    def cancel(self, job: str) -> None:
        """Named, so that a cancel that comes late never stops the next job."""
        if job == self._job:
            self._cancelled.set()

    def end(self) -> None:
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
        os._exit(0)  # compiled code in a thread cannot be interrupted; nothing half-written is visible

    def _run(self, submit: Submit, cancelled: threading.Event) -> None:
        last_step = -STEP_SECONDS

        def report(progress: Progress) -> None:
            nonlocal last_step
            now = time.monotonic()
            if progress.kind == "step":
                if now - last_step < STEP_SECONDS:
                    return
                last_step = now
            else:
                last_step = -STEP_SECONDS  # the first step of a stage is told at once
            self.say(
                RunProgress(
                    submit.job,
                    progress.kind,
                    progress.stage,
                    progress.index,
                    progress.stages,
                    progress.done,
                    progress.total,
                    progress.text[:512],
                    progress.seconds,
                )
            )

        try:
            results = tuple(self._execute(submit, report, cancelled))
        except BaseException as error:  # noqa: BLE001  (translated and told to the daemon)
            traceback.print_exc()
            self.say(Failed(submit.job, Failure.of(as_orrery_error(error))))
        else:
            self.say(Done(submit.job, results))


def engine_states() -> tuple[EngineState, ...]:
    """Every engine, those of other installed packages too: ready, or why not."""
    states = []
    for entry in all_engines():
        state = availability(entry)
        states.append(
            EngineState(
                entry.stage,
                entry.name,
                entry.summary,
                EMBEDDED.get(entry.stage) == entry.name,
                state.ready,
                state.reason,
                state.remedy,
            )
        )
    return tuple(states)


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for the daemon; whatever a library prints goes to stderr instead."""
    sys.stdout.flush()
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return commands, replies


if __name__ == "__main__":
    main()
