"""One Blender at a time writes to a place, by a lock that ends with its holder, however that ends; no bpy."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_protocol.errors import Conflict
from shared_protocol.file_lock import lock_file


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Within, no other Blender of this user is within for the same place, which need not exist.

    The lock lies in the folder for temporary files: `place` may be emptied meanwhile. Raises Conflict.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""  # elsewhere that folder is the user's own
    name = hashlib.sha256(f"{user}\n{place.absolute()}".encode()).hexdigest()[:24]
    with (Path(tempfile.gettempdir()) / f"orrery-{name}.lock").open("a+b") as file:
        try:
            lock_file(file)
        except OSError:
            raise Conflict(
                f"another Blender is busy with {place}", "one at a time", "Wait until it is done."
            ) from None
        yield
