"""What a running job tells the daemon: progress and previews, no more often than anybody can follow."""

import time
import traceback
from collections.abc import Callable

import numpy as np

from backend.pipeline.preview import MEDIA_TYPE, encode_preview
from backend.pipeline.stage import Progress
from shared_protocol.errors import OrreryError
from shared_protocol.worker_link import PreviewMade, Record, RunProgress

STEP_SECONDS = 0.1
"""Steps of one stage are reported at most this often; its start and end always."""
PREVIEW_SECONDS = 1.0
"""Pictures of one name likewise."""

Say = Callable[[Record, bytes], None]


class Reports:
    """Of one job; `say` sends a record and the bytes beside it."""

    def __init__(self, job: str, say: Say) -> None:
        self._job = job
        self._say = say
        self._last_step = -STEP_SECONDS
        self._last_preview: dict[str, float] = {}

    def progress(self, progress: Progress) -> None:
        """One report of the recipe."""
        now = time.monotonic()
        if progress.kind == "step":
            if now - self._last_step < STEP_SECONDS:
                return
            self._last_step = now
        else:
            self._last_step = -STEP_SECONDS  # the first step of a stage is told at once
        record = RunProgress(
            self._job, progress.kind, progress.stage, progress.index, progress.stages, progress.done,
            progress.total, progress.text[:512], progress.seconds, progress.key,
        )  # fmt: skip
        self._say(record, b"")

    def preview(self, name: str, draw: Callable[[], np.ndarray]) -> None:
        """A picture of what there is so far; a failure of it is logged and harms nobody."""
        now = time.monotonic()
        if now - self._last_preview.get(name, -PREVIEW_SECONDS) < PREVIEW_SECONDS:
            return
        self._last_preview[name] = now
        try:
            data = encode_preview(draw())
        except (OrreryError, MemoryError):
            raise
        except Exception:  # noqa: BLE001  (logged: the stage matters, its picture does not)
            traceback.print_exc()
            return
        self._say(PreviewMade(self._job, name, MEDIA_TYPE), data)
        self._last_preview[name] = time.monotonic()
