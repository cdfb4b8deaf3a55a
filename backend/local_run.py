"""Runs a recipe in this process for the command line: progress bars, Ctrl-C, results into a folder.

The work runs in a thread; the main thread only draws and listens, so that Ctrl-C is answered at once
even while compiled code runs.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.output import OutputFolder
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import StageOptions
from backend.pipeline.recipes import RECIPES
from backend.pipeline.runner import RunResult, run_recipe
from backend.pipeline.stage import Progress, Stage, StageContext
from backend.report import build_report
from backend.warmup import start_warm_up
from shared_protocol.errors import Cancelled

_STOP_SECONDS = 0.8


def run_into_folder(
    recipe: str,
    inputs: Mapping[str, Any],
    options: Mapping[str, StageOptions],
    out: Path,
    *,
    quality: str,
    seed: int,
    source: str,
    warnings: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run `recipe` and write its files and report.json into `out`; returns the report.

    Ctrl-C raises Cancelled within a second. Nothing is written to `out` unless all is done.
    """
    store = ArtifactStore()
    with OutputFolder(out) as folder:
        with start_warm_up() as warm_up:
            result = run_with_bars(RECIPES[recipe], inputs, options, seed, store, warm_up.before_stage)
        report = build_report(
            result,
            recipe=recipe,
            quality=quality,
            seed=seed,
            source=source,
            warnings=warnings,
            extra=extra,
        )
        files = dict(result.values["exports"].files)
        files["report.json"] = json.dumps(report, indent=2, ensure_ascii=False).encode()
        folder.publish(files)
    store.prune()
    return report


def run_with_bars(
    stages: tuple[Stage, ...],
    inputs: Mapping[str, Any],
    options: Mapping[str, StageOptions],
    seed: int,
    store: ArtifactStore,
    before_stage: Callable[[StageContext], None],
    bars: "Bars | None" = None,
) -> RunResult:
    """Run these stages in a thread, drawing their progress here; Ctrl-C raises Cancelled within a second."""
    cancelled = threading.Event()
    events: queue.Queue[Progress | RunResult | BaseException] = queue.Queue()

    def work() -> None:
        try:
            result = run_recipe(
                stages, inputs, options, seed=seed, store=store,
                on_progress=events.put, cancelled=cancelled, before_stage=before_stage,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001  (handed to the main thread, which raises it)
            events.put(error)
        else:
            events.put(result)

    thread = threading.Thread(target=work, name="orrery-recipe", daemon=True)
    thread.start()
    with bars or Bars() as bars:
        try:
            while True:
                try:
                    event = events.get(timeout=0.1)
                except queue.Empty:
                    bars.tick()
                    continue
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, RunResult):
                    return event
                bars.show(event)
        except KeyboardInterrupt:
            cancelled.set()
            thread.join(_STOP_SECONDS)
            raise Cancelled(
                "cancelled", remedy="Nothing was written; finished stages are kept for the next run."
            ) from None


class Bars:
    """One bar a stage on a terminal; plain lines elsewhere (logs).

    before, after  how many other steps stand around the recipe's in the count
    """

    def __init__(self, before: int = 0, after: int = 0) -> None:
        self._before, self._after = before, after
        self._bar: tqdm | None = None
        self._live = sys.stderr.isatty()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, progress: Progress) -> None:
        """Draw one progress report."""
        number = self._before + progress.index + 1
        label = f"{number}/{self._before + progress.stages + self._after} {progress.stage:<8}"
        if progress.kind == "reused":
            self._line(f"{label} reused from an earlier run")
        elif progress.kind == "started":
            self._open(label)
        elif progress.kind == "finished":
            self._close(f"{label} done in {progress.seconds:.1f} s")
        elif self._bar is not None:
            self._bar.total = max(progress.total, 1)
            self._bar.n = progress.done
            self._bar.set_postfix_str(progress.text)

    def tick(self) -> None:
        """Keep the elapsed time moving."""
        if self._bar is not None:
            self._bar.refresh()

    def _open(self, label: str) -> None:
        self._close()
        if self._live:
            self._bar = tqdm(
                total=1,
                desc=label,
                bar_format="{desc} {bar:24} {percentage:3.0f}% {elapsed}{postfix}",
                leave=False,
                file=sys.stderr,
                dynamic_ncols=True,
            )
        else:
            self._line(label)

    def _close(self, text: str | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if text:
            self._line(text)

    def _line(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def leave(code: int) -> None:
    """End the process now, without waiting for compiled code in threads that cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
