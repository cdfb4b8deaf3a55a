"""Where the daemon is and the secret to talk to it: one small file that only its owner can read.

    STATE/connection.json   {"address": "tcp://127.0.0.1:41234", "token": ..., "pid": ..., "boot": ...}
    STATE/41234.sock        the same daemon as a Unix socket, where the system has them: a tenth faster

The daemon writes it when it listens and removes it when it ends. STATE is `ORRERY_STATE`, or the
platform's place for such files; add-on, command line and daemon of one user find the same one.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared_protocol.errors import NotReachable, Unauthorized

CONNECTION_FILE = "connection.json"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SOCKET_PATH_BYTES = 100
"""A Unix socket's path may not be longer (104 on macOS, 108 on Linux)."""


@dataclass(frozen=True)
class Endpoint:
    """A daemon: ZeroMQ address, token for `hello`, process id (0 unknown), id of this run of it.

    server_key, public_key, secret_key  CURVE keys (Z85) of the daemon and of this client, where it listens
                                        beyond its own machine
    folder                              where the connection file was read; it is not written
    """

    address: str
    token: str = ""
    pid: int = 0
    boot: str = ""
    version: str = ""
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""
    folder: str = field(default="", compare=False)

    @property
    def nearest(self) -> str:
        """The address to connect to: the daemon's Unix socket where this process sees it, else `address`."""
        path = local_socket(Path(self.folder), self.address) if self.folder and not self.server_key else None
        return f"ipc://{path}" if path is not None and path.is_socket() else self.address


def local_socket(folder: Path, address: str) -> Path | None:
    """Where the daemon at this TCP address has its Unix socket; None where it can have none.

    It is named after the port, so that an address that was changed (a tunnel, a proxy) does not lead to it.
    """
    parts = urlsplit(address)
    if sys.platform == "win32" or parts.hostname not in LOOPBACK or not parts.port:
        return None
    path = folder.absolute() / f"{parts.port}.sock"
    return path if len(os.fsencode(path)) <= SOCKET_PATH_BYTES else None


def secure(socket: Any, endpoint: Endpoint) -> None:
    """Give a ZeroMQ socket the keys of this endpoint, if it has some; before it connects."""
    if endpoint.server_key:
        socket.curve_serverkey = endpoint.server_key.encode()
        socket.curve_publickey = endpoint.public_key.encode()
        socket.curve_secretkey = endpoint.secret_key.encode()


def state_folder() -> Path:
    """The folder of the daemon's state: `ORRERY_STATE`, or the platform's place (not created here)."""
    override = os.environ.get("ORRERY_STATE")
    if override:
        return Path(override)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "orrery" / "state"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "orrery"
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "orrery"


def create_state_folder(folder: Path) -> None:
    """Make it, readable by its owner only."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def write_endpoint(endpoint: Endpoint, folder: Path) -> Path:
    """Write the connection file atomically; it is never readable by others, not even while written."""
    create_state_folder(folder)
    path = folder / CONNECTION_FILE
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".connection-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            found = asdict(endpoint) | {"folder": ""}
            json.dump({name: value for name, value in found.items() if value}, file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_endpoint(folder: Path | None = None) -> Endpoint:
    """The daemon of this state folder, or of this connection file. NotReachable when none runs, Unauthorized
    when it is another user's."""
    place = folder or state_folder()
    path = place if place.suffix == ".json" else place / CONNECTION_FILE
    try:
        if hasattr(os, "getuid") and path.stat().st_uid not in (os.getuid(), 0):
            raise Unauthorized(
                f"{path} belongs to another user",
                "your own backend",
                "Set ORRERY_STATE to a folder of yours.",
            )
        data = json.loads(path.read_text(encoding="utf-8"))
        endpoint = Endpoint(
            str(data["address"]),
            str(data.get("token", "")),
            int(data.get("pid", 0)),
            str(data.get("boot", "")),
            str(data.get("version", "")),
            str(data.get("server_key", "")),
            str(data.get("public_key", "")),
            str(data.get("secret_key", "")),
            str(path.parent),
        )
    except FileNotFoundError:
        raise NotReachable("no backend is running", remedy="Start one: python -m backend serve") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotReachable(
            f"the connection file {path} cannot be read",
            remedy="Start the backend again: python -m backend serve",
        ) from error
    if endpoint.pid and not process_alive(endpoint.pid):
        raise NotReachable(
            "no backend is running (the last one ended without a word)",
            remedy="Start one: python -m backend serve",
        )
    return endpoint


def remove_endpoint(folder: Path, boot: str) -> None:
    """Remove the connection file if it is still that of this run."""
    path = folder / CONNECTION_FILE
    try:
        if json.loads(path.read_text(encoding="utf-8")).get("boot") == boot:
            path.unlink()
    except (OSError, ValueError):
        return


def process_alive(pid: int) -> bool:
    """Whether a process of this id exists (not whether it is the one you mean)."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
