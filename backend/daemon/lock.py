"""One daemon a state folder: a lock that the system lets go of when its holder dies, however it dies."""

from pathlib import Path
from typing import BinaryIO

from shared_protocol.endpoint import create_state_folder, read_endpoint
from shared_protocol.errors import Conflict, NotReachable
from shared_protocol.file_lock import lock_file


class StateLock:
    """Held from construction to `release`. Conflict says which daemon holds it."""

    def __init__(self, folder: Path) -> None:
        create_state_folder(folder)
        self._file: BinaryIO = (folder / "daemon.lock").open("a+b")
        try:
            lock_file(self._file)
        except OSError:
            self._file.close()
            raise Conflict(
                f"a backend is running already{_who(folder)}",
                "one backend a state folder",
                "Use that one, stop it (python -m backend stop), or set ORRERY_STATE to another folder.",
            ) from None

    def release(self) -> None:
        """Let the next one in."""
        self._file.close()


def _who(folder: Path) -> str:
    try:
        endpoint = read_endpoint(folder)
    except NotReachable:
        return ""
    return f" (process {endpoint.pid}, {endpoint.address})"
