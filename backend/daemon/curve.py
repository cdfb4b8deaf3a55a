"""Who may come from other machines: CURVE keys, a list of allowed clients, and the gate that asks it.

    STATE/keys/server.json        the daemon's key pair, readable by its owner only
    STATE/keys/clients/NAME.pub   the public key of a client that is allowed; remove the file to revoke it

CURVE (CurveZMQ, RFC 26) encrypts the connection and proves both sides' keys. Alone it lets any key in, so
libzmq asks the gate (ZAP, RFC 27) about each connection.
"""

import contextlib
import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from shared_protocol.errors import AccessDenied, Conflict, InvalidInput, UnknownJob, Unsupported

DOMAIN = "orrery"
_KEY_CHARACTERS = 40
_GATE = "inproc://zeromq.zap.01"


@dataclass(frozen=True)
class KeyPair:
    """Both halves as 40 characters of Z85."""

    public: str
    secret: str


def new_pair() -> KeyPair:
    """A fresh key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def server_pair(state: Path) -> KeyPair | None:
    """The daemon's keys; None before `create_server_pair`."""
    try:
        data = json.loads((state / "keys" / "server.json").read_text(encoding="ascii"))
        return KeyPair(str(data["public"]), str(data["secret"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AccessDenied(
            "the backend's key file cannot be read",
            remedy="Remove keys/server.json and make new keys: python -m backend keygen NAME",
        ) from error


def create_server_pair(state: Path) -> KeyPair:
    """The daemon's keys, made at the first call."""
    found = server_pair(state)
    if found is None:
        found = new_pair()
        _write_private(state / "keys" / "server.json", json.dumps(found.__dict__))
    return found


def allow(state: Path, name: str, public: str) -> None:
    """Let a client in. Conflict when the name is taken."""
    path = _client_file(state, name)
    if path.exists():
        raise Conflict(
            f"a client '{name}' has a key already", "another name",
            f"Take its key away first: python -m backend keygen --revoke {name}",
        )  # fmt: skip
    _write_private(path, public + "\n")


def revoke(state: Path, name: str) -> None:
    """Let a client in no more, from the next second on."""
    try:
        _client_file(state, name).unlink()
    except FileNotFoundError:
        names = ", ".join(sorted(AllowList(state).names())) or "none"
        raise UnknownJob(f"no client '{name}' has a key", f"one of: {names}") from None


def require_keys(state: Path, host: str, port: int) -> None:
    """Unsupported, with the command to run, unless keys and a client are there for listening beyond this
    machine."""
    if not zmq.has("curve"):
        raise Unsupported("this ZeroMQ has no CURVE", "pyzmq from its own wheels", "pip install -U pyzmq")
    if server_pair(state) is None or not AllowList(state).names():
        raise Unsupported(
            f"listening on {host} lets other machines in, which needs CURVE keys and a list of the clients "
            "allowed; there are none",
            "keys, or a loopback address such as 127.0.0.1",
            f"Run: python -m backend keygen NAME --address tcp://{host}:{port or 7421}",
        )
    if not port:
        raise InvalidInput(
            f"listening on {host} needs a port that clients know", remedy="For example: --port 7421"
        )


class AllowList:
    """The clients allowed now: public key -> name. Reads its folder again when it is a second old."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "keys" / "clients"
        self._names: dict[str, str] = {}
        self._read_at = -10.0

    def name_of(self, public: str, *, newest: bool = False) -> str:
        """The name of this key's client; empty when it is not allowed (any more).

        newest  read the folder now: a key that was made a moment ago is known at its first connection
        """
        if newest or time.monotonic() - self._read_at > 1.0:
            self._read()
        return self._names.get(public, "")

    def names(self) -> list[str]:
        """All clients allowed."""
        self._read()
        return list(self._names.values())

    def _read(self) -> None:
        names = {}
        for path in sorted(self._folder.glob("*.pub")):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                key = path.read_text(encoding="ascii").strip()
                if len(key) == _KEY_CHARACTERS:
                    names[key] = path.stem
        self._names, self._read_at = names, time.monotonic()


class Gate:
    """Answers libzmq's question about each new CURVE connection. Polled by the daemon's loop."""

    def __init__(self, context: "zmq.Context[Any]", allowed: AllowList) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.bind(_GATE)
        self._allowed = allowed
        self.refused = 0

    def answer(self) -> None:
        """Answer all questions that wait."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._answer(self.socket.recv_multipart(zmq.NOBLOCK))

    def _answer(self, question: list[bytes]) -> None:
        version, request, _, _, _, mechanism, *credentials = question
        key = ""
        if mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == 32:
            key = z85.encode(credentials[0]).decode()
        if self._allowed.name_of(key, newest=True):
            self.socket.send_multipart([version, request, b"200", b"OK", key.encode(), b""])
        else:
            self.refused += 1
            self.socket.send_multipart([version, request, b"400", b"key not allowed", b"", b""])

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close(0)


def _client_file(state: Path, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}", name):
        raise InvalidInput(f"'{name[:60]}' cannot name a client", "up to 48 letters, digits, points, - and _")
    return state / "keys" / "clients" / f"{name}.pub"


def _write_private(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise AccessDenied(f"{path.parent} cannot be written ({error.strerror})") from error
