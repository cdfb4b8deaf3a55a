"""The daemon's loop: one thread, one poller, all sockets. It answers while a worker computes or crashes.

    clients  <- wire.py ->  answers.py, outgoing.py  <- dispatch.py, pool.py (pipes) ->  workers
                                   |
             store.py (jobs, events, results), artifact store (content by hash)

It never imports torch, numba or an engine, so no computation can hold it up.
"""

import contextlib
import os
import secrets
import signal
import threading
import time
from typing import Any

import zmq

from backend import __version__
from backend.daemon.answers import ANSWERS, Answers
from backend.daemon.auth import Sessions, new_token
from backend.daemon.config import DaemonConfig
from backend.daemon.core import Core
from backend.daemon.curve import AllowList
from backend.daemon.dispatch import Dispatch
from backend.daemon.joblog import JobLogs
from backend.daemon.lock import StateLock
from backend.daemon.log import open_log
from backend.daemon.metrics import Metrics, MetricsServer
from backend.daemon.notify import Notifier
from backend.daemon.outgoing import Outgoing
from backend.daemon.pool import Pool
from backend.daemon.previews import Previews
from backend.daemon.same_host import SameHostProof
from backend.daemon.status import disk_free, memory_bytes, table_of_engines, versions
from backend.daemon.store import JobStore
from backend.daemon.transfers import Transfers
from backend.daemon.wire import Peer, Wire
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.failures import without_paths
from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.endpoint import Endpoint, process_alive, remove_endpoint, write_endpoint
from shared_protocol.errors import (
    InternalError,
    MalformedMessage,
    NotReachable,
    OrreryError,
    ProtocolMismatch,
    Unsupported,
)

POLL_MILLISECONDS = 200
BLOCKED_MILLISECONDS = 50
"""Pause before more is sent to a client whose queue is full."""
TICK_SECONDS = 1.0
STOP_SECONDS = 5.0
"""For the workers to end by themselves when the daemon stops."""
BATCH = 64
"""Messages taken in a row before transfers and workers have their turn."""


