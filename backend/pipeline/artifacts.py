"""Stage results on disk: immutable files named by their hash, found by the key of what made them.

One mechanism gives resume after a crash, re-running with another texture setting without a new
orbit, and results that several clients can read.

    blobs/ab/abcdef...   content, named by sha256
    keys/KEY.json        {"kind": value type, "files": {name: sha256}, "facts": ..., "warnings": ...}
    pins/NAME.json       [sha256, ...]: content that is kept whatever the quota (a job's pictures and results)
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from backend.pipeline import values
from shared_protocol.errors import AccessDenied, DiskFull

DEFAULT_QUOTA_BYTES = 4 << 30
RESERVE_BYTES, RESERVE_PART = 2 << 30, 20
"""Kept free: 2 GiB, or a twentieth of a disk that is smaller than 40 GiB."""
ORPHAN_SECONDS = 3600.0
"""Content that no key names is dropped after this: younger, it may be about to be named by a key or a pin."""


def default_root() -> Path:
    """`ORRERY_CACHE`, or the user's cache folder."""
    override = os.environ.get("ORRERY_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("orrery")) / "artifacts"


@dataclass(frozen=True)
class Artifact:
    """A stored stage result: its key, its files by hash, and what the stage said about it."""

    key: str
    kind: str
    files: dict[str, str]
    sizes: dict[str, int]
    facts: dict[str, Any]
    warnings: list[str]
    engine: str
    seconds: float


def translate_os_error(error: OSError, path: Path) -> Exception:
    """An OSError met while writing `path`, as one of our errors (or itself when none fits)."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _disk_full(path, 0)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(f"{path} cannot be written", remedy="Choose a folder you may write to.")
    return error


def check_room(path: Path, size: int) -> None:
    """DiskFull, with the numbers, unless `size` bytes fit where `path` is and the reserve stays free.

    The reserve is for what must always be written (the job store), and for everybody else on this disk.
    """
    room = _room(path)
    if room is None:
        return  # the system does not tell: the write itself will
    free, reserve = room
    if free - size < reserve:
        raise _disk_full(path, size)


def _room(path: Path) -> tuple[int, int] | None:
    """Bytes that are free on the disk of `path`, and how many of them are kept free; None: nobody knows."""
    try:
        usage = shutil.disk_usage(_existing(path))
    except OSError:
        return None
    return usage.free, min(RESERVE_BYTES, usage.total // RESERVE_PART)


def _disk_full(path: Path, needed: int) -> DiskFull:
    details = {"needed_bytes": needed} if needed else {}
    words = f"no space is left to write {path}"
    room = _room(path)
    if room is not None:
        details |= {"free_bytes": room[0], "reserve_bytes": room[1]}
        words += f" ({_mib(room[0])} are free, {_mib(room[1])} of them are kept free"
        words += f", {_mib(needed)} were needed)" if needed else ")"
    return DiskFull(words, remedy="Free some space and run again.", **details)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path`, sync, rename; no half-written file is ever visible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class ArtifactStore:
    """Artifacts below one folder. Safe for several processes: files are immutable and renamed in."""

    def __init__(self, root: Path | None = None, quota_bytes: int = DEFAULT_QUOTA_BYTES) -> None:
        self.root = root or default_root()
        self.quota_bytes = quota_bytes

    def blob_path(self, digest: str) -> Path:
        """Where the content of this sha256 lies."""
        return self.root / "blobs" / digest[:2] / digest

    def _key_path(self, key: str) -> Path:
        return self.root / "keys" / f"{key}.json"

    def find(self, key: str) -> Artifact | None:
        """The artifact of this key if it is complete; marks it as used."""
        path = self._key_path(key)
        try:
            artifact = Artifact(**json.loads(path.read_text()))
            for name, digest in artifact.files.items():
                if self.blob_path(digest).stat().st_size != artifact.sizes[name]:
                    return None
            os.utime(path)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return artifact

    def load(self, artifact: Artifact) -> Any:
        """The value itself."""
        files = {name: self.blob_path(digest).read_bytes() for name, digest in artifact.files.items()}
        return values.BY_NAME[artifact.kind].from_files(files)

    def save(
        self,
        key: str,
        value: Any,
        *,
        engine: str = "",
        facts: dict[str, Any] | None = None,
        warnings: list[str] | None = None,
        seconds: float = 0.0,
    ) -> Artifact:
        """Store a value; DiskFull or AccessDenied name the folder."""
        digests: dict[str, str] = {}
        sizes: dict[str, int] = {}
        try:
            files = value.to_files()
            check_room(self.root, sum(map(len, files.values())))
            for name, data in files.items():
                digests[name], sizes[name] = self._write_blob(data), len(data)
            artifact = Artifact(
                key, type(value).__name__, digests, sizes, facts or {}, warnings or [], engine, seconds
            )
            write_atomically(self._key_path(key), json.dumps(artifact.__dict__).encode())
        except OSError as error:
            raise translate_os_error(error, self.root) from error
        return artifact

    def save_blob(self, data: bytes) -> str:
        """Store content that belongs to no stage; returns its sha256. Pin it, or it goes within an hour."""
        try:
            check_room(self.root, len(data))
            return self._write_blob(data)
        except OSError as error:
            raise translate_os_error(error, self.root) from error

    def _write_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.blob_path(digest)
        if not path.exists() or path.stat().st_size != len(data):  # what was damaged is made whole
            write_atomically(path, data)
        return digest

    def pin(self, name: str, digests: Iterable[str]) -> None:
        """Keep this content until `unpin`; replaces an earlier pin of the same name."""
        path = self.root / "pins" / f"{name}.json"
        try:
            write_atomically(path, json.dumps(sorted(set(digests))).encode())
        except OSError as error:
            raise translate_os_error(error, self.root) from error

    def unpin(self, name: str) -> None:
        """The quota decides again."""
        (self.root / "pins" / f"{name}.json").unlink(missing_ok=True)

    def prune(self) -> None:
        """Drop the least recently used artifacts until the store is within its quota."""
        keys = sorted((self.root / "keys").glob("*.json"), key=_last_used, reverse=True)
        kept: set[str] = set()
        for path in (self.root / "pins").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                kept.update(json.loads(path.read_text()))
        dropped: set[str] = set()
        total = 0
        for path in keys:
            try:
                artifact = Artifact(**json.loads(path.read_text()))
            except FileNotFoundError:  # another process prunes too
                continue
            new = {name: digest for name, digest in artifact.files.items() if digest not in kept}
            total += sum(artifact.sizes[name] for name in new)
            if total > self.quota_bytes:
                path.unlink(missing_ok=True)
                dropped.update(new.values())
            else:
                kept.update(new.values())
        for blob in (self.root / "blobs").glob("*/*"):
            orphan = blob.name not in kept and time.time() - _last_used(blob) > ORPHAN_SECONDS
            if orphan or blob.name in dropped - kept:
                blob.unlink(missing_ok=True)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
