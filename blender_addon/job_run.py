"""One job on the wire: upload, submit, events, manifest, fetch; no bpy, on the client's thread.

Every step can be repeated: after a lost connection `resume` goes on from what is already done.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from shared_protocol import messages
from shared_protocol.errors import InternalError, LimitExceeded, MalformedMessage, OrreryError
from shared_protocol.messages import Message
from shared_protocol.transfer import Uploading, checksum

from .connection import Connection
from .download import FileDownload, already_here, as_our_error
from .jobs import State

WANTED = ("mesh.glb", "splats.ply", "cameras.json", "cutout.png", "report.json")
"""Files of a result that are brought into Blender's user folder, besides the coarser copies of the mesh."""

LOD = re.compile(r"mesh_lod[1-9]\.glb")

PROGRESS_SECONDS = 0.1
DAMAGED_RETRIES = 3
RECIPE = "image_to_3d"
_STATES = {messages.QUEUED: State.QUEUED, messages.RUNNING: State.RUNNING}


class JobRun:
    """The life of one job, from the picture's bytes to the result's files."""

    def __init__(
        self, job: str, name: str, read: Callable[[], bytes], settings: dict[str, Any], seed: int
    ) -> None:
        self.job, self.name, self.over = job, name, False
        self._read, self._settings, self._seed = read, settings, seed
        self._picture: bytes | None = None
        self._submitted = self._succeeded = self._cancel = False
        self._seq = 0
        self._upload: Uploading | None = None
        self._upload_number = 0
        self._files: list[messages.ResultFile] = []
        self._download: FileDownload | None = None
        self._damaged = 0
        self._told = 0.0

    def begin(self, connection: Connection, folder: Path, publish: Callable[[dict[str, Any]], None]) -> None:
        """Say where it runs, where results go and who wants to know."""
        self._connection, self._publish = connection, publish
        self._folder = folder / "results" / self.job

    def resume(self) -> None:
        """The connection is ready (again): go on."""
        if self.over:
            return
        if self._cancel and not self._submitted:
            self._end(State.CANCELLED)
        elif not self._submitted:
            self._start_upload()
        elif self._succeeded:
            self._ask_manifest()
        else:
            self._subscribe()
            if self._cancel:
                self._connection.tell(messages.Cancel(self.job))

    def cancel(self) -> None:
        """Stop it; the daemon's last event says when it has stopped."""
        self._cancel = True
        if self._succeeded or not self._submitted:
            if self._download is not None:
                self._download.close()
            self._end(State.CANCELLED)
        elif self._connection.ready:
            self._connection.tell(messages.Cancel(self.job))
        else:
            self._end(State.CANCELLED)

    def fail(self, error: OrreryError) -> None:
        """Nothing more can come of it."""
        if not self.over:
            self.over = True
            if self._download is not None:
                self._download.close()
            self._publish({"state": State.FAILED, "error": error, "text": ""})

    # ---- upload and submit

    def _start_upload(self) -> None:
        try:
            if self._picture is None:
                self._picture = self._read()
            most = self._connection.limits.image_bytes
            if len(self._picture) > most:
                raise LimitExceeded(
                    f"the picture has {len(self._picture) >> 20} MB", f"at most {most >> 20} MB",
                    "Save it smaller.",
                )  # fmt: skip
        except OrreryError as error:
            self.fail(error)
            return
        self._sha256 = hashlib.sha256(self._picture).hexdigest()
        self._upload = Uploading(len(self._picture), self._connection.limits.window_bytes)
        self._upload_number = self._connection.send(
            messages.UploadStart(self._sha256, len(self._picture)), self._on_upload
        )

    def _on_upload(self, message: Message, _: bytes | None) -> None:
        if self._failed(message):
            return
        if isinstance(message, messages.UploadReady):
            self._upload.start(message.offset)
            there = self._upload.done
        elif isinstance(message, messages.UploadAck):
            self._upload.acknowledge(message.offset)
            there = message.complete
        else:
            return
        if there:
            self._connection.forget(self._upload_number)
            self._submit()
            return
        while (piece := self._upload.next()) is not None:
            offset, length = piece
            chunk = self._picture[offset : offset + length]
            self._connection.tell(
                messages.UploadChunk(self._upload_number, offset, checksum(chunk)), buffer=chunk
            )

    def _submit(self) -> None:
        options = {f"{stage}.engine": name for stage, name in self._settings.get("engines", {}).items()}
        picture = messages.InputFile(self.name[:512], self._sha256, len(self._picture))
        message = messages.Submit(
            self.job,
            RECIPE,
            (picture,),
            self._settings["quality"],
            options | self._settings.get("options", {}),
            self._seed,
            self.name[:512],
        )
        self._connection.send(message, self._on_submitted)

    def _on_submitted(self, message: Message, _: bytes | None) -> None:
        if self._failed(message) or not isinstance(message, messages.Submitted):
            return
        self._submitted, self._picture = True, None
        self._publish({"state": State.QUEUED})
        if self._cancel:
            self._connection.tell(messages.Cancel(self.job))
        self._subscribe()

    # ---- events

    def _subscribe(self) -> None:
        self._connection.send(messages.Subscribe(self.job, self._seq), self._on_event)

    def _on_event(self, message: Message, _: bytes | None) -> None:
        if self._failed(message) or not isinstance(message, messages.Event):
            return
        self._seq = max(self._seq, message.seq)
        if message.state == messages.SUCCEEDED:
            self._succeeded = True
            self._publish({"state": State.RECEIVING, "text": "", "fraction_received": 0.0})
            self._ask_manifest()
        elif message.state == messages.FAILED:
            self.fail(
                message.error.error() if message.error else InternalError("the job failed without a word")
            )
        elif message.state == messages.CANCELLED:
            self._end(State.CANCELLED)
        else:
            changes: dict[str, Any] = {"state": _STATES.get(message.state, State.RUNNING)}
            if message.stage:
                changes |= {"stage": message.stage, "index": message.index, "stages": message.stages}
                changes |= {"done": message.done, "total": message.total, "text": message.text}
            self._publish(changes)

    # ---- results

    def _ask_manifest(self) -> None:
        self._files = []
        self._connection.send(messages.GetManifest(self.job), self._on_manifest)

    def _on_manifest(self, message: Message, _: bytes | None) -> None:
        if self._failed(message) or not isinstance(message, messages.Manifest):
            return
        self._files += message.files
        if message.files and message.start + len(message.files) < message.total:
            following = messages.GetManifest(self.job, message.start + len(message.files))
            self._connection.send(following, self._on_manifest)
            return
        self._files = [file for file in self._files if file.name in WANTED or LOD.fullmatch(file.name)]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.fail(as_our_error(error, self._folder))
            return
        self._fetch_next()

    def _fetch_next(self) -> None:
        for file in self._files:
            path = self._folder / PurePosixPath(file.name).name
            try:
                if already_here(path, file):
                    continue
                self._download = FileDownload(path, file, self._connection.limits.window_bytes)
                if self._download.complete:  # received before the connection was lost, or empty
                    self._download.finish()
                    continue
            except MalformedMessage as error:
                self._fetch_damaged(error)
                return
            except OSError as error:
                self.fail(as_our_error(error, path))
                return
            self._fetch()
            return
        self._download = None
        self.over = True
        changes = {"state": State.RECEIVED, "text": "", "fraction_received": 1.0}
        self._publish({**changes, "folder": self._folder, "warnings": self._warnings()})

    def _fetch(self) -> None:
        self._download.number = self._connection.send(self._download.fetch(), self._on_chunk)

    def _on_chunk(self, message: Message, buffer: bytes | None) -> None:
        if self._failed(message) or not isinstance(message, messages.Chunk):
            return
        download = self._download
        try:
            credit = download.add(message, buffer)
            if download.complete:
                self._connection.forget(download.number)
                download.finish()
                self._fetch_next()
            elif credit:
                self._connection.tell(messages.Credit(download.number, credit))
        except MalformedMessage as error:
            self._fetch_damaged(error)
        except OSError as error:
            self.fail(as_our_error(error, download.path))
        self._tell_progress()

    def _fetch_damaged(self, error: MalformedMessage) -> None:
        """Fetch again what arrived damaged, a few times."""
        self._connection.forget(self._download.number)
        self._connection.tell(messages.StopFetch(self._download.number))
        self._damaged += 1
        if self._damaged > DAMAGED_RETRIES:
            self.fail(error)
        elif self._download.complete:
            self._fetch_next()  # the whole differed: its partial file is gone, from the start again
        else:
            self._fetch()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if self._download is None or now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        whole = sum(file.size for file in self._files) or 1
        before = sum(file.size for file in self._files[: self._files.index(self._download.file)])
        fraction = (before + self._download.received) / whole
        self._publish({"fraction_received": fraction, "text": self._download.file.name})

    def _warnings(self) -> list[str]:
        """The sentences of report.json that the user should read."""
        try:
            report = json.loads((self._folder / "report.json").read_text(encoding="utf-8"))
            stages = report.get("stages", [])
            found = [*report.get("warnings", []), *(w for stage in stages for w in stage.get("warnings", []))]
        except (OSError, ValueError, AttributeError, TypeError):
            return []  # an older backend writes no report; the result is whole without it
        return list(dict.fromkeys(str(warning) for warning in found))

    def _failed(self, message: Message) -> bool:
        if isinstance(message, messages.ErrorReply):
            self.fail(message.failure.error())
            return True
        return self.over

    def _end(self, state: State) -> None:
        if not self.over:
            self.over = True
            self._publish({"state": state, "text": ""})
