"""The worker process: takes one job at a time from the daemon, runs it, reports, can be killed any time.

    python -m backend.worker.main

stdin and stdout carry `shared_protocol.worker_link`; all else that is printed goes to stderr: the log of the
job in hand, else the worker's own. The recipe runs in a thread of its own, so that a cancel is heard during
compiled code. When stdin ends the daemon is gone, and the worker ends too: finished stages are in the
artifact store.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

from backend.pipeline.engines import EMBEDDED, all_engines, availability
from backend.pipeline.failures import as_orrery_error
from backend.pipeline.stage import Progress
from backend.worker.memory import is_sick, with_one_retry
from backend.worker.reports import Reports
from shared_protocol import worker_link
from shared_protocol.messages import DeviceState, EngineState, Failure, ResultFile, Submit
from shared_protocol.worker_link import CancelRun, Devices, Done, Failed, Ready, Record, Run

Execute = Callable[[Submit, Reports, threading.Event, bool], Sequence[ResultFile]]
"""Runs one job: (what to do, where to tell of it, set when cancelled, whether to go easy on memory) -> its
files, which lie in the artifact store."""

END_SECONDS = 1.0
"""How long a running stage has to notice that the daemon is gone."""
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def main() -> None:
    """Serve the daemon that started this process, with the real recipes; compile while no job is here yet."""
    from backend.warmup import start_warm_up
    from backend.worker.job import execute

    warm_up = start_warm_up()
    serve(partial(execute, warm_up=warm_up), at_end=warm_up.stop)


def serve(execute: Execute, at_end: Callable[[], None] = lambda: None) -> None:
    """Take jobs from stdin until it ends; never returns."""
    _die_with_the_daemon()
    commands, replies = _take_over_pipes()
    worker = _Worker(execute, replies)
    worker.say(Ready(os.getpid(), engine_states()))
    while (message := worker_link.read(commands)) is not None:
        if isinstance(message.record, Run):
            worker.start(message.record)
        elif isinstance(message.record, CancelRun):
            worker.cancel(message.record.job)
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
        self._own_log = os.dup(2)

    def say(self, record: Record, buffer: bytes = b"") -> None:
        """Tell the daemon; when it is gone nobody listens, and this process ends."""
        with self._saying:
            try:
                worker_link.write(self._replies, record, buffer)
            except OSError:
                os._exit(0)

    def start(self, order: Run) -> None:
        self._job, self._cancelled = order.submit.job, threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(order, self._cancelled), name="orrery-recipe", daemon=True
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

    def _run(self, order: Run, cancelled: threading.Event) -> None:
        self._print_to(order.log)
        try:
            end = self._outcome(order, cancelled)
        finally:
            self._print_to("")
        devices = _devices()
        if devices:
            self.say(Devices(devices))
        self.say(end)

    def _outcome(self, order: Run, cancelled: threading.Event) -> Record:
        reports, job = Reports(order.submit.job, self.say), order.submit.job
        try:
            results = with_one_retry(
                lambda low_memory: tuple(self._execute(order.submit, reports, cancelled, low_memory)),
                order.low_memory,
                lambda: reports.progress(
                    Progress("step", "", 0, 0, text="Memory ran out: trying again with less")
                ),
            )
        except BaseException as error:  # noqa: BLE001  (translated and told to the daemon)
            traceback.print_exc()
            sys.stderr.flush()
            if is_sick(error):
                os._exit(worker_link.SICK_EXIT_CODE)
            return Failed(job, Failure.of(as_orrery_error(error)))
        return Done(job, results)

    def _print_to(self, path: str) -> None:
        """What is printed from now on goes into this file, or back to the worker's own log."""
        sys.stdout.flush()
        sys.stderr.flush()
        log = self._own_log
        if path:
            with suppress(OSError):  # no log is no reason not to run
                log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.dup2(2, 1)
        if log != self._own_log:
            os.close(log)


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


def _devices() -> tuple[DeviceState, ...]:
    """Memory of the GPUs that torch has opened here; nothing is loaded to find out."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(DeviceState(torch.cuda.get_device_name(index)[:64], total, free))
    return tuple(found)


def _die_with_the_daemon() -> None:
    """Where the system can (Linux): a killed daemon takes its worker with it, whatever that computes."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)


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
