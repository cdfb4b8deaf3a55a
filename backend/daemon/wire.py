"""The daemon's sockets: for this machine (TCP, Unix) and for clients with CURVE keys; frames in, frames out.

Nothing here waits: what a slow reader does not take is kept for it (replies, few of them) or offered again
later (chunks, events).
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import zmq

from backend.daemon.config import LOOPBACK, DaemonConfig
from backend.daemon.curve import DOMAIN, AllowList, Gate, server_pair
from backend.daemon.unix_socket import UnixSocket
from shared_protocol import frames
from shared_protocol import messages as m
from shared_protocol.errors import LimitExceeded, NotReachable

QUEUED_OUT, QUEUED_IN = 72, 64
"""Messages that libzmq keeps for one connection: bounds what a reader that stopped costs."""
OUTBOX = 64
"""Replies kept beyond that; a client that asks on without reading is dropped."""

LOCAL, REMOTE = 0, 1
_READABLE = int(zmq.POLLIN)
_LAST, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)


class Peer(NamedTuple):
    """One connection: which socket it came to, its ZeroMQ identity, and its CURVE key if it has one."""

    route: int
    identity: bytes
    key: str = ""


class Wire:
    """Both ROUTER sockets and the gate. `on_gone` hears of connections that have ended."""

    def __init__(self, context: "zmq.Context[Any]", config: DaemonConfig, allowed: AllowList) -> None:
        self.on_gone: Callable[[Peer], None] = lambda peer: None
        self.blocked = False
        """Whether something could not be sent since `flush`: poll again soon."""
        self._outboxes: dict[Peer, deque[list[Any]]] = {}
        self._gate: Gate | None = None
        with contextlib.ExitStack() as undo:
            local = _router(context)
            undo.callback(local.close, 0)
            if config.remote:
                _bind(local, LOOPBACK, 0)
            else:
                _bind(local, config.host, config.port)
            self.address = local.getsockopt_string(zmq.LAST_ENDPOINT)
            self._unix = UnixSocket.open(local, config.state, self.address)
            if self._unix is not None:
                undo.callback(self._unix.close, local)
            self._routers = [local]
            if config.remote:
                remote = _router(context)
                undo.callback(remote.close, 0)
                pair = server_pair(config.state)
                assert pair is not None
                remote.curve_server = True
                remote.curve_publickey, remote.curve_secretkey = pair.public.encode(), pair.secret.encode()
                remote.zap_domain = DOMAIN.encode()
                self._gate = Gate(context, allowed)  # before the bind: it decides on the first connection
                undo.callback(self._gate.close)
                _bind(remote, config.host, config.port)
                self._routers.append(remote)
            undo.pop_all()

    def register(self, poller: zmq.Poller) -> None:
        """Watch the sockets."""
        gate = [self._gate.socket] if self._gate else []
        news = [self._unix.monitor] if self._unix else []
        for socket in [*self._routers, *gate, *news]:
            poller.register(socket, zmq.POLLIN)

    @property
    def keys_refused(self) -> int:
        """Connections whose key is not on the list."""
        return self._gate.refused if self._gate else 0

    def receive(self, batch: int) -> Iterator[tuple[Peer, list[bytes]]]:
        """Up to `batch` messages of each socket."""
        if self._gate is not None:
            self._gate.answer()
        if self._unix is not None:
            self._unix.widen()
        for route, router in enumerate(self._routers):
            for _ in range(batch if router.get(zmq.EVENTS) & _READABLE else 0):
                try:
                    if route == LOCAL:
                        identity, *parts = router.recv_multipart(zmq.NOBLOCK)
                        yield Peer(LOCAL, identity), parts
                    else:
                        framed = router.recv_multipart(zmq.NOBLOCK, copy=False)
                        key = str(framed[-1].get("User-Id"))
                        yield Peer(REMOTE, framed[0].bytes, key), [frame.bytes for frame in framed[1:]]
                except zmq.Again:
                    break

    def reply(self, peer: Peer, message: m.Message, request: int, buffer: bytes | None = None) -> None:
        """Send an answer, now or when the client reads again."""
        try:
            parts = frames.encode(message, request, buffer)
        except LimitExceeded as error:
            parts = frames.encode(m.ErrorReply(m.Failure.of(error)), request)
        if peer not in self._outboxes and self._send(peer, parts):
            return
        if peer in self._outboxes or self.blocked:
            outbox = self._outboxes.setdefault(peer, deque())
            outbox.append(parts)
            if len(outbox) > OUTBOX:
                del self._outboxes[peer]
                self.on_gone(peer)

    def offer(self, peer: Peer, message: m.Message, request: int, buffer: Any = None) -> bool:
        """Send what can be sent again later; False when the client has enough unread."""
        if peer in self._outboxes:
            self.blocked = True
            return False
        return self._send(peer, frames.encode(message, request, buffer))

    def flush(self) -> None:
        """Send kept answers to those who read again."""
        self.blocked = False
        for peer in list(self._outboxes):
            outbox = self._outboxes[peer]
            while outbox and self._send(peer, outbox[0]):
                outbox.popleft()
            if not outbox or peer not in self._outboxes:
                self._outboxes.pop(peer, None)

    def _send(self, peer: Peer, parts: list[Any]) -> bool:
        router = self._routers[peer.route]
        try:
            # Copied: a chunk is in the processor's cache, and telling Python when it may go costs more.
            router.send(peer.identity, _MORE)
            for part in parts[:-1]:
                router.send(part, _MORE)
            router.send(parts[-1], _LAST)
        except zmq.Again:
            self.blocked = True
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._outboxes.pop(peer, None)
            self.on_gone(peer)
            return False
        return True

    def close(self) -> None:
        """The last replies have half a second to go out."""
        if self._unix is not None:
            self._unix.close(self._routers[LOCAL])
        for router in self._routers:
            router.close(500)
        if self._gate is not None:
            self._gate.close()


def _router(context: "zmq.Context[Any]") -> "zmq.Socket[bytes]":
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 500)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what cannot be delivered is lost without a word
    router.setsockopt(zmq.SNDHWM, QUEUED_OUT)
    router.setsockopt(zmq.RCVHWM, QUEUED_IN)
    router.setsockopt(zmq.MAXMSGSIZE, frames.MAX_BUFFER_BYTES + 1024)
    router.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
    router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    return router


def _bind(router: "zmq.Socket[bytes]", host: str, port: int) -> None:
    host = LOOPBACK if host == "localhost" else host
    if ":" in host:
        router.setsockopt(zmq.IPV6, 1)
        host = f"[{host}]"
    try:
        router.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        raise NotReachable(
            f"port {port} at {host} cannot be used ({error.strerror})",
            remedy="Choose another one with --port, or leave it out.",
        ) from error
