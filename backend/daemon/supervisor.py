"""Starts, watches and kills one worker: a process that loads heavy code and may crash.

Two threads per worker only move bytes between its pipes and the daemon's loop, so that the loop can wait
on sockets alone (on Windows a poller knows nothing else). The end of the worker's pipe tells at once that
it died; silence during a job tells that it hangs.
"""

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from backend.daemon.status import memory_bytes
from shared_protocol import worker_link
from shared_protocol.errors import MalformedMessage
from shared_protocol.messages import Record, WorkerState
from shared_protocol.worker_link import CancelRun, Message, Run

GRACE_SECONDS = 5.0
"""After a cancel: this long for the worker to stop by itself, then terminate; as long again, then kill."""
BACK_OFF_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""Pause before a worker is started again that died before it was ready."""
KILLED_BY_OTHERS = (-9, -15)
"""Exit codes of SIGKILL and SIGTERM: no fault of the worker's own."""
KILLED_STARTS, KILLED_PAUSE_SECONDS = 20, 0.1
"""So many killed starts in a row are taken as no failure (beyond, memory is short or somebody means it); the
pause after each."""
MAX_LOG_BYTES = 50 * 1024 * 1024
UNDYING_SECONDS = 30.0
"""A process that is still there so long after it was killed hangs in the system, past our help."""


@dataclass(frozen=True)
class Ended:
    """The worker's process is gone.

    job   what it was running
    code  its exit code, negative for a signal
    silent  seconds of silence for which it was ended; 0: it ended by itself
    """

    job: str
    code: int
    was_ready: bool
    silent: float = 0.0


class Supervisor:
    """One worker. All methods are for the daemon's thread.

    wake         address of the socket that becomes readable when a worker said something
    command      how to start the worker; its last words go to `log`
    environment  what it is told beside the daemon's own environment
    device       what it computes on, for `status`
    """

    def __init__(
        self,
        context: "zmq.Context[Any]",
        wake: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._wake = wake
        self._command = list(command)
        self._log = log
        self._environment = dict(environment)
        self._device = device
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._received: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._to_worker: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._ready = False
        self._cancel_at = self._heard_at = self._killed_at = 0.0
        self._ticked_at = clock()
        self._terminated = False
        self.failed_starts = 0
        """Times in a row that a worker ended by itself before it was ready."""
        self._killed_starts = 0
        self._not_before = 0.0
        self.job = ""
        self.stage = ""
        self.silence_allowed = math.inf
        """Seconds without a word in a job after which the worker is ended; set with each stage."""
        self._silent = 0.0
        self.restarts = -1

    # ---- state

    @property
    def idle(self) -> bool:
        """Ready, and without a job."""
        return self._ready and not self.job

    @property
    def running(self) -> bool:
        """A process exists."""
        return self._process is not None

    @property
    def undying(self) -> bool:
        """It was killed long ago and is still there."""
        return self._killed_at > 0 and self._clock() - self._killed_at > UNDYING_SECONDS

    def state(self) -> WorkerState:
        """For `status`."""
        restarts = max(self.restarts, 0)
        if self._process is None:
            return WorkerState("stopped", restarts=restarts, device=self._device)
        if not self._ready:
            name = "starting"
        elif self._silent:
            name = "stalled"
        elif self._cancel_at:
            name = "stopping"
        else:
            name = "busy" if self.job else "idle"
        pid = self._process.pid
        return WorkerState(name, pid, self.job, self.stage, restarts, memory_bytes(pid), self._device)

    # ---- deeds

    def ensure_started(self) -> None:
        """Start the worker if there is none, unless it died at its start a moment ago."""
        if self._process is not None or self._clock() < self._not_before:
            return
        self.restarts += 1
        self._received, self._to_worker = queue.SimpleQueue(), queue.SimpleQueue()
        self._ready = self._terminated = False
        self._cancel_at = self._killed_at = self._silent = 0.0
        try:
            with self._open_log() as log:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=os.environ | self._environment,
                    **_own_group(),
                )
        except OSError:
            self._start_failed()  # no memory or no room for its log now: try again later
            return
        self._process = process
        for target, arguments in (
            (_read_records, (process, self._received, self._context, self._wake)),
            (_write_records, (process, self._to_worker)),
        ):
            threading.Thread(target=target, args=arguments, name=target.__name__, daemon=True).start()

    def run(self, order: Run) -> None:
        """Give the idle worker a job."""
        self.job, self.stage = order.submit.job, ""
        self._heard_at = self._clock()
        self._to_worker.put(order)

    def cancel(self, job: str) -> None:
        """Ask the worker to stop this job; `tick` insists."""
        if self.job == job and not self._cancel_at:
            self._cancel_at = self._clock()
            self._to_worker.put(CancelRun(job))

    def received(self) -> list[Message | Ended]:
        """What the worker said since the last call, and `Ended` when it is gone."""
        records: list[Message | Ended] = []
        while not self._received.empty():
            message = self._received.get_nowait()
            if message is None:
                records.append(self._ended())
                return records
            self._heard_at = self._clock()
            record = message.record
            if isinstance(record, worker_link.Ready):
                self._ready, self.failed_starts, self._killed_starts = True, 0, 0
            elif isinstance(record, worker_link.RunProgress):
                self.stage = record.stage
            elif isinstance(record, worker_link.Done | worker_link.Failed):
                self.job, self.stage, self._cancel_at = "", "", 0.0
            records.append(message)
        return records

    def tick(self) -> None:
        """End a worker that does not follow a cancel, or that has been silent for too long in a job."""
        now = self._clock()
        asleep, self._ticked_at = now - self._ticked_at, now
        if asleep > 2.0:  # this process was stopped or starved: the worker may have spoken meanwhile
            self._heard_at += asleep
            self._cancel_at += asleep if self._cancel_at else 0.0
        if self._process is None:
            return
        if self._cancel_at:
            self._insist(now - self._cancel_at)
        elif self.job and now - self._heard_at > self.silence_allowed:
            self._silent = self._silent or now - self._heard_at
            self._insist(now - self._heard_at - self.silence_allowed + GRACE_SECONDS)

    def _insist(self, waited: float) -> None:
        assert self._process is not None
        if waited > 2 * GRACE_SECONDS:
            self._killed_at = self._killed_at or self._clock()
            self._process.kill()
        elif waited > GRACE_SECONDS and not self._terminated:
            self._terminated = True
            self._process.terminate()

    def ask_to_end(self) -> None:
        """Close its pipe, which it takes as a cancel."""
        if self._process is not None:
            self._to_worker.put(None)

    def kill(self) -> None:
        """End it now."""
        if self._process is not None:
            self._killed_at = self._killed_at or self._clock()
            self._process.kill()

    def log_tail(self, characters: int = 600) -> str:
        """The worker's last words."""
        with contextlib.suppress(OSError), self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - characters))
            return file.read().decode("utf-8", "replace").strip()
        return ""

    # ---- inside

    def _ended(self) -> Ended:
        process, self._process = self._process, None
        assert process is not None
        self._to_worker.put(None)
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:  # it closed its pipe but lives on
            process.kill()
            code = process.wait()
        ended = Ended(self.job, code, self._ready, self._silent)
        if not self._ready and code in KILLED_BY_OTHERS and self._killed_starts < KILLED_STARTS:
            self._killed_starts += 1
            self._not_before = self._clock() + KILLED_PAUSE_SECONDS
        elif not self._ready:
            self._start_failed()
        self._ready, self.job, self.stage = False, "", ""
        self._cancel_at = self._killed_at = self._silent = 0.0
        return ended

    def _start_failed(self) -> None:
        pause = BACK_OFF_SECONDS[min(self.failed_starts, len(BACK_OFF_SECONDS) - 1)]
        self.failed_starts += 1
        self._not_before = self._clock() + pause

    def _open_log(self) -> Any:
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > MAX_LOG_BYTES:
                os.replace(self._log, self._log.with_suffix(".old.log"))
        return self._log.open("ab")


