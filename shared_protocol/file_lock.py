"""A lock on an open file that the system lets go of when its holder ends, however it ends."""

import os
import sys
from typing import BinaryIO


def lock_file(file: BinaryIO) -> None:
    """Until the file is closed, for no other process or thread and no child; OSError where another has it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(file.fileno(), False)
