"""Lets a client read results straight from the store, once it has proved that it sees the same files.

The proof is the text of a file beside the artifacts that only this daemon's user can read. A client on
another machine, with another mount there, or of another user cannot read it, and fetches chunks.
"""

import contextlib
import hmac
import secrets
from pathlib import Path

from backend.pipeline.artifacts import write_atomically
from shared_protocol.errors import AccessDenied, Unauthorized

FILE_NAME = "nonce"


class SameHostProof:
    """The nonce of this run of the daemon; the file is written when the first client asks."""

    def __init__(self, root: Path, boot: str) -> None:
        self._path = root / f"{FILE_NAME}-{boot}"
        self._nonce = secrets.token_hex(16)
        self._written = False

    def path(self) -> Path:
        """The file to read; AccessDenied when it cannot be written."""
        if not self._written:
            try:
                for old in self._path.parent.glob(f"{FILE_NAME}-*"):
                    old.unlink(missing_ok=True)
                write_atomically(self._path, self._nonce.encode())  # mode 0600
            except OSError as error:
                raise AccessDenied("the store cannot be written", remedy="Fetch chunks instead.") from error
            self._written = True
        return self._path

    def check(self, nonce: str) -> None:
        """Unauthorized unless this is the text of the file."""
        if not self._written or not hmac.compare_digest(nonce.encode(), self._nonce.encode()):
            raise Unauthorized(
                "this is not the text of the nonce file", remedy="Fetch chunks instead.", reason="wrong_nonce"
            )

    def close(self) -> None:
        """Remove the file."""
        if self._written:
            with contextlib.suppress(OSError):
                self._path.unlink()
