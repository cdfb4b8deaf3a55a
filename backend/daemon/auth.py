"""Who may talk: connections that said `hello` with the connection file's token, or have an allowed key."""

import hmac
import secrets
from dataclasses import dataclass, field

from backend.daemon.curve import AllowList
from backend.daemon.wire import REMOTE, Peer
from shared_protocol.errors import Unauthorized
from shared_protocol.messages import Hello

TOKEN_BYTES = 32
IDLE_SECONDS = 3600.0
"""A connection that was silent for so long is forgotten; its next message is asked to say hello again."""
MAX_SESSIONS = 1024
"""Beyond these the one that was silent longest is forgotten."""


def new_token() -> str:
    """A secret for one run of the daemon."""
    return secrets.token_urlsafe(TOKEN_BYTES)


@dataclass
class Session:
    """One connection of one client. `seen` is monotonic seconds.

    same_host  it has proved that it reads the daemon's store
    """

    client: str
    version: str
    seen: float
    same_host: bool = False


@dataclass
class Sessions:
    """The connections that were let in.

    A connection's identity is the daemon's own (a fresh one each time), so a reconnected client says hello
    again; identities chosen by the peer are refused, as another peer could choose the same.
    """

    token: str
    allowed: AllowList
    _by_peer: dict[Peer, Session] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_peer)

    def admit(self, peer: Peer, hello: Hello, now: float) -> Session:
        """Let a connection in; Unauthorized when its token or key is wrong."""
        client = hello.client
        if peer.route == REMOTE:
            client = self._name(peer)  # its key says who it is, whatever it calls itself
        elif not hmac.compare_digest(hello.token.encode(), self.token.encode()):
            raise Unauthorized(
                "the token is wrong",
                "that of the connection file of the running backend",
                "Read the connection file again; it is written anew at each start.",
                reason="wrong_token",
            )
        if not peer.identity.startswith(b"\0"):
            raise Unauthorized("the connection has a routing id of its own", "none", reason="routing_id")
        if len(self._by_peer) >= MAX_SESSIONS and peer not in self._by_peer:
            # Most are connections that have ended: ZeroMQ does not tell. A living one says hello again.
            del self._by_peer[min(self._by_peer, key=lambda other: self._by_peer[other].seen)]
        session = Session(client, hello.version, now)
        self._by_peer[peer] = session
        return session

    def find(self, peer: Peer, now: float) -> Session:
        """The session of a connection; Unauthorized (reason `hello_first`) when it has not said hello."""
        session = self._by_peer.get(peer)
        if session is None:
            raise Unauthorized("this connection has not said hello", "hello first", reason="hello_first")
        if peer.route == REMOTE:
            self._name(peer)
        session.seen = now
        return session

    def drop(self, peer: Peer) -> None:
        """The connection is gone."""
        self._by_peer.pop(peer, None)

    def drop_idle(self, now: float) -> None:
        """Forget those silent for an hour."""
        for peer in [peer for peer, session in self._by_peer.items() if now - session.seen > IDLE_SECONDS]:
            del self._by_peer[peer]

    def last_seen(self) -> float:
        """When any client was heard last; 0 when there is none."""
        return max((session.seen for session in self._by_peer.values()), default=0.0)

    def _name(self, peer: Peer) -> str:
        name = self.allowed.name_of(peer.key)
        if not name:
            self.drop(peer)
            raise Unauthorized(
                "this client's key is no longer allowed", remedy="Ask whoever runs the backend.",
                reason="revoked",
            )  # fmt: skip
        return name
