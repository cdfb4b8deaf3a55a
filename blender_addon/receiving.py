"""The files of one result on their way into the job's folder; no bpy, on the client's thread."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from shared_protocol import messages
from shared_protocol.errors import MalformedMessage, OrreryError
from shared_protocol.messages import Message

from .connection import Connection
from .download import FileDownload, already_here, as_our_error

WANTED = ("mesh.glb", "splats.ply", "cameras.json", "cutout.png", "report.json")
"""Files of a result that are brought into Blender's user folder, besides the coarser copies of the mesh."""

LOD = re.compile(r"mesh_lod[1-9]\.glb")
PROGRESS_SECONDS = 0.1
DAMAGED_RETRIES = 3


class Receiving:
    """Manifest, then file after file; what is here already, whole or in part, is not fetched again.

    done      called when all is here
    failed    called with what went wrong
    progress  called with 0..1 of the bytes, and the name of the file
    """

    def __init__(
        self,
        job: str,
        folder: Path,
        done: Callable[[], None],
        failed: Callable[[OrreryError], None],
        progress: Callable[[float, str], None],
    ) -> None:
        self._job, self._folder = job, folder
        self._done, self._failed, self._progress = done, failed, progress
        self._files: list[messages.ResultFile] = []
        self._download: FileDownload | None = None
        self._damaged = 0
        self._told = 0.0

    def begin(self, connection: Connection) -> None:
        """Ask what there is, and fetch it."""
        self._connection, self._files = connection, []
        self.close()
        connection.send(messages.GetManifest(self._job), self._on_manifest)

    def close(self) -> None:
        """Leave what came so far for later."""
        if self._download is not None:
            self._download.close()
            self._download = None

    def _on_manifest(self, message: Message, _: bytes | None) -> None:
        if self._refused(message) or not isinstance(message, messages.Manifest):
            return
        self._files += message.files
        if message.files and message.start + len(message.files) < message.total:
            following = messages.GetManifest(self._job, message.start + len(message.files))
            self._connection.send(following, self._on_manifest)
            return
        self._files = [file for file in self._files if file.name in WANTED or LOD.fullmatch(file.name)]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._failed(as_our_error(error, self._folder))
            return
        self._next()

    def _next(self) -> None:
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
                self._again(error)
                return
            except OSError as error:
                self._failed(as_our_error(error, path))
                return
            self._fetch()
            return
        self._download = None
        self._done()

    def _fetch(self) -> None:
        self._download.number = self._connection.send(self._download.fetch(), self._on_chunk)

    def _on_chunk(self, message: Message, buffer: bytes | None) -> None:
        download = self._download
        if self._refused(message) or download is None or not isinstance(message, messages.Chunk):
            return
        try:
            credit = download.add(message, buffer)
            if download.complete:
                self._connection.forget(download.number)
                download.finish()
                self._next()
            elif credit:
                self._connection.tell(messages.Credit(download.number, credit))
        except MalformedMessage as error:
            self._again(error)
        except OSError as error:
            self._failed(as_our_error(error, download.path))
        self._tell()

    def _again(self, error: MalformedMessage) -> None:
        """Fetch again what arrived damaged, a few times."""
        self._connection.forget(self._download.number)
        self._connection.tell(messages.StopFetch(self._download.number))
        self._damaged += 1
        if self._damaged > DAMAGED_RETRIES:
            self._failed(error)
        elif self._download.complete:
            self._next()  # the whole differed: its partial file is gone, from the start again
        else:
            self._fetch()

    def _tell(self) -> None:
        now = time.monotonic()
        if self._download is None or now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        whole = sum(file.size for file in self._files) or 1
        before = sum(file.size for file in self._files[: self._files.index(self._download.file)])
        self._progress((before + self._download.received) / whole, self._download.file.name)

    def _refused(self, message: Message) -> bool:
        if isinstance(message, messages.ErrorReply):
            self._failed(message.failure.error())
            return True
        return False


def warnings_of(folder: Path) -> list[str]:
    """The sentences of a result's report.json that the user should read."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        stages = report.get("stages", [])
        found = [*report.get("warnings", []), *(w for stage in stages for w in stage.get("warnings", []))]
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # an older backend writes no report; the result is whole without it
    return list(dict.fromkeys(str(warning) for warning in found))
