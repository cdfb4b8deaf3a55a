"""What a stage and an engine are, and what a running stage is handed."""

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared_protocol.errors import Cancelled


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    name    also the folder in backend/stages and the key of its options
    inputs  names of the values it reads
    output  name of the value it makes
    """

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Progress:
    """One report of a running recipe.

    kind   started | step | finished | reused
    done, total   steps of this stage (0, 0 while unknown)
    text   what is happening, in words
    key    of the stage's stored result, where it is finished or reused
    """

    kind: str
    stage: str
    index: int
    stages: int
    done: int = 0
    total: int = 0
    text: str = ""
    seconds: float = 0.0
    key: str = ""


OnPreview = Callable[[str, Callable[[], np.ndarray]], None]
"""Called with a picture's name and a function that draws it."""


@dataclass
class StageContext:
    """What a stage may ask of the world around it: its engine, progress, cancel, randomness.

    facts     numbers for the report (`fit_psnr`, `confidence` ...)
    warnings  sentences for the report
    low_memory  this stage ran out of memory before: take the way that needs less, if there is one
    """

    stage: str
    engine: Any
    engine_name: str
    seed: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    on_preview: OnPreview | None = None
    low_memory: bool = False

    def check(self) -> None:
        """Raise Cancelled if the user cancelled. Call at least every 0.3 s of work."""
        if self.cancelled.is_set():
            raise Cancelled(f"cancelled during {self.stage}")

    def step(self, done: int, total: int, text: str = "") -> None:
        """Report progress within the stage; raises Cancelled as `check` does."""
        self.check()
        self.on_step(done, total, text)

    def preview(self, name: str, draw: Callable[[], np.ndarray]) -> None:
        """Offer a picture of what there is so far: `draw` gives (H, W, 3 or 4) float32, sRGB-encoded 0..1.

        It is called only where a worker shows pictures and the last one is not too young: draw small, offer
        often.
        Names: "cutout", "orbit", "splats", "surface". A preview never fails a stage.
        """
        if self.on_preview is not None:
            self.on_preview(name, draw)

    def note(self, **facts: Any) -> None:
        """Add plain numbers, texts or lists to the report."""
        self.facts.update(facts)

    def warn(self, sentence: str) -> None:
        """Add one sentence that the user should read."""
        self.warnings.append(sentence)

    def generator(self) -> np.random.Generator:
        """A random generator that depends on the job's seed and the stage only."""
        return np.random.default_rng([self.seed, zlib.crc32(self.stage.encode())])
