"""Which views when, at which size, at which share of the learning rates, and when to stop."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from backend.pipeline.stage import StageContext

_PATIENCE = 2
"""Judgements without a gain before the rates fall: one may be noise."""
_GAIN = 0.05
"""dB that count as a gain."""
_LAST_STEPS = 40
"""Steps over which the rates fall when a fit ends early."""
_JUDGEMENTS = 12
"""Times the views held out are looked at, over the steps at full size."""


@dataclass(frozen=True)
class Step:
    """number from 0; views to draw; whether at half size; share of the first learning rates; whether to
    judge the views held out after it."""

    number: int
    views: list[int]
    half: bool
    decay: float
    judge: bool


class Schedule:
    """The order of the work and the words of the progress; every engine follows it.

    Every view comes once before any comes again, in random order (the seed's). The first `coarse` share of
    the steps is at half size. When the views held out gain no more (`judge`), the rates fall to their end
    within 40 steps.
    """

    def __init__(
        self,
        views: int,
        steps: int,
        last: float,
        context: StageContext,
        *,
        batch: int = 1,
        coarse: float = 0.0,
    ) -> None:
        """views to fit to; last: share of the rates at the last step; batch: views a step."""
        self._views, self._last, self._context, self._batch = views, last, context, batch
        self._steps = self._end = steps
        self._coarse = round(coarse * steps)
        self._every = max((steps - self._coarse) // _JUDGEMENTS, 10)
        self._step, self._decay = 0, 1.0
        self._quality: list[float] = []
        self._best, self._failures = -np.inf, 0

    def __iter__(self) -> Iterator[Step]:
        random = self._context.generator()
        queue: list[int] = []
        shrink = self._last ** (1 / max(self._steps - 1, 1))
        while self._step < self._end:
            views = []
            for _ in range(self._batch):
                if not queue:
                    queue = random.permutation(self._views).tolist()
                views.append(queue.pop())
            number = self._step
            fine = number - self._coarse
            yield Step(number, views, fine < 0, self._decay, fine >= 0 and fine % self._every == 0)
            self._step += 1
            if self._end < self._steps:
                left = max(self._end - self._step, 1)
                shrink = (self._last / self._decay) ** (1 / left)
            self._decay *= shrink
        self._context.note(steps=self._step)

    @property
    def ending(self) -> bool:
        """Whether the fit ends before its time."""
        return self._end < self._steps

    def judge(self, quality: float) -> None:
        """Hear how well the views held out are shown, dB; ends the fit when they gain no more."""
        if quality > self._best + _GAIN:
            self._best, self._failures = quality, 0
            return
        self._failures += 1
        if self._failures >= _PATIENCE and not self.ending:
            self._end = min(self._step + 1 + _LAST_STEPS, self._steps)

    def report(self, step: Step, error: float, gaussians: int) -> None:
        """Progress after a step; error: mean squared error over the whole of its views. Raises Cancelled."""
        self._quality.append(-10 * np.log10(max(error, 1e-10)))
        recent = float(np.mean(self._quality[-self._views :]))
        self._context.step(
            step.number + 1,
            self._end,
            f"Fitting {gaussians:,} Gaussians, step {step.number + 1} of {self._end}, {recent:.1f} dB",
        )
