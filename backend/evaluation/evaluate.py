"""All objects of a source: measured one after another, each kept as it is done, tables at the end."""

import hashlib
import io
import json
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from backend.evaluation.measure import STEPS, Measured, Run, measure
from backend.evaluation.plot import contact_rows, draw_plot
from backend.evaluation.scores import PERCEPTUAL, load_perceptual
from backend.evaluation.settings import Settings
from backend.evaluation.tables import Row, csv_table, markdown_table
from backend.evaluation.trials import Source
from backend.geometry.parallel import thread_count
from backend.local_run import Bars, run_with_bars
from backend.output import OutputFolder
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.runner import code_fingerprint
from backend.pipeline.stage import Progress
from backend.report import versions
from backend.warmup import start_warm_up
from backend.weights import stlpips
from backend.weights.store import catalog, weights_present
from shared_protocol.errors import Cancelled, OrreryError, OutOfMemory, StageFailed


def evaluate(source: Source, settings: Settings, out: Path, say: Callable[[str], None]) -> list[Row]:
    """Measure, write results.csv, .md, .png and environment.json into `out`; returns the rows.

    Objects whose record in `out` was made by the same code, options, weights and file are not measured again.
    A failed object is recorded, the others go on, and StageFailed names them at the end. Ctrl-C raises
    Cancelled; the finished ones are kept and in the tables.
    """
    names = source.names()
    rows: list[Row] = []
    with OutputFolder(out) as folder:
        store = ArtifactStore()
        try:
            with start_warm_up() as warm_up:

                def run(stages, inputs, options):
                    return run_with_bars(
                        stages,
                        inputs,
                        options,
                        settings.seed,
                        store,
                        warm_up.before_stage,
                        Bars(1, STEPS - 1),
                    )

                for number, name in enumerate(names, 1):
                    say(f"[{number}/{len(names)}] {name}")
                    rows.append(_one(name, source, settings, folder, run))
                    say("    " + rows[-1].sentence)
        except (KeyboardInterrupt, Cancelled):
            raise Cancelled(
                f"cancelled after {len(rows)} of {len(names)} objects",
                remedy="Run the same command again: finished objects are not measured again.",
            ) from None
        finally:
            if rows:
                folder.publish(_tables(rows, settings))
            store.prune()
    failed = [row.name for row in rows if row.error]
    if failed:
        raise StageFailed(
            f"{len(failed)} of {len(rows)} objects could not be evaluated: {', '.join(failed)}",
            remedy=f"The reasons are in {out / 'results.md'}; the same command tries them again.",
        )
    return rows


def _one(name: str, source: Source, settings: Settings, folder: OutputFolder, run: Run) -> Row:
    """The row of one object, from its record or measured now."""
    record = f"objects/{name}.json"
    key = record_key(name, source, settings)
    known = _read_record(folder.path / record, key)
    if known is not None:
        return Row(name, known["figures"], reused=True)
    total = len(settings.stages) + STEPS
    with Bars() as bars:
        state = {"what": ""}

        def step(what: str, done: int, of: int) -> None:
            index = 0 if what == "truth" else total - 1
            if state["what"] != what:
                bars.show(Progress("started", what, index, total))
                state["what"] = what
            bars.show(Progress("step", what, index, total, done, of))

        try:
            step("truth", 0, 0)
            trial = source.trial(name, settings, step)
            measured = measure(trial, settings, load_perceptual(), run, step)
        except Cancelled:
            raise
        except (OrreryError, MemoryError) as error:
            known = error if isinstance(error, OrreryError) else OutOfMemory("the memory is used up")
            folder.publish({record: _record(key, name, "failed", {"error": known.to_wire()})})
            return Row(name, {}, error=f"{known.code}: {known}")
    content = {"figures": measured.figures, **measured.facts}
    folder.publish({f"objects/{name}.png": _picture(measured), record: _record(key, name, "done", content)})
    return Row(name, measured.figures)


def record_key(name: str, source: Source, settings: Settings) -> str:
    """Hash of everything that an object's figures depend on."""
    parts = settings.describe() | {
        "name": name,
        "object": source.digest(name),
        "code": [_own_code(), *(code_fingerprint(stage.name) for stage in settings.stages)],
        "weights": [entry.name for entry in catalog() if weights_present(entry.name)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _own_code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _read_record(path: Path, key: str) -> dict[str, Any] | None:
    """A finished record of this key; a failed one is tried again, a damaged one made anew."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["key"] == key and record["status"] == "done" else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _record(key: str, name: str, status: str, content: dict[str, Any]) -> bytes:
    return (json.dumps({"name": name, "key": key, "status": status, **content}, indent=1) + "\n").encode()


def _picture(measured: Measured) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(contact_rows(measured.rows)).save(buffer, "PNG")
    return buffer.getvalue()


def _tables(rows: list[Row], settings: Settings) -> dict[str, bytes]:
    facts = environment(settings)
    return {
        "results.csv": csv_table(rows).encode(),
        "results.md": markdown_table(rows, settings, facts).encode(),
        "results.png": draw_plot(rows, settings),
        "environment.json": (json.dumps(facts, indent=1) + "\n").encode(),
    }


def environment(settings: Settings) -> dict[str, Any]:
    """What made the figures: settings, versions, machine."""
    present = stlpips.present()
    return {
        "command": " ".join(["python -m backend", *sys.argv[1:]]),
        **settings.describe(),
        "versions": versions(),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": thread_count()},
        "perceptual": PERCEPTUAL if present else f"unavailable: its weights are not here. {stlpips.REMEDY}",
        "code": hashlib.sha256(
            "".join([_own_code(), *(code_fingerprint(s.name) for s in settings.stages)]).encode()
        ).hexdigest(),
    }
