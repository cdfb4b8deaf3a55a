"""The catalogue of model files and the folder they lie in: what there is, is it here, is it whole.

Folder: `ORRERY_WEIGHTS`, or the user's data folder; one folder a model. No heavy imports: the table of
engines asks `weights_present` from here.
"""

import hashlib
import os
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from shared_protocol.errors import AccessDenied, Cancelled, InvalidInput, WeightsError

CATALOG_PATH = Path(__file__).with_name("catalog.toml")

OnProgress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all, and what is happening in words."""


@dataclass(frozen=True)
class Source:
    """One place to get a file from.

    url            its address
    wheel, member  a member of a package wheel ("name==version")
    repo, revision, path  a file of a model hub's repository ("owner/name"), at a commit
    """

    url: str = ""
    wheel: str = ""
    member: str = ""
    repo: str = ""
    revision: str = "main"
    path: str = ""

    def __str__(self) -> str:
        if self.repo:
            return f"{self.repo}/{self.path}"
        return self.url or f"{self.member} in the wheel {self.wheel}"


@dataclass(frozen=True)
class WeightsFile:
    """One file of a model: its name, size in bytes, checksum, and sources in the order they are tried."""

    name: str
    size: int
    sha256: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class WeightsEntry:
    """One model of the catalogue."""

    name: str
    summary: str
    licence: str
    files: tuple[WeightsFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def weights_folder() -> Path:
    """Where model files lie: `ORRERY_WEIGHTS`, or `weights` in the user's data folder."""
    chosen = os.environ.get("ORRERY_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("orrery")) / "weights"


def read_catalog(path: Path) -> tuple[WeightsEntry, ...]:
    """Parse a catalogue file."""
    with path.open("rb") as stream:
        data = tomllib.load(stream)
    return tuple(
        WeightsEntry(
            name,
            entry["summary"],
            entry["licence"],
            tuple(
                WeightsFile(
                    file["name"], file["size"], file["sha256"], tuple(Source(**s) for s in file["sources"])
                )
                for file in entry["files"]
            ),
        )
        for name, entry in data.items()
    )


def catalog() -> tuple[WeightsEntry, ...]:
    """All models that `models pull` knows, in the order of catalog.toml."""
    return read_catalog(CATALOG_PATH)


def find_entry(name: str) -> WeightsEntry:
    """The entry of this name; InvalidInput lists the names there are."""
    entries = catalog()
    for entry in entries:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in entries)
    raise InvalidInput(f"no model '{name}' is in the catalogue", f"one of {names}")


def weights_path(name: str, file: str) -> Path:
    """Where a file of a model lies, whether it is there or not."""
    return weights_folder() / name / file


def weights_present(name: str) -> bool:
    """Whether every file of a model is here with the right size. Quick: checksums are `verify`'s work."""
    return all(_has_size(weights_path(name, file.name), file.size) for file in find_entry(name).files)


def verify(name: str, cancelled: threading.Event | None = None) -> str:
    """Check a model's files by size and sha256: `ok`, `missing` or `damaged`.

    Raises AccessDenied when a file cannot be read, Cancelled.
    """
    status = "ok"
    for file in find_entry(name).files:
        path = weights_path(name, file.name)
        if not path.exists():
            return "missing"
        if not _has_size(path, file.size) or sha256_of(path, cancelled) != file.sha256:
            status = "damaged"
    return status


def pull(
    name: str,
    on_progress: OnProgress = lambda done, total, text: None,
    cancelled: threading.Event | None = None,
) -> Path:
    """Fetch what is missing or damaged of a model; returns its folder.

    Each source is tried in order and its file checked by sha256; a file appears under its name only
    when it is whole. Raises WeightsError naming each source and why it failed, AccessDenied, DiskFull,
    Cancelled.
    """
    from backend.weights.fetch import fetch_file

    for file in find_entry(name).files:
        path = weights_path(name, file.name)
        if _has_size(path, file.size) and sha256_of(path, cancelled) == file.sha256:
            on_progress(file.size, file.size, f"{file.name} is here already")
        else:
            fetch_file(file, path, on_progress, cancelled or threading.Event())
    return weights_folder() / name


def require(name: str) -> Path:
    """The folder of a model that must be here; WeightsError with the remedy when it is not."""
    if not weights_present(name):
        raise WeightsError(
            f"the weights of {name} are missing or incomplete in {weights_folder() / name}",
            remedy=f"Run: python -m backend models pull {name}",
        )
    return weights_folder() / name


def sha256_of(path: Path, cancelled: threading.Event | None = None) -> str:
    """Checksum of a file, read in pieces so that a cancel is met at once."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled(f"cancelled while checking {path.name}")
                digest.update(piece)
    except PermissionError:
        raise AccessDenied(
            f"{path} cannot be read", "a file you may read", "Change its permissions."
        ) from None
    return digest.hexdigest()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
