"""A blocking client of the daemon: one thread, one socket. The command line and scripts use it.

    with Client() as client:
        job = client.submit([Path("photo.png")], quality="draft").job
        for event in client.events(job):
            ...
        client.fetch(job, Path("out"))

It reconnects by itself: a daemon that was started again in the meantime is found through its connection
file, and transfers and events go on where they stopped.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from backend.client_link import ClientLink, Lost
from backend.output import OutputFolder
from backend.pipeline.artifacts import translate_os_error
from shared_protocol import messages as m
from shared_protocol.errors import AccessDenied, InvalidInput, MalformedMessage, OrreryError, Unauthorized
from shared_protocol.transfer import Download, Uploading, checksum, keep_chunk_memory

OnBytes = Callable[[str, int, int], None]
"""Called with a file's name, bytes done and bytes in all."""


class Client(ClientLink):
    """Questions, orders, uploads and results; see `ClientLink` for how it is made."""

    # ---- questions and orders

    def ping(self) -> m.Pong:
        """Is the daemon's loop alive?"""
        return self._call(m.Ping(), m.Pong)

    def status(self) -> m.Status:
        """Queue, worker, memory, counters."""
        return self._call(m.GetStatus(), m.Status)

    def jobs(self, states: Sequence[str] = (), limit: int = 50) -> list[m.JobRecord]:
        """Up to `limit` jobs, the newest first."""
        records: list[m.JobRecord] = []
        before = 0
        while True:
            page = self._call(m.ListJobs(tuple(states), min(limit - len(records), 50), before), m.Jobs)
            records += page.records
            before = page.next
            if not before or len(records) >= limit:
                return records[:limit]

    def job(self, job: str) -> m.JobRecord:
        """One job; UnknownJob."""
        return self._call(m.GetJob(job), m.Job).record

    def cancel(self, job: str) -> m.JobRecord:
        """Ask for the end of a job; its last event says when it has ended."""
        return self._call(m.Cancel(job), m.CancelReply).record

    def move(self, job: str, position: int) -> m.JobRecord:
        """Put a waiting job at this place (0: next) among those of its client."""
        return self._call(m.Move(job, position), m.Job).record

    def pause(self) -> m.QueueState:
        """Begin no waiting job until `resume`."""
        return self._call(m.Pause(), m.QueueState)

    def resume(self) -> m.QueueState:
        """Begin waiting jobs again."""
        return self._call(m.Resume(), m.QueueState)

    def log(self, job: str) -> bytes:
        """All that was logged of a job so far."""
        text = b""
        while True:
            piece, data = self._call_with_buffer(m.GetLog(job, len(text)), m.Log)
            text += data
            if not data or len(text) >= piece.size:
                return text

    def preview(self, job: str, name: str, after: int = 0) -> tuple[m.Preview, bytes]:
        """The newest picture of this name of a running job; no bytes when there is none newer."""
        return self._call_with_buffer(m.GetPreview(job, name, after), m.Preview)

    def shutdown(self) -> None:
        """Stop the daemon; queued jobs stay in its store."""
        self._call(m.Shutdown(), m.ShutdownReply)

    def submit(
        self,
        pictures: Sequence[Path | tuple[str, bytes]],
        *,
        recipe: str = "image_to_3d",
        quality: str = "standard",
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        label: str = "",
        job: str | None = None,
        priority: int = 0,
    ) -> m.JobRecord:
        """Upload the pictures (files, or name and content) and submit a job; returns its record, whose
        `reused` names the stages that are stored already.

        Safe to repeat with the same `job` id: a job is never made twice.
        """
        inputs = []
        for picture in pictures:
            name, data = picture if isinstance(picture, tuple) else (picture.name, _read(picture))
            inputs.append(m.InputFile(name[-512:], self.upload(data), len(data)))
        message = m.Submit(
            job or uuid.uuid4().hex, recipe, tuple(inputs), quality, dict(options or {}), seed,
            (label or inputs[0].name)[:512], priority,
        )  # fmt: skip
        return self._call(message, m.Submitted).record

    # ---- upload

    def upload(self, data: bytes) -> str:
        """Bring content to the daemon's store unless it is there; returns its sha256."""
        digest = hashlib.sha256(data).hexdigest()
        self._patiently(lambda: self._upload(digest, data))
        return digest

    def _upload(self, digest: str, data: bytes) -> None:
        transfer = self._send(m.UploadStart(digest, len(data)))
        uploading = Uploading(len(data))
        uploading.start(self._expect(transfer, m.UploadReady).offset)
        view = memoryview(data)
        while not uploading.done:
            while (part := uploading.next()) is not None:
                offset, length = part
                buffer = view[offset : offset + length]
                self._send(m.UploadChunk(transfer, offset, checksum(buffer)), buffer)
            uploading.acknowledge(self._expect(transfer, m.UploadAck).offset)

    # ---- events

    def events(self, job: str, after: int = 0, previews: bool = False) -> Iterator[m.Event]:
        """Events of a job numbered above `after`, until its last one. Survives a daemon's restart.

        previews  also those of kind `preview`, which say that `preview` has a newer picture
        """
        while True:
            try:
                self._connected()
                subscription = self._send(m.Subscribe(job, after, previews))
                record = self._expect(subscription, m.Subscribed).record
                if record.state in m.TERMINAL and record.seq <= after:
                    return
                while True:
                    event = self._expect_alive(subscription, m.Event)[0]
                    if event.kind not in ("step", "preview"):
                        after = event.seq
                    yield event
                    if event.kind in m.TERMINAL:
                        return
            except Lost:
                self._reconnect()
            except Unauthorized as error:
                self._hello_again(error)

    def wait(self, job: str) -> m.JobRecord:
        """Wait for a job's end; raises its error when it failed."""
        for _ in self.events(job):
            pass
        record = self.job(job)
        if record.error is not None:
            raise record.error.error()
        return record

    # ---- results

    def manifest(self, job: str) -> list[m.ResultFile]:
        """The files of a job that has succeeded."""
        files: list[m.ResultFile] = []
        while True:
            page = self._call(m.GetManifest(job, len(files)), m.Manifest)
            files += page.files
            if len(files) >= page.total or not page.files:
                return files

    def fetch(self, job: str, out: Path, on_bytes: OnBytes = lambda name, done, size: None) -> list[Path]:
        """Bring a job's files into the folder `out`, each checked against its sha256.

        An interrupted fetch goes on where it stopped; files appear under their names only when all are
        here and whole.
        """
        files = self.manifest(job)
        for file in files:
            check_result_name(file.name)
        with OutputFolder(out) as folder:
            partial = out / f".partial-{job}"
            try:
                partial.mkdir(exist_ok=True)
                paths = {}
                for file in files:
                    path = partial / file.sha256
                    self._fetch_file(file, path, on_bytes)
                    paths[file.name] = path
                folder.publish({name: path.read_bytes() for name, path in paths.items()})
                for path in set(paths.values()):
                    path.unlink()
                partial.rmdir()
            except OSError as error:
                raise translate_os_error(error, out) from error
        return [out / file.name for file in files]

    def read(self, file: m.ResultFile) -> memoryview:
        """The content of one result, checked."""
        buffer = memoryview(np.empty(file.size, np.uint8))
        for again in (True, False):
            if self._read(file, buffer):
                break
            if not again:
                raise MalformedMessage("the file differs from its checksum", file.sha256, "Fetch it again.")
        return buffer

    def _read(self, file: m.ResultFile, buffer: memoryview) -> bool:
        """Fill the buffer; whether it is what its sha256 says."""
        digest, download = hashlib.sha256(), self._new_download(file)

        def write(offset: int, data: memoryview) -> None:
            buffer[offset : offset + len(data)] = data
            hasher.submit(digest.update, buffer[offset : offset + len(data)])

        with ThreadPoolExecutor(1) as hasher:  # beside the reception: it is slower than loopback
            self._patiently(lambda: self._download(download, write))
        return digest.hexdigest() == file.sha256

    def _fetch_file(self, file: m.ResultFile, path: Path, on_bytes: OnBytes) -> None:
        if not path.exists() and self._copy_file(file, path):
            on_bytes(file.name, file.size, file.size)
            return
        for again in (True, False):
            if self._fetch_chunks(file, path, on_bytes):
                return
            path.unlink()  # the next attempt begins anew
            if not again:
                raise MalformedMessage("the file differs from its checksum", file.sha256, "Fetch it again.")

    def _fetch_chunks(self, file: m.ResultFile, path: Path, on_bytes: OnBytes) -> bool:
        """Bring what is missing; whether the whole is what its sha256 says."""
        digest, download = hashlib.sha256(), self._new_download(file)
        if path.exists():
            if path.stat().st_size > file.size:
                path.unlink()
            else:
                with path.open("rb") as earlier:
                    while piece := earlier.read(1 << 20):
                        digest.update(piece)
                        download.resume(piece)
        with path.open("ab") as target, ThreadPoolExecutor(1) as hasher:

            def write(offset: int, data: memoryview) -> None:
                target.write(data)
                hasher.submit(digest.update, bytes(data))
                on_bytes(file.name, download.offset, file.size)

            self._patiently(lambda: self._download(download, write))
        return digest.hexdigest() == file.sha256

    def _new_download(self, file: m.ResultFile) -> Download:
        self._connected()
        check = "sum64" if "sum64" in self._features else "crc32"
        return Download(file.sha256, file.size, check=check, digest=False)

    def _download(self, download: Download, write: Callable[[int, memoryview], None]) -> None:
        if download.done and download.size:
            return
        keep_chunk_memory()
        transfer = self._send(download.fetch())
        try:
            while True:
                chunk, buffer = self._expect_alive(transfer, m.Chunk)
                try:
                    credit = download.accept(chunk, buffer)
                except MalformedMessage as error:
                    raise Lost(str(error)) from error  # fetched again from where we are
                write(chunk.offset, buffer)
                if download.done:
                    return
                if credit:
                    self._send(m.Credit(transfer, credit))
        except BaseException:
            if self._socket is not None:
                self._send(m.StopFetch(transfer))
            raise

    # ---- the same host: files are copied, not sent

    def _copy_file(self, file: m.ResultFile, path: Path) -> bool:
        """Copy a result from the daemon's store where we see it; False: fetch it."""
        if not self._sees_store():
            return False
        try:
            found = self._call(m.Locate(file.sha256), m.Located)
            shutil.copyfile(found.path, path)
            with path.open("rb") as copy:
                whole = hashlib.file_digest(copy, "sha256").hexdigest() == file.sha256
        except (OSError, Unauthorized):
            whole = False
        if not whole:
            with contextlib.suppress(OSError):
                path.unlink()
        return whole

    def _sees_store(self) -> bool:
        """Prove to this connection's daemon that we read the files it writes; once a connection."""
        self._connected()
        assert self.welcome is not None
        if "same_host" not in self._features:
            return False
        if self._proved != (self.welcome.boot, id(self._socket)):
            self._proved = (self.welcome.boot, id(self._socket))
            self._seen = False
            try:
                place = self._call(m.SameHost(), m.NonceFile).path
                handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
                with os.fdopen(handle, "r", encoding="ascii") as nonce:
                    self._call(m.Prove(nonce.read(64)), m.Proved)
                self._seen = True
            except (OSError, UnicodeDecodeError, OrreryError):
                return False  # another machine, another mount or another user: chunks it is
        return self._seen

    _proved: tuple[str, int] = ("", 0)
    _seen = False


def check_result_name(name: str) -> None:
    """InvalidInput unless a result's name stays below the folder it is written to, on every system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    plain = posix.parts and ".." not in windows.parts and not windows.anchor and not posix.is_absolute()
    if not plain or "\0" in name or ":" in name:
        raise InvalidInput(f"the backend names a result '{name}'", "a plain relative path")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist", "a picture file") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder", "a picture file") from None
    except PermissionError:
        raise AccessDenied(f"{path} cannot be read") from None
