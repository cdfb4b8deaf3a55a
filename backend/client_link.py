"""The client's connection to the daemon: hello, requests and replies, finding it again after a loss."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from backend import __version__
from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.endpoint import Endpoint, read_endpoint, secure
from shared_protocol.errors import NotReachable, OrreryError, ProtocolMismatch, Unauthorized

REPLY_SECONDS = 4.0
SILENCE_SECONDS = 1.0
"""After this much silence in a subscription or transfer the daemon is asked whether it lives."""
BACK_OFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
HANDSHAKES = 3
"""Attempts at a first connection that is closed while it is made."""
JITTER = 0.5
"""A pause is up to so much longer, so that many clients do not come back at the same moment."""
RECONNECT_SECONDS = 30.0
"""How long a daemon may be away before a command gives up."""

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | _REFUSED


class Lost(NotReachable):
    """The daemon did not answer in time: try again on a new connection."""

    code = NotReachable.code


class ClientLink:
    """A connection to the daemon of `state` (default: this user's), or to a known `endpoint`."""

    def __init__(
        self,
        endpoint: Endpoint | None = None,
        *,
        state: Path | None = None,
        name: str = "cli",
        patience: float = RECONNECT_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        self._fixed = endpoint
        self._state = state
        self._name = name
        self._patience = patience
        self._reply_seconds = reply_seconds
        self._context: zmq.Context[Any] = zmq.Context(1)
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._request = 0
        self.welcome: m.HelloReply | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; requests not yet sent are dropped."""
        self._disconnect()
        self._context.destroy(0)

    def hello(self) -> m.HelloReply:
        """Connect and be let in. NotReachable, Unauthorized, ProtocolMismatch."""
        self._disconnect()
        endpoint = self._fixed or read_endpoint(self._state)
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, frames.MAX_BUFFER_BYTES + 1024)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
        secure(socket, endpoint)
        # Tells at once when the other side is gone; the socket itself would connect again in silence.
        self._monitor = socket.get_monitor_socket(_LOST)
        socket.connect(endpoint.nearest)
        self._socket = socket
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            reply = self._exchange(m.Hello(endpoint.token, self._name, __version__), m.HelloReply)
        except Lost as error:
            self._disconnect()
            if error.details.get("handshake"):
                raise
            raise Lost(
                f"nothing that speaks our protocol answers at {endpoint.address}",
                remedy="Start a backend: python -m backend serve",
            ) from None
        except BaseException:
            self._disconnect()
            raise
        self.welcome = reply
        return reply

    # ---- inside

    @property
    def _features(self) -> tuple[str, ...]:
        """What this daemon can do beyond protocol 1.0."""
        return self.welcome.features if self.welcome else ()

    def _call(self, message: m.Message, kind: type[Any]) -> Any:
        """Ask and wait for the answer, on a new connection if need be. All requests may be repeated."""
        return self._patiently(lambda: self._exchange(message, kind))

    def _call_with_buffer(self, message: m.Message, kind: type[Any]) -> tuple[Any, bytes]:
        """As `_call`; also the bytes beside the answer."""

        def ask() -> tuple[Any, bytes]:
            reply, buffer = self._receive(self._send(message), kind, self._reply_seconds)
            return reply, bytes(buffer)

        return self._patiently(ask)

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        while True:
            self._connected()
            try:
                return attempt()
            except Lost:
                self._reconnect()
            except Unauthorized as error:
                self._hello_again(error)

    def _connected(self) -> None:
        for attempt in range(HANDSHAKES):
            if self._socket is not None:
                return
            try:
                self.hello()
            except Lost as error:
                if not error.details.get("handshake") or attempt == HANDSHAKES - 1:
                    raise
                time.sleep(BACK_OFF_SECONDS[attempt])

    def _hello_again(self, error: Unauthorized) -> None:
        """The daemon has forgotten this connection, or is another one than before: say hello again."""
        if error.details.get("reason") != "hello_first":
            raise error
        self._reconnect()

    def _reconnect(self) -> None:
        """Find the daemon again; NotReachable after `patience` seconds."""
        give_up = time.monotonic() + self._patience
        for attempt in range(1000):
            try:
                self.hello()
            except NotReachable:
                pause = BACK_OFF_SECONDS[min(attempt, len(BACK_OFF_SECONDS) - 1)]
                pause *= 1 + JITTER * random.random()
                if time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)
            else:
                return

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close(0)
            self._socket.close(0)
            self._socket = self._monitor = None

    def _exchange(self, message: m.Message, kind: type[Any]) -> Any:
        return self._expect(self._send(message), kind)

    def _send(self, message: m.Message, buffer: bytes | memoryview | None = None) -> int:
        assert self._socket is not None
        self._request += 1
        self._socket.send_multipart(frames.encode(message, self._request, buffer))
        return self._request

    def _expect(self, request: int, kind: type[Any]) -> Any:
        """The next message of this request; Lost when none comes in time."""
        return self._receive(request, kind, self._reply_seconds)[0]

    def _expect_alive(self, request: int, kind: type[Any]) -> tuple[Any, Any]:
        """As `_expect`, however long it takes, as long as the daemon answers a ping each second."""
        while True:
            try:
                return self._receive(request, kind, SILENCE_SECONDS)
            except Lost:
                if self._socket is None:
                    raise
                ping = self._send(m.Ping())
                found = self._receive_any({request: kind, ping: m.Pong}, self._reply_seconds)
                if found[0] == request:
                    return found[1], found[2]

    def _receive(self, request: int, kind: type[Any], seconds: float) -> tuple[Any, Any]:
        _, message, buffer = self._receive_any({request: kind}, seconds)
        return message, buffer

    def _receive_any(self, kinds: Mapping[int, type[Any]], seconds: float) -> tuple[int, Any, Any]:
        assert self._socket is not None and self._monitor is not None
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready = dict(self._poller.poll(max(1, int(left * 1000))))
            if self._socket not in ready:
                if ready:
                    self._explain_loss()
                continue
            envelope = self._decode(_parts(self._socket))
            if envelope is None:
                continue
            message = envelope.message
            if envelope.request in kinds:
                if isinstance(message, m.ErrorReply):
                    raise message.failure.error()
                if isinstance(message, kinds[envelope.request]):
                    return envelope.request, message, envelope.buffer
            elif isinstance(message, m.ErrorReply) and envelope.request == 0:
                raise message.failure.error()  # it could not even read the number
        raise Lost("the backend does not answer", remedy="Look at it: python -m backend status")

    def _explain_loss(self) -> None:
        """Raise what the monitor says of the connection."""
        assert self._monitor is not None
        event = int(recv_monitor_message(self._monitor)["event"])
        self._disconnect()
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # cut, or our idea of its key is wrong
            raise Lost(
                "the backend closed the connection before it was made",
                "a running backend, whose CURVE key is that of our connection file",
                "Look whether it runs, and make a new connection file: python -m backend keygen NAME",
                handshake=True,
            )
        if event & _REFUSED:
            raise Unauthorized(
                "the backend refuses this connection: it wants CURVE keys that it knows, or it is no backend",
                "a connection file made for this client",
                "On the backend's machine: python -m backend keygen NAME --address tcp://HOST:PORT",
                reason="curve",
            )
        raise Lost("the connection to the backend was lost", remedy="Is it still running?")

    @staticmethod
    def _decode(parts: Sequence[bytes | memoryview]) -> frames.Envelope | None:
        try:
            return frames.decode(parts)
        except ProtocolMismatch:
            raise
        except OrreryError:
            return None  # from a newer minor version, or garbage: not ours to answer


def _parts(socket: "zmq.Socket[bytes]") -> list[bytes | memoryview]:
    """The frames of one message; raw buffers are not copied."""
    parts: list[bytes | memoryview] = [socket.recv()]
    while socket.get(zmq.RCVMORE):
        parts.append(socket.recv() if len(parts) == 1 else socket.recv(copy=False).buffer)
    return parts
