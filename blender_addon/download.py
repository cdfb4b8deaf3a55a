"""One file of a result on its way into Blender's user folder; no bpy, on the client's thread."""

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from shared_protocol import messages
from shared_protocol.endpoint import process_alive
from shared_protocol.errors import AccessDenied, DiskFull, MalformedMessage, OrreryError
from shared_protocol.transfer import Download

PIECE = 1 << 20


class FileDownload:
    """Written under a temporary name, checked, renamed; taken up again where an earlier one stopped.

    number  request number of the transfer, 0 before it began
    """

    def __init__(self, path: Path, file: messages.ResultFile, window: int) -> None:
        self.path, self.file, self.number = path, file, 0
        self._partial = _partial(path)
        self._transfer = Download(file.sha256, file.size, window)
        if self._partial.exists() and self._partial.stat().st_size <= file.size:
            with self._partial.open("rb") as earlier:
                while piece := earlier.read(PIECE):
                    self._transfer.resume(piece)
            self._output = self._partial.open("ab")
        else:
            self._output = self._partial.open("wb")

    @property
    def received(self) -> int:
        """Bytes that are here."""
        return self._transfer.offset

    @property
    def complete(self) -> bool:
        """All bytes are here; `finish` tells whether they are right."""
        return self._transfer.done

    def fetch(self) -> messages.Fetch:
        """The message that starts or resumes the transfer."""
        return self._transfer.fetch()

    def add(self, chunk: messages.Chunk, buffer: bytes) -> int:
        """Take the next chunk; returns the credit to give back. MalformedMessage when it was damaged."""
        credit = self._transfer.accept(chunk, buffer)
        self._output.write(buffer)
        return credit

    def finish(self) -> None:
        """Check the whole and give the file its name."""
        self._output.close()
        try:
            self._transfer.verify()
        except MalformedMessage:
            self._partial.unlink()
            raise
        self._partial.replace(self.path)

    def close(self) -> None:
        """Leave it for later."""
        self._output.close()


def _partial(path: Path) -> Path:
    """Where the bytes are gathered: another Blender may be fetching the same file. What one that has ended
    left is taken over."""
    mine = path.with_name(f"{path.name}.{os.getpid()}.partial")
    for left in path.parent.glob(f"{path.name}.*.partial"):
        owner = left.name.split(".")[-2]
        if not mine.exists() and owner.isdigit() and not process_alive(int(owner)):
            with contextlib.suppress(OSError):  # a third was quicker
                left.replace(mine)
    return mine


def already_here(path: Path, file: messages.ResultFile) -> bool:
    """Whether this very content lies at `path`."""
    if not path.exists() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def as_our_error(error: OSError, path: Path) -> OrreryError:
    """A failed write, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space is left to write {path}", remedy="Free some space and try again.")
    return AccessDenied(f"{path} cannot be written ({error.strerror})", remedy="Check the folder's rights.")