def _read_records(
    process: "subprocess.Popen[bytes]",
    received: "queue.SimpleQueue[Message | None]",
    context: "zmq.Context[Any]",
    address: str,
) -> None:
    """Thread: pipe -> queue, and a byte to wake the loop."""
    wake = context.socket(zmq.PUSH)
    try:
        wake.connect(address)
        assert process.stdout is not None
        while True:
            try:
                message = worker_link.read(process.stdout)
            except (MalformedMessage, OSError, ValueError):
                process.kill()  # a worker that speaks nonsense is as good as dead
                message = None
            received.put(message)
            with contextlib.suppress(zmq.Again):  # a full pipe: the loop has enough to wake up for
                wake.send(b"", zmq.NOBLOCK)
            if message is None:
                return
    except zmq.ContextTerminated:
        return
    finally:
        wake.close(0)


def _write_records(process: "subprocess.Popen[bytes]", outgoing: "queue.SimpleQueue[Record | None]") -> None:
    """Thread: queue -> pipe; None closes it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        while (record := outgoing.get()) is not None:
            worker_link.write(process.stdin, record)
    with contextlib.suppress(OSError):
        process.stdin.close()


def _own_group() -> dict[str, Any]:
    """Ctrl-C in the daemon's terminal is the daemon's to handle, not the worker's."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def describe_exit(code: int) -> str:
    """An exit code in words: "the worker was killed (SIGKILL; often: out of memory)"."""
    if code == worker_link.SICK_EXIT_CODE:
        return "the worker's GPU failed and needs a new process"
    if code >= 0:
        return f"the worker ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the worker was killed ({name}{'; often: out of memory' if name == 'SIGKILL' else ''})"
