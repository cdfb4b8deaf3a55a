"""Who may talk: connections that said `hello` with the token of the connection file."""

import hmac
import secrets
from dataclasses import dataclass, field

from shared_protocol.errors import Unauthorized
from shared_protocol.messages import Hello

TOKEN_BYTES = 32
IDLE_SECONDS = 3600.0
"""A connection that was silent for so long is forgotten; its next message is asked to say hello again."""


def new_token() -> str:
    """A secret for one run of the daemon."""
    return secrets.token_urlsafe(TOKEN_BYTES)


@dataclass
class Session:
    """One connection of one client. `seen` is monotonic seconds."""

    client: str
    version: str
    seen: float


@dataclass
class Sessions:
    """The connections that were let in, by ZeroMQ identity.

    The identity is the daemon's own (a fresh one for each connection), so a reconnected client says
    hello again; identities chosen by the peer are refused, as another peer could choose the same.
    """

    token: str
    _by_identity: dict[bytes, Session] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_identity)

    def admit(self, identity: bytes, hello: Hello, now: float) -> Session:
        """Let a connection in; Unauthorized when the token is wrong."""
        if not hmac.compare_digest(hello.token.encode(), self.token.encode()):
            raise Unauthorized(
                "the token is wrong",
                "that of the connection file of the running backend",
                "Read the connection file again; it is written anew at each start.",
                reason="wrong_token",
            )
        if not identity.startswith(b"\0"):
            raise Unauthorized("the connection has a routing id of its own", "none", reason="routing_id")
        session = Session(hello.client, hello.version, now)
        self._by_identity[identity] = session
        return session

    def find(self, identity: bytes, now: float) -> Session:
        """The session of a connection; Unauthorized (reason `hello_first`) when it has not said hello."""
        session = self._by_identity.get(identity)
        if session is None:
            raise Unauthorized("this connection has not said hello", "hello first", reason="hello_first")
        session.seen = now
        return session

    def drop(self, identity: bytes) -> None:
        """The connection is gone."""
        self._by_identity.pop(identity, None)

    def drop_idle(self, now: float) -> None:
        """Forget those silent for an hour."""
        for identity in [i for i, s in self._by_identity.items() if now - s.seen > IDLE_SECONDS]:
            del self._by_identity[identity]

    def last_seen(self) -> float:
        """When any client was heard last; 0 when there is none."""
        return max((session.seen for session in self._by_identity.values()), default=0.0)
