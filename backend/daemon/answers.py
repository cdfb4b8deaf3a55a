"""What the daemon answers to each request: one method a message, and the table of them."""

import os
import time
from collections.abc import Callable
from typing import Any

from backend import __version__
from backend.daemon.core import Core
from backend.daemon.outgoing import Outgoing
from backend.daemon.reuse import stored_stages
from backend.daemon.status import disk_free, host_memory, looked_at_again, memory_bytes, versions
from backend.daemon.wire import Peer
from backend.pipeline.engines import can_draw
from backend.pipeline.options import override, preset
from backend.pipeline.recipes import FROM_TEXT
from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.errors import (
    InvalidInput,
    LimitExceeded,
    OrreryError,
    ShuttingDown,
    Unauthorized,
    UnknownJob,
)

MANIFEST_FILES = 128
MAX_PAGE = 50
MAX_OPTIONS_CHARACTERS = 8000
MAX_PRIORITY = 100
PROTOCOL = f"{frames.PROTOCOL_MAJOR}.{frames.PROTOCOL_MINOR}"
FEATURES = (
    "upload", "events", "fetch", "sum64", "same_host", "previews", "logs", "queue",
)  # fmt: skip

Answer = Callable[["Answers", Peer, int, Any, Any], m.Message | tuple[m.Message, bytes] | None]


