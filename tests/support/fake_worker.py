"""A worker with a recipe of six tiny stages, run by the real runner on the real artifact store.

Each stage waits `texture.size` milliseconds in steps of 10, and leaves a line in `ORRERY_FAKE_LOG` when it
really runs, so that tests see what was run again. Options choose what goes wrong, or that the stage waits
until the test opens the gate (a file).
"""

import json
import os
import re
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.pipeline import engines, runner
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import STANDARD, override, preset
from backend.pipeline.stage import Stage
from backend.pipeline.values import Exports
from backend.worker import reports as worker_reports
from backend.worker.main import serve
from shared_protocol.errors import StageFailed
from shared_protocol.messages import ResultFile
from tests.support import crash_points

STAGES = ("one", "two", "three", "four", "five", "six")
RECIPE = tuple(
    Stage(name, ("text",) if i == 0 else (STAGES[i - 1] + "_out",), name + "_out")
    for i, name in enumerate(STAGES)
)
RECIPES = (("fake", STAGES),)


class FakeEngine:
    version = "1"


@dataclass(frozen=True)
class FakeOptions:
    """One stage's: milliseconds it takes, size in bytes of the file it makes, what goes wrong in it."""

    engine: str = "fake"
    milliseconds: int = 0
    size: int = 10
    trouble: str = ""


class Block:
    """Memory that is counted while it is held."""

    held = 0

    def __init__(self, size):
        self.data = np.ones(size, np.uint8)
        Block.held += 1

    def __del__(self):
        Block.held -= 1


def run_stage(options, context, value):
    with open(os.environ["ORRERY_FAKE_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{context.stage} {os.getpid()}\n")
    if options.trouble == "deaf":
        time.sleep(60)
    steps = max(options.milliseconds // 10, 1)
    memory = []  # in use until the stage ends
    for step in range(steps):
        context.step(step, steps, f"step {step}")
        if options.trouble == "crash":
            os._exit(7)
        if options.trouble == "fail":
            raise StageFailed(f"{context.stage} cannot be done", "a better picture", "Try another one.")
        if options.trouble == "bug":
            raise ZeroDivisionError("a bug of ours")
        if options.trouble == "stuck_in_c":
            re.match("(a+)+$", "a" * 60 + "b")  # one call that holds the GIL for longer than anybody lives
        if options.trouble == "busy":
            busy_until = time.monotonic() + 0.009
            while time.monotonic() < busy_until:
                pass
        if options.trouble == "memory" or (options.trouble == "memory_once" and not context.low_memory):
            memory.append(Block(200_000_000))
            raise MemoryError("Unable to allocate 1.50 GiB for an array")
        if options.trouble == "gpu" and not Path(os.environ["ORRERY_FAKE_LOG"] + ".gpu").exists():
            Path(os.environ["ORRERY_FAKE_LOG"] + ".gpu").touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if options.trouble == "gpu_always":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        while options.trouble == "gate" and not Path(os.environ["ORRERY_FAKE_LOG"] + ".open").exists():
            context.step(step, steps, "waits")
            time.sleep(0.01)
        if options.trouble == "fill":
            memory.append(np.ones(options.size, np.uint8))
        if options.trouble == "preview":
            grey = step / steps
            context.preview(context.stage, lambda grey=grey: np.full((600, 400, 4), grey, np.float32))
        time.sleep(options.milliseconds / 1000 / steps)
    before = next(iter(value.files.values()))
    data = (before[:64] + context.stage.encode()) * (options.size // 8 + 1)
    return Exports({f"{context.stage}/result.bin": data[: options.size], "empty.txt": b""})


def execute(submit, reports, cancelled, low_memory):
    print("a library prints to stdout")  # noqa: T201  (must not disturb the pipe)
    if low_memory:
        with open(os.environ["ORRERY_FAKE_LOG"] + ".memory", "a", encoding="utf-8") as log:
            log.write(f"{Block.held} blocks held\n")
    override(preset(submit.quality), {})
    plan = json.loads(submit.label) if submit.label.startswith("{") else {}
    store = ArtifactStore()
    picture = store.blob_path(submit.inputs[0].sha256).read_bytes()
    options = {name: FakeOptions(**plan.get(name, plan.get("all", {}))) for name in STAGES}
    result = runner.run_recipe(
        RECIPE, {"text": Exports({"text": picture})}, options, seed=submit.seed, store=store,
        on_progress=reports.progress, cancelled=cancelled, on_preview=reports.preview, low_memory=low_memory,
    )  # fmt: skip
    files = []
    for artifact in result.artifacts.values():
        files += [ResultFile(n, artifact.sizes[n], artifact.files[n]) for n in artifact.files]
    unique = {file.name: file for file in files}
    store.pin(submit.job, [file.sha256 for file in unique.values()])
    return list(unique.values())


def install():
    """Stages as modules, the engine in the table: in this process only."""
    for name in STAGES:
        module = types.ModuleType(f"backend.stages.{name}.run")

        def run(options, context, **inputs):
            return run_stage(options, context, next(iter(inputs.values())))

        module.run = run
        sys.modules[module.__name__] = module
        package = types.ModuleType(f"backend.stages.{name}")
        package.__path__ = []
        sys.modules[package.__name__] = package
        engines.EMBEDDED[name] = "fake"
    entries = tuple(
        engines.EngineEntry(name, "fake", f"{__name__}:FakeEngine", "for tests") for name in STAGES
    )
    engines.ENGINES += entries
    assert not set(STAGES) & set(STANDARD)
    Path(os.environ["ORRERY_FAKE_LOG"]).touch()


if __name__ == "__main__":
    crash_points.install("worker")
    install()
    worker_reports.PREVIEW_SECONDS = 0.3
    serve(execute)
