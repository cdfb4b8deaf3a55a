"""The jobs on the disk, so that they outlive this Blender; no bpy, on the client's thread.

Two Blenders may share a folder: a job belongs to the one that follows it, until that ends.

FOLDER/jobs/JOB/job.json            what was asked and what came of it
                input-0-NAME.png    the pictures, for another try
                preview-NAME-N.jpg  what the backend showed on the way
                result/             the files of the result
"""

import contextlib
import json
import os
import re
import shutil
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from shared_protocol.endpoint import process_alive
from shared_protocol.errors import from_wire

from .jobs import FINAL, GOING_ON, Job, State

MOST_JOBS = 200
"""Remembered; of older ones only the result's files stay until they are deleted by hand."""

HIDDEN = "deleted.txt"
_BELIEVED_SECONDS = 86_400

_KEPT = (
    "id", "name", "seed", "settings", "recipe", "client", "group", "created", "started", "stage_seconds",
    "reused", "inputs", "warnings", "collection", "seen",
)  # fmt: skip
_PREVIEW = re.compile(r"preview-(\w+)-(\d+)\.jpg")


def job_folder(folder: Path, job: str) -> Path:
    """The folder of one job."""
    return folder / "jobs" / job


def result_folder(folder: Path, job: str) -> Path:
    """Where the files of its result lie."""
    return job_folder(folder, job) / "result"


def to_plain(job: Job) -> dict[str, Any]:
    """What is kept of a job, as JSON has it."""
    plain = {name: getattr(job, name) for name in _KEPT}
    plain["state"] = job.state.name
    plain["owner"] = os.getpid()
    plain["error"] = job.error.to_wire() if job.error is not None else None
    return plain


def save(folder: Path, plain: dict[str, Any], new: bool = False) -> None:
    """Write `to_plain`'s map into the job's folder; the file is whole or the earlier one.

    new  only where there is none: another Blender may know more of this job
    """
    place = job_folder(folder, plain["id"])
    if new and (place / "job.json").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / f"job.json.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, place / "job.json")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load(folder: Path) -> list[Job]:
    """The newest jobs, the oldest first; one that cannot be read is passed over, its folder stays.

    Nor are those here that another Blender follows.
    """
    found = []
    for file in (folder / "jobs").glob("*/job.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            plain = json.loads(file.read_text(encoding="utf-8"))
            if not _followed(plain):
                found.append(_from_plain(folder, plain))
    return sorted(found, key=lambda job: job.created)[-MOST_JOBS:]


def forget(folder: Path, job: str) -> None:
    """Delete all that is kept of a job, and remember that it is not wanted: the backend still lists it."""
    shutil.rmtree(job_folder(folder, job), ignore_errors=True)
    with (folder / "jobs" / HIDDEN).open("a", encoding="utf-8") as file:
        file.write(f"{job}\n")


def hidden(folder: Path) -> set[str]:
    """The jobs that were deleted."""
    try:
        return set((folder / "jobs" / HIDDEN).read_text(encoding="utf-8").split())
    except OSError:
        return set()


def keep_input(folder: Path, job: str, number: int, name: str, data: bytes) -> str:
    """Keep a picture of a job for another try; returns the file's name."""
    place = job_folder(folder, job)
    place.mkdir(parents=True, exist_ok=True)
    stem, suffix = re.sub(r"[^\w-]", "_", Path(name).stem)[:40], Path(name).suffix.lower()
    file = f"input-{number}-{stem}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else '.png'}"
    if not (place / file).exists():
        (place / file).write_bytes(data)
    return file


def own_name(kept: str) -> str:
    """The name that a kept picture had; any other name as it is."""
    return re.sub(r"^input-\d+-(?=.)", "", kept)


def keep_preview(folder: Path, job: str, name: str, number: int, data: bytes) -> Path:
    """Keep a small picture that the backend sent."""
    place = job_folder(folder, job)
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"preview-{re.sub(r'[^a-z0-9_]', '_', name)}-{number}.jpg"
    file.write_bytes(data)
    return file


def previews(folder: Path, job: str) -> dict[str, tuple[Path, ...]]:
    """Name -> the pictures that were kept, the newest last."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in job_folder(folder, job).glob("preview-*.jpg"):
        if match := _PREVIEW.fullmatch(path.name):
            found.setdefault(match[1], []).append((int(match[2]), path))
    return {name: tuple(path for _, path in sorted(pictures)) for name, pictures in found.items()}


def _followed(plain: dict[str, Any]) -> bool:
    """Whether another Blender that runs is busy with this job. A process id may have gone to another program,
    so that is believed for a day only."""
    owner = int(plain.get("owner", 0))
    if not owner or owner == os.getpid() or State[plain["state"]] not in GOING_ON:
        return False
    return time.time() - plain["created"] < _BELIEVED_SECONDS and process_alive(owner)


def _from_plain(folder: Path, plain: dict[str, Any]) -> Job:
    """A job as it stands after Blender was closed: what was going on is `AWAY`."""
    names = {item.name for item in fields(Job)} & set(_KEPT) & set(plain)
    job = Job(**{name: plain[name] for name in names})
    job.inputs, job.reused = tuple(job.inputs), tuple(job.reused)
    state = State[plain["state"]]
    result = result_folder(folder, job.id)
    job.folder = result if state in (State.RECEIVED, State.IMPORTING, State.IMPORTED) else None
    if job.folder is not None and not result.is_dir():
        job.folder = None
    if state is State.IMPORTING:
        state = State.RECEIVED
    if state is State.RECEIVED and job.folder is None:
        state = State.AWAY
    job.state = state if state in (*FINAL, State.RECEIVED, State.STORED) else State.AWAY
    job.offered = True
    job.previews = previews(folder, job.id)
    job.error = from_wire(plain["error"]) if plain.get("error") else None
    return job
