"""`python -m backend models list|pull|verify`."""

import argparse
import importlib.util
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.weights import store
from shared_protocol.errors import EngineUnavailable, InvalidInput, WeightsError


def run(args: argparse.Namespace, echo: Callable[[str], None]) -> None:
    """Carry out one models command."""
    entries = {entry.name: entry for entry in store.catalog()}
    unknown = [name for name in args.names if name not in entries]
    if unknown:
        raise InvalidInput(f"no weights are called {', '.join(unknown)}", "one of " + ", ".join(entries))
    names = args.names or list(entries)
    if args.action == "list":
        _list(names, entries, args.json, echo)
    elif args.action == "pull":
        if not args.names:
            raise InvalidInput("models pull was given no name", "one of " + ", ".join(entries))
        if args.files and len(names) != 1:
            raise InvalidInput("--from was given for several models", "one model at a time")
        for name in names:
            _licence(entries[name], args.accept_licence, echo)
            if args.files:
                _take(entries[name], args.files, echo)
            else:
                _pull(name, echo)
    else:
        _verify(names, echo)


def _list(names: list[str], entries: dict, as_json: bool, echo: Callable[[str], None]) -> None:
    rows = [
        {
            "name": name,
            "summary": entries[name].summary,
            "megabytes": round((entries[name].size or 1e9 * entries[name].gigabytes) / 1e6, 1),
            "exact": bool(entries[name].size),
            "licence": entries[name].licence,
            "present": store.weights_present(name),
        }
        for name in names
    ]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "here" if row["present"] else "not here"
        echo(f"{row['name']:<10} {_size(row):>14}  {state:<9} {row['summary']}")
        echo(f"{'':<37} licence: {row['licence']}")
        if entries[row["name"]].gated:
            echo(f"{'':<37} accept its terms on the hub first: {entries[row['name']].page}")


def _size(row: dict[str, Any]) -> str:
    size = row["megabytes"]
    number = f"{size / 1e3:.1f} GB" if size >= 1000 else f"{size:.1f} MB"
    return f"{'' if row['exact'] else 'about '}{number}" if size else "size unknown"


def _licence(entry: store.WeightsEntry, accepted: bool, echo: Callable[[str], None]) -> None:
    """Show a licence that asks for it, and keep that it was accepted."""
    if store.licence_accepted(entry.name):
        return
    echo(f"{entry.name}: {entry.licence}. The whole text: {entry.page}")
    if not accepted and sys.stdin.isatty():
        accepted = input("Type yes to accept it: ").strip().lower() == "yes"
    if accepted:
        store.record(entry.name, store.LICENCE, text=entry.licence, page=entry.page)


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, name: str) -> None:
        self._bar = tqdm(
            unit="B", unit_scale=True, desc=name, file=sys.stderr, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> Callable[[int, int, str], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _show(self, done: int, total: int, text: str) -> None:
        self._bar.total, self._bar.n = total, done
        self._bar.set_postfix_str(text)


def _pull(name: str, echo: Callable[[str], None]) -> None:
    with _Bar(name) as on_progress:
        folder = store.pull(name, on_progress, threading.Event())
    for file in store.find_entry(name).files:
        path = store.weights_path(name, file.name)
        if file.layout and path.exists() and _can_convert(echo):
            try:
                _convert(name, file, path, echo)
            except WeightsError:
                # Out of the way: no engine shall count it as here, and a second pull fetches it anew.
                path.replace(path.with_name(f"{path.name}.refused"))
                store.unrecord(name, file.name)
                raise
            path.unlink()  # what is converted is all of it that is used
    echo(f"{name}: {folder}")


def _take(entry: store.WeightsEntry, paths: list[Path], echo: Callable[[str], None]) -> None:
    """Files that the user has already: known by what is in them, whatever they are called."""
    published = [file for file in entry.files if file.layout]
    if not published:
        raise InvalidInput(f"{entry.name} is no checkpoint", "models pull without --from")
    if not _can_convert(echo):
        raise EngineUnavailable("torch is not installed", remedy='Run: pip install "orrery[models]"')
    from backend.models.layouts import LAYOUTS, fitting_layout

    for path in paths:
        layout = fitting_layout(path, [LAYOUTS[file.layout] for file in published], entry.name)
        file = next(file for file in published if file.layout == layout.name)
        sha256 = store.sha256_of(path)
        if file.sha256 and sha256 != file.sha256:
            raise WeightsError(
                f"{path.name} is not the published {file.name}: its sha256 is {sha256}",
                file.sha256,
                "Fetch it again.",
            )
        store.record(
            entry.name, file.name, size=path.stat().st_size, sha256=sha256, stated=False, source=str(path)
        )
        _convert(entry.name, file, path, echo)
    lacking = [file for file in published if not store.file_present(entry.name, file)]
    if lacking:
        echo(f"Still missing: {', '.join(file.name for file in lacking)}.")
    echo(f"{entry.name}: {store.weights_folder() / entry.name}")


def _can_convert(echo: Callable[[str], None]) -> bool:
    """Whether checkpoints can be checked and converted now; else the first run does it."""
    there = all(importlib.util.find_spec(package) for package in ("torch", "diffusers", "transformers"))
    if not there:
        echo('Not converted yet: torch or diffusers is missing. Run: pip install "orrery[models]"')
    return there


def _convert(name: str, file: store.WeightsFile, path: Path, echo: Callable[[str], None]) -> None:
    """Into safetensors shards; says which checksum the file has and who stated it."""
    from backend.models.convert import convert
    from backend.models.layouts import LAYOUTS

    known = store.recorded(name).get(file.name, {})
    with _Bar(name) as on_progress:
        convert(
            path,
            LAYOUTS[file.layout],
            store.converted_folder(name, file),
            parts=frozenset(file.parts) or None,
            on_progress=on_progress,
            sha256=known.get("sha256", ""),
        )
    stated = file.sha256 or known.get("stated")
    words = "as its publisher states" if stated else "recorded now: its publisher states none"
    echo(f"{file.name}: every tensor fits; sha256 {known.get('sha256', file.sha256)}, {words}")


def _verify(names: list[str], echo: Callable[[str], None]) -> None:
    broken = []
    for name in names:
        status = store.verify(name)
        echo(f"{name}: {status}")
        if status == "damaged":
            broken.append(name)
    if broken:
        raise WeightsError(
            f"{', '.join(broken)} differ from the catalogue",
            remedy=f"Run: python -m backend models pull {' '.join(broken)}",
        )
