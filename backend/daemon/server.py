"""The daemon's loop: one thread, one poller, all sockets. It answers while a worker computes or crashes.

    clients  <- ROUTER ->  Daemon  <- pipes, supervisor.py ->  worker
                             |
             dispatch.py, store.py (jobs, events, results), artifact store (content by hash)

It never imports torch, numba or an engine, so no computation can hold it up.
"""

import contextlib
import os
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from backend import __version__
from backend.daemon.auth import Session, Sessions, new_token
from backend.daemon.config import DaemonConfig
from backend.daemon.dispatch import Dispatch
from backend.daemon.lock import StateLock
from backend.daemon.log import open_log
from backend.daemon.status import memory_bytes, table_of_engines
from backend.daemon.store import JobStore
from backend.daemon.supervisor import Supervisor
from backend.daemon.transfers import Key, Transfers
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import override, preset
from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.endpoint import Endpoint, process_alive, remove_endpoint, write_endpoint
from shared_protocol.errors import (
    InternalError,
    InvalidInput,
    LimitExceeded,
    MalformedMessage,
    NotReachable,
    OrreryError,
    ProtocolMismatch,
    ShuttingDown,
    Unsupported,
)

POLL_MILLISECONDS = 200
BLOCKED_MILLISECONDS = 5
"""Pause before more is sent to a client whose queue is full."""
TICK_SECONDS = 1.0
STOP_SECONDS = 3.0
"""For the worker to end by itself when the daemon stops."""
BATCH = 64
"""Messages taken in a row before transfers and workers have their turn."""
EVENT_BATCH = 64
MANIFEST_FILES = 128
MAX_PAGE = 50
MAX_OPTIONS_CHARACTERS = 8000
MAX_SUBSCRIPTIONS = 256
"""Of one connection."""

Handler = Callable[["Daemon", bytes, int, Any, Any], m.Message | None]


@dataclass
class _Subscription:
    """sent, head: numbers of the last stored event that went out, and of the last there was at first;
    step: the last step event that went out."""

    job: str
    sent: int
    head: int
    step: m.Event | None = None


