"""Writes a result into the user's folder: all files or none, never a half-written one."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from backend.pipeline.artifacts import translate_os_error
from shared_protocol.errors import AccessDenied


class OutputFolder:
    """The folder of one result. Checked before hours of work are spent; left as it was on failure.

        with OutputFolder(path) as folder:   # created and writable, or AccessDenied
            ...work...
            folder.publish(files)            # written aside, then renamed into place

    A folder that did not exist before and got no result is removed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._created: list[Path] = []

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise AccessDenied(f"{self.path} is a file", "a folder for the results", "Choose another -o.")
        try:
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            for folder in reversed(missing):
                folder.mkdir()
                self._created.append(folder)
            handle, probe = tempfile.mkstemp(dir=self.path, prefix=".partial-")
            os.close(handle)
            os.unlink(probe)
        except OSError as error:
            self._remove_created()
            raise translate_os_error(error, self.path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._remove_created()

    def _remove_created(self) -> None:
        for folder in reversed(self._created):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Write the files (relative POSIX names); DiskFull or AccessDenied leave the folder as it was."""
        try:
            staging = Path(tempfile.mkdtemp(dir=self.path, prefix=".partial-"))
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        try:
            for name, data in files.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staging / name, target)
            self._drop_stale_frames(files)
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _drop_stale_frames(self, files: Mapping[str, bytes]) -> None:
        """Frames of an earlier, longer orbit would be taken for this one's."""
        orbit = self.path / "orbit"
        for path in orbit.glob("*.png") if orbit.is_dir() else ():
            if re.fullmatch(r"\d{3}\.png", path.name) and f"orbit/{path.name}" not in files:
                path.unlink()
