"""One Blender at a time writes to a place, by a lock that ends with its holder, however that ends; no bpy."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shared_protocol.errors import Conflict


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Within, no other Blender of this user is within for the same place, which need not exist.

    The lock lies in the folder for temporary files: `place` may be emptied meanwhile. Raises Conflict.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""  # elsewhere that folder is the user's own
    name = hashlib.sha256(f"{user}\n{place.absolute()}".encode()).hexdigest()[:24]
    with (Path(tempfile.gettempdir()) / f"orrery-{name}.lock").open("a+b") as file:
        try:
            _lock(file)
        except OSError:
            raise Conflict(
                f"another Blender is busy with {place}", "one at a time", "Wait until it is done."
            ) from None
        yield


def _lock(file: BinaryIO) -> None:
    """Until the file is closed; OSError where another process or thread has it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