class Daemon:
    """One daemon. `run()` returns when it was asked to stop."""

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        self.boot = secrets.token_hex(8)
        self._lock = StateLock(config.state)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            self._log = open_log(config.state / "daemon.log")
            self._store = JobStore(config.state / "jobs.sqlite3")
            undo.callback(self._store.close)
            self._store.recover(time.time())
            self._artifacts = ArtifactStore()
            self._transfers = Transfers(self._artifacts, config.state / "uploads", config.limits)
            self._context: zmq.Context[Any] = zmq.Context(1)
            undo.callback(self._context.destroy, 0)
            self._router = _listen(self._context, config)
            self._supervisor = Supervisor(self._context, config.worker, config.state / "worker.log")
            self._sessions = Sessions(new_token())
            address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
            self.endpoint = Endpoint(address, self._sessions.token, os.getpid(), self.boot, __version__)
            self.connection_file = write_endpoint(self.endpoint, config.state)
            undo.pop_all()
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._supervisor.socket, zmq.POLLIN)
        self._blocked = False
        self._dispatch = Dispatch(self._store, self._supervisor, self._log, table_of_engines())
        self._recipes = dict(config.recipes)
        self._subscriptions: dict[Key, _Subscription] = {}
        self._counters: Counter[str] = Counter()
        self._started = self._active = time.monotonic()
        self._next_tick = self._next_clean = 0.0
        self._stopping = False
        self._parent_is_ours = config.parent == os.getppid()

    # ---- the loop

    def run(self) -> None:
        """Serve until a signal, `shutdown`, the end of the parent, or idleness."""
        self._listen_to_signals()
        self._log.info("listening", extra={"address": self.endpoint.address, "boot": self.boot})
        try:
            while not self._stopping:
                self._turn()
        except Exception:
            self._log.exception("the daemon failed")
            raise
        finally:
            self._close()

    def stop(self) -> None:
        """Leave the loop at its next turn."""
        self._stopping = True

    def _turn(self) -> None:
        sendable = self._transfers.sendable()
        wait = POLL_MILLISECONDS if not sendable else BLOCKED_MILLISECONDS if self._blocked else 0
        events = dict(self._poller.poll(wait))
        self._blocked = False
        if self._router in events:
            self._receive()
        self._dispatch.hear_worker()
        self._dispatch.feed_worker()
        for key in sendable:
            self._send_chunk(key)
        for key in list(self._subscriptions):
            self._send_events(key)
        if time.monotonic() >= self._next_tick:
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self._next_tick = now + TICK_SECONDS
        self._transfers.park(now)
        self._sessions.drop_idle(now)
        if now >= self._next_clean:
            self._next_clean = now + 3600.0
            for job in self._store.forget_old(time.time()):
                self._artifacts.unpin(job)
        if self.config.parent and not self._parent_alive():
            self._log.info("the parent process ended")
            self.stop()
        if self._supervisor.job or self._subscriptions or len(self._transfers):
            self._active = now
        idle = now - max(self._active, self._sessions.last_seen())
        if self.config.idle_exit and idle > self.config.idle_exit and not self._store.counts()[m.QUEUED]:
            self._log.info("idle")
            self.stop()

    def _parent_alive(self) -> bool:
        # A dead parent that nobody has reaped still has its id; but then we have another parent.
        if self._parent_is_ours and os.getppid() != self.config.parent:
            return False
        return process_alive(self.config.parent)

    def _close(self) -> None:
        self._log.info("stopping")
        remove_endpoint(self.config.state, self.boot)
        self._dispatch.stop(STOP_SECONDS)
        self._transfers.close()
        self._store.close()
        self._supervisor.close()
        self._router.close(500)  # the last replies have half a second to go out
        self._context.term()
        self._lock.release()

    def _listen_to_signals(self) -> None:
        def on_signal(number: int, frame: object) -> None:
            if self._stopping:
                os._exit(1)  # asked twice: leave at once, the store is safe
            self.stop()

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_signal)
            signal.signal(signal.SIGTERM, on_signal)

    # ---- messages from clients

    def _receive(self) -> None:
        for _ in range(BATCH):
            try:
                identity, *parts = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._counters["messages"] += 1
            self._handle(identity, parts)

    def _handle(self, identity: bytes, parts: list[bytes]) -> None:
        request = 0
        try:
            envelope = frames.decode(parts)
            request = envelope.request
            handler = _HANDLERS.get(type(envelope.message))
            if handler is None:
                raise Unsupported(f"'{envelope.message.type}' is not a request")
            if not isinstance(envelope.message, m.Hello):
                self._sessions.find(identity, time.monotonic())
            reply = handler(self, identity, request, envelope.message, envelope.buffer)
        except OrreryError as error:
            self._counters["refused"] += 1
            if isinstance(error, MalformedMessage | Unsupported | ProtocolMismatch):
                request = error.details.pop("request", request)
                if parts and bytes(parts[0][:4]) != frames.MAGIC:
                    return  # not one of ours: no answer that it could read
            reply = m.ErrorReply(m.Failure.of(error))
        except Exception:  # noqa: BLE001  (logged; the daemon outlives a bug in one answer)
            self._counters["internal_errors"] += 1
            self._log.exception("a request failed")
            reply = m.ErrorReply(
                m.Failure.of(InternalError("something unforeseen happened", remedy="See daemon.log."))
            )
        if reply is not None:
            self._send(identity, reply, request)

    def _send(self, identity: bytes, message: m.Message, request: int, buffer: bytes | None = None) -> bool:
        """Whether it could be queued; a client that is gone is forgotten."""
        try:
            encoded = frames.encode(message, request, buffer)
        except LimitExceeded as error:
            self._log.error("an answer does not fit: %s", error)
            encoded = frames.encode(m.ErrorReply(m.Failure.of(error)), request)
        try:
            parts = [identity, *encoded]
            self._router.send_multipart(parts, zmq.NOBLOCK, copy=buffer is None)
        except zmq.Again:
            self._counters["send_blocked"] += 1
            self._blocked = True
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._forget(identity)
            return False
        return True

    def _forget(self, identity: bytes) -> None:
        self._sessions.drop(identity)
        self._transfers.drop(identity)
        for key in [key for key in self._subscriptions if key[0] == identity]:
            del self._subscriptions[key]

    # ---- answers

    def hello(self, identity: bytes, request: int, message: m.Hello, _: None) -> m.HelloReply:
        self._sessions.admit(identity, message, time.monotonic())
        return m.HelloReply(
            product="orrery",
            version=__version__,
            protocol=_PROTOCOL,
            boot=self.boot,
            limits=self.config.limits,
            engines=self._dispatch.engines,
            recipes=tuple(self._recipes),
            features=("upload", "events", "fetch"),
        )

    def ping(self, identity: bytes, request: int, message: m.Ping, _: None) -> m.Pong:
        return m.Pong(self.boot)

    def upload_start(self, identity: bytes, request: int, message: m.UploadStart, _: None) -> m.UploadReady:
        return self._transfers.upload((identity, request), message, time.monotonic())

    def upload_chunk(self, identity: bytes, request: int, message: m.UploadChunk, buffer: bytes) -> None:
        # Answered under the number of the transfer, whatever happens: that is what the client waits for.
        try:
            reply: m.Message = self._transfers.chunk(
                (identity, message.transfer), message, buffer, time.monotonic()
            )
        except OrreryError as error:
            self._counters["refused"] += 1
            reply = m.ErrorReply(m.Failure.of(error))
        self._send(identity, reply, message.transfer)

    def submit(self, identity: bytes, request: int, message: m.Submit, _: None) -> m.Submitted:
        session = self._session(identity)
        if not self._store.knows(message.job):
            self._check_submission(message)
            # Pinned before the commit: what an acknowledged job needs is never pruned.
            self._artifacts.pin(message.job, [picture.sha256 for picture in message.inputs])
        try:
            record, created = self._store.submit(
                message, session.client, self._recipes.get(message.recipe, 0), time.time(),
                self.config.limits.queued_jobs,
            )  # fmt: skip
        except OrreryError:
            if not self._store.knows(message.job):
                self._artifacts.unpin(message.job)
            raise
        if created:
            self._log.info("submitted", extra={"job": message.job, "client": session.client})
        return m.Submitted(self._dispatch.with_step(record), created)

    def _check_submission(self, message: m.Submit) -> None:
        limits = self.config.limits
        if message.recipe not in self._recipes:
            raise InvalidInput(
                f"the recipe '{message.recipe}' cannot be submitted", "one of " + ", ".join(self._recipes)
            )
        if not 0 <= message.seed < 2**32:
            raise InvalidInput(f"the seed is {message.seed}", "0 to 2**32 - 1")
        if len(str(message.options)) > MAX_OPTIONS_CHARACTERS:
            raise LimitExceeded("the options are very long", f"at most {MAX_OPTIONS_CHARACTERS} characters")
        override(preset(message.quality), message.options)
        for path, value in message.options.items():
            if path.endswith(".engine"):
                self._check_engine(path.removesuffix(".engine"), str(value))
        if not 1 <= len(message.inputs) <= limits.images:
            raise InvalidInput(f"{len(message.inputs)} pictures", f"1 to {limits.images}")
        total = sum(picture.size for picture in message.inputs)
        if total > limits.job_bytes:
            raise LimitExceeded(f"pictures of {total} bytes in all", f"at most {limits.job_bytes}")
        missing = [p.sha256 for p in message.inputs if not self._transfers.has(p.sha256, p.size)]
        if missing:
            raise InvalidInput(
                f"{len(missing)} of the pictures are not here", "pictures uploaded first", missing=missing
            )

    def _check_engine(self, stage: str, name: str) -> None:
        names = [engine.name for engine in self._dispatch.engines if engine.stage == stage]
        if name != "auto" and name not in names:
            raise InvalidInput(
                f"the {stage} stage has no engine '{name}'", "one of " + ", ".join(["auto", *names])
            )

    def get_job(self, identity: bytes, request: int, message: m.GetJob, _: None) -> m.Job:
        return m.Job(self._dispatch.with_step(self._store.get(message.job)))

    def list_jobs(self, identity: bytes, request: int, message: m.ListJobs, _: None) -> m.Jobs:
        def page(limit: int) -> m.Jobs:
            records, following = self._store.page(message.states, limit, message.before)
            return m.Jobs(tuple(self._dispatch.with_step(record) for record in records), following)

        return _fitting(page, min(max(message.limit, 1), MAX_PAGE))

    def cancel(self, identity: bytes, request: int, message: m.Cancel, _: None) -> m.CancelReply:
        record = self._store.cancel(message.job, time.time())
        self._supervisor.cancel(message.job)
        self._log.info("cancel", extra={"job": message.job})
        return m.CancelReply(self._dispatch.with_step(record))

    def subscribe(self, identity: bytes, request: int, message: m.Subscribe, _: None) -> m.Subscribed:
        record = self._store.get(message.job)
        if sum(key[0] == identity for key in self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise LimitExceeded("too many subscriptions", f"at most {MAX_SUBSCRIPTIONS} a connection")
        self._subscriptions[identity, request] = _Subscription(message.job, max(message.after, 0), record.seq)
        return m.Subscribed(self._dispatch.with_step(record))

    def unsubscribe(self, identity: bytes, request: int, message: m.Unsubscribe, _: None) -> m.Unsubscribed:
        self._subscriptions.pop((identity, message.subscription), None)
        return m.Unsubscribed()

    def get_manifest(self, identity: bytes, request: int, message: m.GetManifest, _: None) -> m.Manifest:
        record = self._store.get(message.job)
        if record.state != m.SUCCEEDED:
            raise InvalidInput(
                f"job {record.job} has no results: it is {record.state}", "a job that has succeeded",
                state=record.state,
            )  # fmt: skip
        start = max(message.start, 0)

        def page(limit: int) -> m.Manifest:
            files, total = self._store.results(message.job, start, limit)
            return m.Manifest(message.job, start, total, tuple(files))

        return _fitting(page, MANIFEST_FILES)

    def fetch(self, identity: bytes, request: int, message: m.Fetch, _: None) -> None:
        size = self._store.result_size(message.sha256)
        self._transfers.fetch((identity, request), message, size, time.monotonic())

    def credit(self, identity: bytes, request: int, message: m.Credit, _: None) -> None:
        try:
            self._transfers.credit((identity, message.transfer), message.bytes, time.monotonic())
        except OrreryError as error:
            self._transfers.stop((identity, message.transfer))
            self._send(identity, m.ErrorReply(m.Failure.of(error)), message.transfer)

    def stop_fetch(self, identity: bytes, request: int, message: m.StopFetch, _: None) -> None:
        self._transfers.stop((identity, message.transfer))

    def get_status(self, identity: bytes, request: int, message: m.GetStatus, _: None) -> m.Status:
        counters = dict(self._counters) | {"sessions": len(self._sessions), "transfers": len(self._transfers)}
        return m.Status(
            "orrery", __version__, _PROTOCOL, self.boot, os.getpid(), time.monotonic() - self._started,
            memory_bytes(), self._store.counts(), counters, (self._supervisor.state(),),
            self._dispatch.engines,
        )  # fmt: skip

    def shutdown(self, identity: bytes, request: int, message: m.Shutdown, _: None) -> m.ShutdownReply:
        self.stop()
        return m.ShutdownReply()

    def _session(self, identity: bytes) -> Session:
        if self._stopping:
            raise ShuttingDown("the backend is stopping", remedy="Start it again: python -m backend serve")
        return self._sessions.find(identity, time.monotonic())

    # ---- what goes out by itself

    def _send_chunk(self, key: Key) -> None:
        try:
            chunk, data = self._transfers.next_chunk(key)
        except OrreryError as error:
            self._transfers.stop(key)
            self._send(key[0], m.ErrorReply(m.Failure.of(error)), key[1])
            return
        if self._send(key[0], chunk, key[1], data):
            self._counters["chunks"] += 1
            self._transfers.sent(key, len(data), time.monotonic())

    def _send_events(self, key: Key) -> None:
        subscription = self._subscriptions.get(key)
        if subscription is None:
            return
        identity, request = key
        behind = subscription.sent < self._store.heads.get(subscription.job, subscription.head)
        for event in self._store.events(subscription.job, subscription.sent, EVENT_BATCH) if behind else ():
            if not self._send(identity, event, request):
                return
            subscription.sent = event.seq
            if event.state in m.TERMINAL:
                self._subscriptions.pop(key, None)
                return
        step = self._dispatch.steps.get(subscription.job)
        if step is not None and step is not subscription.step and self._send(identity, step, request):
            subscription.step = step


_PROTOCOL = f"{frames.PROTOCOL_MAJOR}.{frames.PROTOCOL_MINOR}"

_HANDLERS: dict[type[m.Message], Handler] = {
    m.Hello: Daemon.hello,
    m.Ping: Daemon.ping,
    m.UploadStart: Daemon.upload_start,
    m.UploadChunk: Daemon.upload_chunk,
    m.Submit: Daemon.submit,
    m.GetJob: Daemon.get_job,
    m.ListJobs: Daemon.list_jobs,
    m.Cancel: Daemon.cancel,
    m.Subscribe: Daemon.subscribe,
    m.Unsubscribe: Daemon.unsubscribe,
    m.GetManifest: Daemon.get_manifest,
    m.Fetch: Daemon.fetch,
    m.Credit: Daemon.credit,
    m.StopFetch: Daemon.stop_fetch,
    m.GetStatus: Daemon.get_status,
    m.Shutdown: Daemon.shutdown,
}


def _fitting(page: Callable[[int], m.Message], limit: int) -> Any:
    """A page of at most `limit` items that fits into a header: shorter where the texts are long."""
    while True:
        message = page(limit)
        try:
            frames.encode(message, 0)
        except LimitExceeded:
            if limit == 1:
                raise
            limit //= 2
        else:
            return message


def _listen(context: "zmq.Context[Any]", config: DaemonConfig) -> "zmq.Socket[bytes]":
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 500)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what cannot be delivered is lost without a word
    router.setsockopt(zmq.MAXMSGSIZE, frames.MAX_BUFFER_BYTES + 1024)
    router.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
    router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    host = "127.0.0.1" if config.host == "localhost" else config.host
    if ":" in host:
        router.setsockopt(zmq.IPV6, 1)
        host = f"[{host}]"
    try:
        router.bind(f"tcp://{host}:{config.port or '*'}")
    except zmq.ZMQError as error:
        raise NotReachable(
            f"port {config.port} at {config.host} cannot be used ({error.strerror})",
            remedy="Choose another one with --port, or leave it out.",
        ) from error
    return router