class Answers:
    """Requests in, replies out; errors of `shared_protocol.errors` are told to the client."""

    def __init__(self, core: Core, outgoing: Outgoing) -> None:
        self._core = core
        self._outgoing = outgoing

    # ---- connection

    def hello(self, peer: Peer, request: int, message: m.Hello, _: None) -> m.HelloReply:
        core = self._core
        core.sessions.admit(peer, message, time.monotonic())
        return m.HelloReply(
            product="orrery",
            version=__version__,
            protocol=PROTOCOL,
            boot=core.boot,
            limits=core.config.limits,
            engines=looked_at_again(core.dispatch.engines),
            recipes=tuple(name for name in core.recipes if name not in FROM_TEXT or can_draw()),
            features=FEATURES,
        )

    def ping(self, peer: Peer, request: int, message: m.Ping, _: None) -> m.Pong:
        return m.Pong(self._core.boot)

    def get_status(self, peer: Peer, request: int, message: m.GetStatus, _: None) -> m.Status:
        core = self._core
        counters = dict(core.metrics.counters) | {
            "sessions": len(core.sessions), "transfers": len(core.transfers),
            "keys_refused": core.wire.keys_refused,
        }  # fmt: skip
        return m.Status(
            "orrery", __version__, PROTOCOL, core.boot, os.getpid(), time.monotonic() - core.started,
            memory_bytes(), core.store.counts(), counters, core.pool.states(),
            looked_at_again(core.dispatch.engines), versions(),
            (host_memory(), *core.dispatch.devices.values()), disk_free(core.artifacts.root),
            core.store.paused,
        )  # fmt: skip

    def shutdown(self, peer: Peer, request: int, message: m.Shutdown, _: None) -> m.ShutdownReply:
        self._core.stopping = True
        return m.ShutdownReply()

    # ---- upload

    def upload_start(self, peer: Peer, request: int, message: m.UploadStart, _: None) -> m.UploadReady:
        self._refuse_when_stopping()
        return self._core.transfers.upload((peer, request), message, time.monotonic())

    def upload_chunk(self, peer: Peer, request: int, message: m.UploadChunk, buffer: bytes) -> None:
        # Answered under the number of the transfer, whatever happens: that is what the client waits for.
        try:
            reply: m.Message = self._core.transfers.chunk(
                (peer, message.transfer), message, buffer, time.monotonic()
            )
        except OrreryError as error:
            self._core.metrics.counters["refused"] += 1
            reply = m.ErrorReply(m.Failure.of(error))
        self._core.wire.reply(peer, reply, message.transfer)

    # ---- jobs

    def submit(self, peer: Peer, request: int, message: m.Submit, _: None) -> m.Submitted:
        self._refuse_when_stopping()
        core = self._core
        client = core.sessions.find(peer, time.monotonic()).client
        stages = core.recipes.get(message.recipe, ())
        reused: tuple[str, ...] = ()
        if not core.store.knows(message.job):
            self._check_submission(message)
            reused = stored_stages(message, stages, core.artifacts, core.store.stage_result)
            # Pinned before the commit: what an acknowledged job needs is never pruned.
            core.artifacts.pin(message.job, [picture.sha256 for picture in message.inputs])
        try:
            record, created = core.store.submit(
                message, client, len(stages), time.time(), core.config.limits.queued_jobs, reused
            )
        except OrreryError:
            if not core.store.knows(message.job):
                core.artifacts.unpin(message.job)
            raise
        if created:
            core.log.info("submitted", extra={"job": message.job, "client": client})
            core.job_logs.note(message.job, "submitted", client=client, recipe=message.recipe)
            core.metrics.counters["jobs_submitted"] += 1
        return m.Submitted(core.dispatch.with_step(record), created, record.reused)

    def _refuse_when_stopping(self) -> None:
        if self._core.stopping:
            raise ShuttingDown("the backend is stopping", remedy="Start it again: python -m backend serve")

    def _check_submission(self, message: m.Submit) -> None:
        limits = self._core.config.limits
        recipes = self._core.recipes
        if message.recipe not in recipes:
            raise InvalidInput(
                f"the recipe '{message.recipe}' cannot be submitted", "one of " + ", ".join(recipes)
            )
        if not 0 <= message.seed < 2**32:
            raise InvalidInput(f"the seed is {message.seed}", "0 to 2**32 - 1")
        if abs(message.priority) > MAX_PRIORITY:
            raise InvalidInput(f"the priority is {message.priority}", f"-{MAX_PRIORITY} to {MAX_PRIORITY}")
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
        missing = [p.sha256 for p in message.inputs if not self._core.transfers.has(p.sha256, p.size)]
        if missing:
            raise InvalidInput(
                f"{len(missing)} of the pictures are not here", "pictures uploaded first", missing=missing
            )

    def _check_engine(self, stage: str, name: str) -> None:
        names = [engine.name for engine in self._core.dispatch.engines if engine.stage == stage]
        if name != "auto" and name not in names:
            raise InvalidInput(
                f"the {stage} stage has no engine '{name}'", "one of " + ", ".join(["auto", *names])
            )

    def get_job(self, peer: Peer, request: int, message: m.GetJob, _: None) -> m.Job:
        return m.Job(self._core.dispatch.with_step(self._core.store.get(message.job)))

    def list_jobs(self, peer: Peer, request: int, message: m.ListJobs, _: None) -> m.Jobs:
        def page(limit: int) -> m.Jobs:
            records, following = self._core.store.page(message.states, limit, message.before)
            return m.Jobs(tuple(self._core.dispatch.with_step(record) for record in records), following)

        return _fitting(page, min(max(message.limit, 1), MAX_PAGE))

    def cancel(self, peer: Peer, request: int, message: m.Cancel, _: None) -> m.CancelReply:
        record = self._core.store.cancel(message.job, time.time())
        self._core.dispatch.cancel(message.job)
        self._core.log.info("cancel", extra={"job": message.job})
        return m.CancelReply(self._core.dispatch.with_step(record))

    # ---- the queue

    def move(self, peer: Peer, request: int, message: m.Move, _: None) -> m.Job:
        return m.Job(self._core.store.move(message.job, message.position))

    def pause(self, peer: Peer, request: int, message: m.Pause | m.Resume, _: None) -> m.QueueState:
        core = self._core
        core.store.pause(isinstance(message, m.Pause))
        core.log.info("paused" if core.store.paused else "resumed")
        return m.QueueState(core.store.paused, core.store.counts()[m.QUEUED])

    # ---- events, previews, logs

    def subscribe(self, peer: Peer, request: int, message: m.Subscribe, _: None) -> m.Subscribed:
        record = self._core.store.get(message.job)
        self._outgoing.subscribe((peer, request), message, record)
        return m.Subscribed(self._core.dispatch.with_step(record))

    def unsubscribe(self, peer: Peer, request: int, message: m.Unsubscribe, _: None) -> m.Unsubscribed:
        self._outgoing.unsubscribe((peer, message.subscription))
        return m.Unsubscribed()

    def get_preview(
        self, peer: Peer, request: int, message: m.GetPreview, _: None
    ) -> tuple[m.Preview, bytes]:
        preview = self._core.previews.get(message.job, message.name)
        if preview is None:
            self._core.store.get(message.job)  # unknown_job where there is no such job
            return m.Preview(message.job, message.name, 0), b""
        data = preview.data if preview.number > message.after else b""
        return m.Preview(message.job, message.name, preview.number, preview.media_type), data

    def get_log(self, peer: Peer, request: int, message: m.GetLog, _: None) -> tuple[m.Log, bytes]:
        self._core.store.get(message.job)
        data, size = self._core.job_logs.read(message.job, message.offset)
        return m.Log(message.job, min(max(message.offset, 0), size), size), data

    # ---- results

    def get_manifest(self, peer: Peer, request: int, message: m.GetManifest, _: None) -> m.Manifest:
        record = self._core.store.get(message.job)
        if record.state != m.SUCCEEDED:
            raise InvalidInput(
                f"job {record.job} has no results: it is {record.state}", "a job that has succeeded",
                state=record.state,
            )  # fmt: skip
        start = max(message.start, 0)

        def page(limit: int) -> m.Manifest:
            files, total = self._core.store.results(message.job, start, limit)
            return m.Manifest(message.job, start, total, tuple(files))

        return _fitting(page, MANIFEST_FILES)

    def fetch(self, peer: Peer, request: int, message: m.Fetch, _: None) -> None:
        size = self._core.store.result_size(message.sha256)
        self._core.transfers.fetch((peer, request), message, size, time.monotonic())

    def credit(self, peer: Peer, request: int, message: m.Credit, _: None) -> None:
        try:
            self._core.transfers.credit((peer, message.transfer), message.bytes, time.monotonic())
        except OrreryError as error:
            self._core.transfers.stop((peer, message.transfer))
            self._core.wire.reply(peer, m.ErrorReply(m.Failure.of(error)), message.transfer)

    def stop_fetch(self, peer: Peer, request: int, message: m.StopFetch, _: None) -> None:
        self._core.transfers.stop((peer, message.transfer))

    def same_host(self, peer: Peer, request: int, message: m.SameHost, _: None) -> m.NonceFile:
        return m.NonceFile(str(self._core.proof.path()))

    def prove(self, peer: Peer, request: int, message: m.Prove, _: None) -> m.Proved:
        self._core.proof.check(message.nonce)
        self._core.sessions.find(peer, time.monotonic()).same_host = True
        return m.Proved()

    def locate(self, peer: Peer, request: int, message: m.Locate, _: None) -> m.Located:
        if not self._core.sessions.find(peer, time.monotonic()).same_host:
            raise Unauthorized("this connection has not proved that it sees the store", "prove first")
        size = self._core.store.result_size(message.sha256)
        if not self._core.transfers.has(message.sha256, size):
            raise UnknownJob(
                "the result's content was removed from the store", remedy="Submit the job again."
            )
        return m.Located(str(self._core.artifacts.blob_path(message.sha256)), size)


ANSWERS: dict[type[m.Message], Answer] = {
    m.Hello: Answers.hello,
    m.Ping: Answers.ping,
    m.GetStatus: Answers.get_status,
    m.Shutdown: Answers.shutdown,
    m.UploadStart: Answers.upload_start,
    m.UploadChunk: Answers.upload_chunk,
    m.Submit: Answers.submit,
    m.GetJob: Answers.get_job,
    m.ListJobs: Answers.list_jobs,
    m.Cancel: Answers.cancel,
    m.Move: Answers.move,
    m.Pause: Answers.pause,
    m.Resume: Answers.pause,
    m.Subscribe: Answers.subscribe,
    m.Unsubscribe: Answers.unsubscribe,
    m.GetPreview: Answers.get_preview,
    m.GetLog: Answers.get_log,
    m.GetManifest: Answers.get_manifest,
    m.Fetch: Answers.fetch,
    m.Credit: Answers.credit,
    m.StopFetch: Answers.stop_fetch,
    m.SameHost: Answers.same_host,
    m.Prove: Answers.prove,
    m.Locate: Answers.locate,
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
