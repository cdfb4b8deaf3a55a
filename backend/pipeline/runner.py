"""Runs a recipe: stage by stage, reusing stored results, reporting progress, ready to be cancelled."""

import dataclasses
import hashlib
import importlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from backend import __version__
from backend.pipeline.artifacts import Artifact, ArtifactStore
from backend.pipeline.engines import EngineEntry, cuda_present, default_engine, find_engine, load_engine
from backend.pipeline.memory import free_bytes, give_back, keep_little
from backend.pipeline.options import AUTO, StageOptions
from backend.pipeline.stage import OnPreview, Progress, Stage, StageContext


@dataclass(frozen=True)
class StageReport:
    """One line of report.json."""

    stage: str
    engine: str
    seconds: float
    reused: bool
    facts: dict[str, Any]
    warnings: list[str]


@dataclass
class RunResult:
    """All values of a finished recipe by name, their artifacts, and one report a stage."""

    values: dict[str, Any]
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    reports: list[StageReport] = field(default_factory=list)


_WITH_MODELS = ("orbit", "refine")
"""Stages whose engines run the published networks."""


@cache
def code_fingerprint(stage: str) -> str:
    """Hash of the code that a stage's result depends on, so that changed code never reuses old results."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(__version__.encode())
    folders = [root / "geometry", root / "stages" / stage]
    if stage in _WITH_MODELS:
        folders.append(root / "models")
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def stage_key(
    stage: Stage, engine: str, version: str, options: StageOptions, inputs: Mapping[str, str], seed: int
) -> str:
    """The name of a stage's result: everything it depends on, hashed."""
    settings = {k: v for k, v in dataclasses.asdict(options).items() if k != "engine"}
    description = {
        "stage": stage.name,
        "engine": engine,
        "version": version,
        "code": code_fingerprint(stage.name),
        "options": settings,
        "inputs": dict(inputs),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def run_recipe(
    recipe: tuple[Stage, ...],
    inputs: Mapping[str, Any],
    options: Mapping[str, StageOptions],
    *,
    seed: int = 0,
    store: ArtifactStore | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: threading.Event | None = None,
    before_stage: Callable[[StageContext], None] = lambda context: None,
    on_preview: OnPreview | None = None,
    low_memory: bool = False,
) -> RunResult:
    """Run every stage of `recipe` on the named `inputs`.

    A stage whose key is in the store is not run again. Its value is read back from the store either
    way, so a resumed run gives the same bytes as an undisturbed one.

    on_preview takes pictures of what there is so far; low_memory asks engines for their way that needs less.
    before_stage is called in front of each stage that really runs (to wait for compiled code, say).

    Raises Cancelled within a fraction of a second of `cancelled.set()`, and the errors of the stages.
    """
    keep_little()
    give_back()
    store = store or ArtifactStore()
    cancelled = cancelled or threading.Event()
    result = RunResult(dict(inputs))
    keys = {name: _content_key(value) for name, value in inputs.items()}
    for index, stage in enumerate(recipe):

        def report(
            kind: str, done: int = 0, total: int = 0, text: str = "", seconds: float = 0.0, key: str = "",
            *, stage: Stage = stage, index: int = index,
        ) -> None:  # fmt: skip
            on_progress(Progress(kind, stage.name, index, len(recipe), done, total, text, seconds, key))

        stage_options = options[stage.name]
        module = importlib.import_module(f"backend.stages.{stage.name}.run")
        arguments = {name: result.values[name] for name in stage.inputs}
        name = stage_options.engine
        if name == AUTO:
            choose = getattr(module, "choose", None)
            name = choose(**arguments) if choose else default_engine(stage.name).name
        entry = find_engine(stage.name, name)
        engine = load_engine(entry)
        # What options leave to the machine (are the weights here?) is settled before the key is made.
        settle = getattr(module, "settle", None)
        stage_options, sentences = settle(stage_options, engine) if settle else (stage_options, [])
        used = {n: keys[n] for n in stage.inputs}
        key = stage_key(stage, name, getattr(engine, "version", "1"), stage_options, used, seed)
        artifact = store.find(key)
        reused = artifact is not None
        if artifact is None:
            context = StageContext(
                stage.name, engine, name, seed, cancelled,
                lambda done, total, text, report=report: report("step", done, total, text),
                on_preview=on_preview, low_memory=low_memory,
            )  # fmt: skip
            _estimate_memory(entry, context)
            context.check()
            report("started")
            before_stage(context)
            start = time.perf_counter()
            value = module.run(**arguments, options=stage_options, context=context)
            seconds = time.perf_counter() - start
            context.check()
            artifact = store.save(
                key, value, engine=name, facts=context.facts, warnings=context.warnings, seconds=seconds
            )
            del value
            report("finished", seconds=seconds, key=key)
        else:
            report("reused", seconds=artifact.seconds, key=key)
        result.values[stage.output] = store.load(artifact)
        result.artifacts[stage.output] = artifact
        keys[stage.output] = key
        _let_go(result.values, recipe, index)
        give_back()
        result.reports.append(
            StageReport(
                stage.name, name, artifact.seconds, reused, artifact.facts, [*sentences, *artifact.warnings]
            )
        )
    return result


def _let_go(values: dict[str, Any], recipe: tuple[Stage, ...], index: int) -> None:
    """Drop what earlier stages made and no later one takes; the last stage's inputs and output stay."""
    later = recipe[index + 1 :]
    needed = {name for stage in later for name in stage.inputs}
    for stage in recipe[: index + 1] if later else ():
        if stage.output not in needed:
            values.pop(stage.output, None)


def _estimate_memory(entry: EngineEntry, context: StageContext) -> None:
    """Before an engine begins: where it may not fit, its frugal way is taken at once."""
    on_gpu = bool(entry.gpu_bytes) and cuda_present()
    needed = entry.gpu_bytes if on_gpu else entry.memory_bytes
    free = free_bytes(device=on_gpu)
    if needed and 0 < free < needed:
        context.low_memory = True
        context.warn(
            f"Little {'GPU ' if on_gpu else ''}memory was free for the {entry.stage} stage: "
            f"{free / 2**30:.1f} GiB, {needed / 2**30:.1f} GiB are usual. "
            "Close other programs, or use a lower quality."
        )


def _content_key(value: Any) -> str:
    digest = hashlib.sha256(type(value).__name__.encode())
    for name, data in sorted(value.to_files().items()):
        digest.update(name.encode())
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()
