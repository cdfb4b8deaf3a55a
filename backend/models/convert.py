"""Published files into our own layout, once: a folder of safetensors shards that are mapped into memory.

    NAME/index.json                   what lies there; written last, so that a folder with it is whole
    NAME/unet-00001-of-00002.safetensors ...

Tensors keep the precision they are published in and have our modules' names. The index is plain JSON:
whether a model is there is asked without torch (`backend.weights.converted`).
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from backend.models.checkpoint import Checkpoint, open_checkpoint
from backend.models.layouts import Layout, Part, build_on_meta, fit
from backend.models.rules import Comparison, parameters_of
from backend.weights.converted import FORMAT, INDEX
from shared_protocol.errors import Cancelled, DiskFull

SHARD_BYTES = 2 << 30

OnProgress = Callable[[int, int, str], None]


def convert(
    source: Path,
    layout: Layout,
    target: Path,
    *,
    parts: frozenset[str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_progress: OnProgress = lambda done, total, text: None,
    cancelled: threading.Event | None = None,
    sha256: str = "",
) -> None:
    """Check a published file against its layout and write its used parts (or `parts`) into `target`.

    Nothing is written when the file does not fit; `target` appears whole or not at all. Raises WeightsError,
    DiskFull, Cancelled.
    """
    with open_checkpoint(source) as checkpoint:
        found = fit(layout, checkpoint.shapes, source.name, parts)
        total = sum(
            checkpoint.tensor(layout.part(name).prefix + tensor).nbytes
            for name, comparison in found.comparisons.items()
            for tensor in comparison.used
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < total:
            raise DiskFull(
                f"{layout.words} needs {total / 2**30:.1f} GiB, {free / 2**30:.1f} are free at {target}",
                remedy="Free some space, or set ORRERY_WEIGHTS to a folder on another disk.",
            )
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as temporary:
            folder = Path(temporary) / target.name
            folder.mkdir()
            written = _Progress(total, on_progress, cancelled or threading.Event(), layout.words)
            index: dict[str, Any] = {
                "format": FORMAT,
                "layout": layout.name,
                "source": {"name": source.name, "bytes": source.stat().st_size, "sha256": sha256},
                "parts": {},
            }
            for name, comparison in found.comparisons.items():
                settings = found.settings[name]
                files = _write_part(
                    folder, layout.part(name), settings, comparison, checkpoint, shard_bytes, written
                )
                kept = None if settings is None else dataclasses.asdict(settings)
                index["parts"][name] = {"settings": kept, "files": files}
            (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            os.replace(folder, target)


class _Progress:
    """Bytes written so far; every piece asks whether the user cancelled."""

    def __init__(self, total: int, report: OnProgress, cancelled: threading.Event, words: str) -> None:
        self._done, self._total, self._report, self._cancelled = 0, total, report, cancelled
        self._words = words

    def add(self, count: int) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"cancelled while converting {self._words}")
        self._done += count
        self._report(min(self._done, self._total), self._total, f"Converting {self._words}")


def _write_part(
    folder: Path,
    part: Part,
    settings: Any,
    comparison: Comparison,
    checkpoint: Checkpoint,
    shard_bytes: int,
    progress: _Progress,
) -> list[dict[str, Any]]:
    wanted = parameters_of(build_on_meta(part.network, settings))
    groups = list(_groups(wanted, comparison, part, checkpoint, shard_bytes))
    files = []
    for number, names in enumerate(groups, start=1):
        tensors = {}
        for name in names:
            take = comparison.takes[name]
            if take.source in comparison.used:
                value = take.change(checkpoint.tensor(part.prefix + take.source)).contiguous().clone()
            else:
                assert take.absent is not None
                value = take.absent(wanted[name])
            tensors[name] = value
            progress.add(value.nbytes)
        path = folder / f"{part.name}-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file(tensors, path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        files.append({"name": path.name, "bytes": path.stat().st_size, "sha256": digest})
    return files


def _groups(
    wanted: dict[str, torch.Size],
    comparison: Comparison,
    part: Part,
    checkpoint: Checkpoint,
    shard_bytes: int,
) -> Iterator[list[str]]:
    """Names of a shard after another, each of at most `shard_bytes` (or one tensor)."""
    group: list[str] = []
    size = 0
    for name, shape in wanted.items():
        take = comparison.takes[name]
        there = take.source in comparison.used
        width = checkpoint.tensor(part.prefix + take.source).element_size() if there else 4
        count = width * shape.numel()
        if group and size + count > shard_bytes:
            yield group
            group, size = [], 0
        group.append(name)
        size += count
    yield group


def settings_of(layout: Layout, part: str, kept: Any) -> Any:
    """A part's settings out of an index; lists become tuples again."""
    kind = type(layout.part(part).network.settings)
    if kept is None:
        return None
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()})
