"""One log a job: what the daemon notes of it, one JSON object a line, and what its worker printed."""

import contextlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared_protocol.errors import UnknownJob

PIECE_BYTES = 256 * 1024


class JobLogs:
    """STATE/logs/JOB.log. Daemon and worker append whole lines, so both can write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, job: str) -> Path:
        """Where a job's log lies, whether it is there or not."""
        return self._folder / f"{job}.log"

    def note(self, job: str, text: str, **fields: Any) -> None:
        """Add a line. A log that cannot be written (a full disk) is no reason to stop."""
        line = {"time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")}
        line |= {"text": text, "job": job} | {name: value for name, value in fields.items() if value}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path(job).open("ab") as file:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def read(self, job: str, offset: int) -> tuple[bytes, int]:
        """(a piece from byte `offset`, bytes in all). UnknownJob when the log is gone."""
        try:
            with self.path(job).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(min(max(offset, 0), size))
                return file.read(PIECE_BYTES), size
        except OSError:
            raise UnknownJob("the log of this job is not kept any more") from None

    def forget(self, job: str) -> None:
        """Remove a job's log."""
        with contextlib.suppress(OSError):
            self.path(job).unlink()
