"""Named places at which the daemon or a worker dies on the spot, as by kill -9: ORRERY_CRASH=point:n

The n-th time a process comes to the point it ends with code 137, without cleaning up; `ORRERY_CRASHED` is
a file that is left there, so that it happens once and not again after the restart.
"""

import functools
import importlib
import os
from pathlib import Path

_STORE = ("backend.daemon.store", "JobStore")
_ARTIFACTS = ("backend.pipeline.artifacts", "ArtifactStore")
_TRANSFERS = ("backend.daemon.transfers", "Transfers")
_WORKER = ("backend.worker.main", "_Worker")
_RUNNER = ("backend.pipeline.artifacts", "")

POINTS = {
    # name: (process, module, class or "", function, before it or after it)
    "submit.begin": ("daemon", *_STORE, "submit", "before"),
    "submit.committed": ("daemon", *_STORE, "submit", "after"),
    "pinned": ("daemon", *_ARTIFACTS, "pin", "after"),
    "upload.chunk": ("daemon", *_TRANSFERS, "chunk", "after"),
    "claimed": ("daemon", *_STORE, "claim", "after"),
    "stage.noted": ("daemon", *_STORE, "stage_event", "after"),
    "finish.begin": ("daemon", *_STORE, "finish", "before"),
    "finish.committed": ("daemon", *_STORE, "finish", "after"),
    "fetch.chunk": ("daemon", *_TRANSFERS, "next_chunk", "after"),
    "stage.saving": ("worker", *_ARTIFACTS, "save", "before"),
    "stage.blob": ("worker", *_ARTIFACTS, "_write_blob", "after"),
    "stage.saved": ("worker", *_ARTIFACTS, "save", "after"),
    "results.pinned": ("worker", *_ARTIFACTS, "pin", "after"),
    "file.written": ("worker", *_RUNNER, "write_atomically", "before"),
    "told": ("worker", *_WORKER, "say", "after"),
}


def install(process: str) -> None:
    """Put the point of `ORRERY_CRASH` in place, if it is one of this process."""
    name, _, count = os.environ.get("ORRERY_CRASH", "").partition(":")
    if not name or POINTS[name][0] != process:
        return
    _, module, owner, function, when = POINTS[name]
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    original, calls = getattr(place, function), [0]

    @functools.wraps(original)
    def wrapped(*arguments, **options):
        if when == "after":
            result = original(*arguments, **options)
        calls[0] += 1
        marker = Path(os.environ["ORRERY_CRASHED"])
        if calls[0] >= int(count) and not marker.exists():
            marker.touch()
            os._exit(137)
        return result if when == "after" else original(*arguments, **options)

    setattr(place, function, wrapped)