class Daemon:
    """One daemon. `run()` returns when it was asked to stop."""

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        self.boot = secrets.token_hex(8)
        self._lock = StateLock(config.state)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            log = open_log(config.state / "daemon.log")
            store = JobStore(config.state / "jobs.sqlite3")
            undo.callback(store.close)
            store.recover(time.time())
            artifacts = ArtifactStore()
            self._context: zmq.Context[Any] = zmq.Context(1)
            undo.callback(self._context.destroy, 0)
            allowed = AllowList(config.state)
            wire = Wire(self._context, config, allowed)
            metrics, previews = Metrics(), Previews()
            job_logs = JobLogs(config.state / "logs")
            self._metrics_server = _serve_metrics(config.metrics_port, metrics)
            pool = Pool(self._context, config.worker, config.state, config.devices())
            self._core = core = Core(
                config, self.boot, time.monotonic(), log, store, artifacts,
                Transfers(artifacts, config.state / "uploads", config.limits),
                Sessions(new_token(), allowed), wire, pool,
                Dispatch(
                    store, pool, log=log, job_logs=job_logs, previews=previews, metrics=metrics,
                    recipes=dict(config.recipes), engines=table_of_engines(),
                    stall_seconds=config.stall_seconds,
                ),
                job_logs, previews, SameHostProof(artifacts.root, self.boot), metrics,
            )  # fmt: skip
            self.endpoint = Endpoint(wire.address, core.sessions.token, os.getpid(), self.boot, __version__)
            self.connection_file = write_endpoint(self.endpoint, config.state)
            undo.pop_all()
        self._poller = zmq.Poller()
        wire.register(self._poller)
        self._poller.register(pool.socket, zmq.POLLIN)
        self._outgoing = Outgoing(core)
        self._answers = Answers(core, self._outgoing)
        wire.on_gone = self._forget
        self._notifier = Notifier()
        self._busy = False
        self._active = time.monotonic()
        self._next_tick = self._next_clean = self._next_sign = 0.0
        self._parent_is_ours = config.parent == os.getppid()

    # ---- the loop

    def run(self) -> None:
        """Serve until a signal, `shutdown`, the end of the parent, or idleness."""
        self._listen_to_signals()
        self._core.log.info("listening", extra={"address": self.endpoint.address, "boot": self.boot})
        self._notifier.tell("READY=1")
        try:
            while not self._core.stopping:
                self._turn()
            self._wind_down()
        except Exception:
            self._core.log.exception("the daemon failed")
            raise
        finally:
            self._close()

    def stop(self) -> None:
        """Take no new work, and leave the loop when the workers have ended."""
        self._core.stopping = True

    def _turn(self) -> None:
        core = self._core
        wait = 0 if self._busy else BLOCKED_MILLISECONDS if core.wire.blocked else POLL_MILLISECONDS
        self._poller.poll(wait)
        core.wire.flush()
        for peer, parts in core.wire.receive(BATCH):
            self._handle(peer, parts)
        core.dispatch.hear_workers()
        core.dispatch.feed_workers()
        self._busy = self._outgoing.send()
        if time.monotonic() >= self._next_tick:
            self._tick()

    def _tick(self) -> None:
        core, now = self._core, time.monotonic()
        self._next_tick = now + TICK_SECONDS
        core.transfers.park(now)
        core.sessions.drop_idle(now)
        self._give_sign_of_life(now)
        if self._metrics_server is not None:
            self._publish_metrics()
        if now >= self._next_clean:
            self._next_clean = now + 3600.0
            versions()  # read once, here, so that `status` is quick
            for job in core.store.forget_old(time.time()):
                core.artifacts.unpin(job)
                core.job_logs.forget(job)
            core.transfers.forget_old_uploads(time.time())
        if self.config.parent and not self._parent_alive():
            core.log.info("the parent process ended")
            self.stop()
        if core.pool.jobs or len(self._outgoing) or len(core.transfers):
            self._active = now
        idle = now - max(self._active, core.sessions.last_seen())
        if self.config.idle_exit and idle > self.config.idle_exit and not core.store.counts()[m.QUEUED]:
            core.log.info("idle")
            self.stop()

    def _give_sign_of_life(self, now: float) -> None:
        """To systemd, unless a worker hangs in a way that only a new start of everything cures."""
        if not self._notifier.interval or now < self._next_sign:
            return
        if any(worker.undying for worker in self._core.pool.workers):
            self._core.log.error("a worker cannot be killed")
            return
        self._next_sign = now + self._notifier.interval - TICK_SECONDS
        self._notifier.tell("WATCHDOG=1")

    def _publish_metrics(self) -> None:
        core = self._core
        gauges = {
            "memory_bytes": memory_bytes(), "uptime_seconds": time.monotonic() - core.started,
            "sessions": len(core.sessions), "transfers": len(core.transfers),
            "subscriptions": len(self._outgoing), "workers_busy": len(core.pool.jobs),
            "queue_paused": float(core.store.paused), "disk_free_bytes": disk_free(core.artifacts.root),
        }  # fmt: skip
        core.metrics.publish(gauges, core.store.counts())

    def _parent_alive(self) -> bool:
        # A dead parent that nobody has reaped still has its id; but then we have another parent.
        if self._parent_is_ours and os.getppid() != self.config.parent:
            return False
        return process_alive(self.config.parent)

    def _wind_down(self) -> None:
        """Answer on, taking no new work, until the workers have ended."""
        self._core.log.info("stopping")
        self._notifier.tell("STOPPING=1")
        remove_endpoint(self.config.state, self.boot)
        self._core.dispatch.begin_stop()
        until = time.monotonic() + STOP_SECONDS
        while not self._core.dispatch.stopped and time.monotonic() < until:
            self._turn()

    def _close(self) -> None:
        core = self._core
        remove_endpoint(self.config.state, self.boot)
        core.dispatch.begin_stop()
        core.dispatch.end_stop()
        core.transfers.close()
        core.proof.close()
        core.store.close()
        core.pool.close()
        core.wire.close()
        self._notifier.close()
        if self._metrics_server is not None:
            self._metrics_server.close()
        self._context.term()
        self._lock.release()

    def _listen_to_signals(self) -> None:
        def on_signal(number: int, frame: object) -> None:
            if self._core.stopping:
                os._exit(1)  # asked twice: leave at once, the store is safe
            self.stop()

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_signal)
            signal.signal(signal.SIGTERM, on_signal)

    # ---- messages from clients

    def _handle(self, peer: Peer, parts: list[bytes]) -> None:
        core = self._core
        core.metrics.counters["messages"] += 1
        start, request, kind, buffer = time.perf_counter(), 0, "malformed", None
        try:
            envelope = frames.decode(parts)
            request, kind = envelope.request, envelope.message.type
            answer = ANSWERS.get(type(envelope.message))
            if answer is None:
                raise Unsupported(f"'{kind}' is not a request")
            if not isinstance(envelope.message, m.Hello):
                core.sessions.find(peer, time.monotonic())
            reply = answer(self._answers, peer, request, envelope.message, envelope.buffer)
            if isinstance(reply, tuple):
                reply, buffer = reply
        except OrreryError as error:
            core.metrics.counters["refused"] += 1
            if isinstance(error, MalformedMessage | Unsupported | ProtocolMismatch):
                request = error.details.pop("request", request)
                if parts and bytes(parts[0][:4]) != frames.MAGIC:
                    return  # not one of ours: no answer that it could read
            reply = m.ErrorReply(m.Failure.of(without_paths(error)))
        except Exception:  # logged; the daemon outlives a bug in one answer
            core.metrics.counters["internal_errors"] += 1
            core.log.exception("a request failed")
            reply = m.ErrorReply(
                m.Failure.of(InternalError("something unforeseen happened", remedy="See daemon.log."))
            )
        if reply is not None:
            core.wire.reply(peer, reply, request, buffer)
        core.metrics.observe("request", kind, time.perf_counter() - start)

    def _forget(self, peer: Peer) -> None:
        self._core.sessions.drop(peer)
        self._core.transfers.drop(peer)
        self._outgoing.forget(peer)


def _serve_metrics(port: int, metrics: Metrics) -> MetricsServer | None:
    try:
        return MetricsServer(port, metrics) if port else None
    except OSError as error:
        raise NotReachable(
            f"port {port} cannot be used for metrics ({error.strerror})", remedy="Choose another one."
        ) from error
