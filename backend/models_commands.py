"""`python -m backend models list|pull|verify`."""

import argparse
import json
import sys
import threading
from collections.abc import Callable

from tqdm import tqdm

from backend.weights import store
from shared_protocol.errors import InvalidInput, WeightsError


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
        for name in names:
            _pull(name, echo)
    else:
        _verify(names, echo)


def _list(names: list[str], entries: dict, as_json: bool, echo: Callable[[str], None]) -> None:
    rows = [
        {
            "name": name,
            "summary": entries[name].summary,
            "megabytes": round(sum(f.size for f in entries[name].files) / 1e6, 1),
            "licence": entries[name].licence,
            "present": store.weights_present(name),
        }
        for name in names
    ]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "present" if row["present"] else "not present"
        echo(f"{row['name']:<10} {row['megabytes']:>7} MB  {row['licence']:<12} {row['summary']}: {state}")


def _pull(name: str, echo: Callable[[str], None]) -> None:
    cancelled = threading.Event()
    with tqdm(unit="B", unit_scale=True, desc=name, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def on_progress(done: int, total: int, text: str) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(text)

        path = store.pull(name, on_progress, cancelled)
    echo(f"{name}: {path}")


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
