"""One connection to the daemon: finding or starting it, hello, heartbeat, reconnecting; no bpy.

Lives on the client's thread. Replies, events and chunks are handed to the handler of the request that
they answer.
"""

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import zmq

from shared_protocol import frames, messages
from shared_protocol.endpoint import LOOPBACK, Endpoint, process_alive, secure
from shared_protocol.errors import NotReachable, OrreryError, ProtocolMismatch, Unauthorized
from shared_protocol.messages import Message

from .backend_place import Place
from .backend_process import BackendProcess, start_backend
from .jobs import Link

START_SECONDS = 60.0
"""A first start compiles the backend's Python files."""
PING_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Back-off between attempts to reach a backend that was lost."""

NO_ANSWER = "The backend does not answer any more."

Handler = Callable[[Message, bytes | None], None]


class Connection:
    """A DEALER socket, its requests and its health."""

    def __init__(self, on_link: Callable[[dict[str, Any]], None]) -> None:
        self.limits = messages.Limits()
        self.features: tuple[str, ...] = ()
        self._on_link = on_link
        self._context: zmq.Context | None = None
        self._socket: zmq.Socket | None = None
        self._link = Link.OFF
        self._place: Place | None = None
        self._endpoint: Endpoint | None = None
        self._vain: Endpoint | None = None  # a file names it, nobody answers there
        self._may_start = True
        self._backend: BackendProcess | None = None
        self._handlers: dict[int, Handler] = {}
        self._numbers = itertools.count(1)
        self._deadline = self._heard = self._pinged = 0.0
        self._pause = FIRST_PAUSE
        self._boot = ""
        self._again = False  # whether this is a connection that was there before
        self._lost = 0.0  # when that was lost

    @property
    def ready(self) -> bool:
        """Whether the daemon has answered our hello."""
        return self._link is Link.READY

    @property
    def started_backend(self) -> bool:
        """Whether the backend, or an earlier one, was started from here."""
        return self._backend is not None

    def open(self, place: Place, may_start: bool = True) -> None:
        """Begin to connect unless that is done or under way; `step` carries it on.

        Raises NotReachable when no backend runs and none can be started.
        """
        self._place = place
        if self._link in (Link.READY, Link.CONNECTING, Link.STARTING):
            return
        self._pause, self._again = FIRST_PAUSE, False
        self._vain, self._may_start = None, may_start
        self._reach()

    def send(self, message: Message, handler: Handler, buffer: bytes | memoryview | None = None) -> int:
        """Send a request; `handler` gets what answers it until `forget`. Returns its number."""
        number = next(self._numbers)
        self._handlers[number] = handler
        self.tell(message, number, buffer)
        return number

    def tell(self, message: Message, number: int | None = None, buffer: Any = None) -> None:
        """Send a message whose answer nobody waits for here, under this number or a new one."""
        number = next(self._numbers) if number is None else number
        self._socket.send_multipart(frames.encode(message, number, buffer))

    def forget(self, number: int) -> None:
        """Stop listening to the answers of a request."""
        self._handlers.pop(number, None)

    def step(self, seconds: float, wanted: bool) -> None:
        """Wait up to `seconds` for messages, hand them on, keep the connection healthy.

        wanted  whether a job depends on it: only then is a lost connection made anew
        """
        if self._link is Link.STARTING:
            self._await_backend()
        elif self._link is Link.LOST and time.monotonic() >= self._deadline:
            if wanted:
                self._reach_again()
            else:
                self._set(Link.OFF)
        if self._socket is None:
            time.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while self._socket is not None and self._socket.poll(max(0.0, end - time.monotonic()) * 1000):
            self._receive()
            if time.monotonic() >= end:  # a stream of chunks must not keep a cancel waiting
                break
        self._check_health()

    def drop(self) -> None:
        """Give the connection up; a job brings it back."""
        self._close_socket()
        self._set(Link.OFF, host="")

    def close(self, stop_backend: bool = True) -> None:
        """End everything, the backend that was started here too; or leave it to finish its jobs."""
        self._close_socket()
        if self._context is not None:
            self._context.term()
            self._context = None
        if self._backend is not None:
            (self._backend.stop if stop_backend else self._backend.leave)()
        self._backend = None

    # ---- reaching the daemon

    def _found(self) -> Endpoint:
        """NotReachable where there is none, or one that was tried in vain."""
        endpoint = self._place.endpoint()
        if endpoint == self._vain:
            raise NotReachable(f"nothing answers at {endpoint.address}")
        return endpoint

    def _reach(self) -> None:
        if self._backend is not None:
            self._backend.running()  # takes notice of its end: a dead child still has a process id
        try:
            self._connect(self._found())
        except NotReachable:
            if not (self._place.startable and self._may_start):
                self._set(Link.OFF)
                raise
            self._set(Link.STARTING)
            place = self._place
            self._backend = start_backend(
                place.python, place.folder, place.state, place.backend, dict(place.environment)
            )
            self._deadline = time.monotonic() + START_SECONDS

    def _reach_again(self) -> None:
        """After a loss: the daemon may have come back elsewhere, or must be started anew."""
        self._again = self._may_start = True
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._deadline = time.monotonic() + self._pause
        try:
            self._reach()
        except NotReachable:
            self._set(Link.LOST)

    def _await_backend(self) -> None:
        try:
            self._connect(self._found())
        except NotReachable:
            if not self._backend.running():
                self._set(Link.OFF)
                raise self._backend.failure() from None
            if time.monotonic() > self._deadline:
                self._set(Link.OFF)
                raise NotReachable(
                    "the backend was started but does not answer", remedy=f"See {self._backend.log}."
                ) from None

    def _connect(self, endpoint: Endpoint) -> None:
        host = urlsplit(endpoint.address).hostname or ""
        if host and host not in LOOPBACK and not self._place.online:
            raise Unauthorized(
                f"the backend is on another machine ({host}) and Blender is offline",
                remedy="Switch on Edit > Preferences > System > Network > Allow Online Access.",
            )
        self._close_socket()
        self._context = self._context or zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.sndtimeo = 2000
        try:
            secure(self._socket, endpoint)
            self._socket.connect(endpoint.nearest)
        except (zmq.ZMQError, ValueError) as error:
            self._close_socket()
            raise NotReachable(
                f"the connection file names no backend that can be reached ({endpoint.address}: {error})",
                remedy="Take the file as the backend wrote it, or start the backend again.",
            ) from error
        self._endpoint = endpoint
        self._deadline = time.monotonic() + self._place.patience
        self._set(Link.CONNECTING)
        self.send(messages.Hello(endpoint.token, "blender"), self._on_hello)

    def _on_hello(self, message: Message, _: bytes | None) -> None:
        if isinstance(message, messages.ErrorReply):
            self._close_socket()
            raise message.failure.error()
        if not isinstance(message, messages.HelloReply):
            return
        notice = self._what_happened(message.boot)
        self.limits, self.features, self._boot = message.limits, message.features, message.boot
        self._heard = self._pinged = time.monotonic()
        self._pause, self._again = FIRST_PAUSE, False
        host = urlsplit(self._endpoint.address).hostname
        where = "on this machine" if host in LOOPBACK else f"at {host}"
        self._set(
            Link.READY,
            server=f"{message.product.capitalize()} {message.version} {where}",
            version=message.version,
            host="" if host in LOOPBACK else host,
            engines=tuple(messages.to_plain(engine) for engine in message.engines),
            recipes=message.recipes,
            error=None,
            notice=notice,
        )

    def _what_happened(self, boot: str) -> str:
        """Words for a connection that is there again."""
        if not self._again:
            return ""
        if boot == self._boot:
            return (
                f"The connection was lost for {time.monotonic() - self._lost:.0f} s. Jobs went on meanwhile."
            )
        return "The backend ended and was started again. Jobs go on after their last finished stage."

    # ---- messages and health

    def _receive(self) -> None:
        parts = self._socket.recv_multipart()
        self._heard = time.monotonic()
        try:
            envelope = frames.decode(parts)
        except OrreryError as error:
            self._close_socket()
            self._set(Link.OFF)
            kind = ProtocolMismatch if isinstance(error, ProtocolMismatch) else NotReachable
            raise kind(
                f"what answers at {self._endpoint.address} cannot be understood: {error.found}",
                error.expected,
                error.remedy or "Start the backend again.",
            ) from error
        handler = self._handlers.get(envelope.request)
        if handler is not None:
            handler(envelope.message, envelope.buffer)

    def _check_health(self) -> None:
        now = time.monotonic()
        if self._link is Link.CONNECTING and now > self._deadline:
            if self._again:
                self._lose(NO_ANSWER)
                return
            self._close_socket()
            self._set(Link.OFF)
            if self._place.startable and self._vain is None:
                # Left by a backend that ended without a word; its process id has gone to another program.
                self._vain = self._endpoint
                if self._may_start:
                    self._reach()
                return
            raise NotReachable(
                f"nothing answers at {self._endpoint.address}",
                "a running backend",
                "Stop what listens there, or start the backend again.",
            )
        if self._link is not Link.READY:
            return
        if now - self._pinged > PING_SECONDS:
            self._pinged = now
            number = self.send(messages.Ping(), self._on_pong)
            for old in [key for key, value in self._handlers.items() if value == self._on_pong]:
                if old != number:
                    self.forget(old)
        if self._daemon_gone():
            self._lose("The backend ended unexpectedly.")
        elif now - self._heard > self._place.patience:
            self._lose(NO_ANSWER)

    def _daemon_gone(self) -> bool:
        if self._backend is not None and self._backend.process.pid == self._endpoint.pid:
            return not self._backend.running()
        local = urlsplit(self._endpoint.address).hostname in LOOPBACK
        return local and self._endpoint.pid > 0 and not process_alive(self._endpoint.pid)

    def _on_pong(self, message: Message, _: bytes | None) -> None:
        """A daemon that was started anew on the same address knows neither us nor our requests."""
        known = isinstance(message, messages.Pong) and message.boot == self._boot
        if not known:
            self._lose("The backend was started anew.")

    def _lose(self, why: str) -> None:
        if not self._again:
            self._lost = time.monotonic()
        self._close_socket()
        self._deadline = time.monotonic() + self._pause
        self._set(Link.LOST, notice=why)

    def _close_socket(self) -> None:
        self._handlers.clear()
        if self._socket is not None:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.close(0)
            self._socket = None

    def _set(self, link: Link, **changes: Any) -> None:
        self._link = link
        self._on_link({"link": link, **changes})
