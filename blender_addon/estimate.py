"""How long a job will take, from those before it; no bpy."""

from collections.abc import Iterable
from statistics import median

from .jobs import Job, State

USUAL = {
    "draft": {"matting": 1, "orbit": 6, "refine": 1, "splats": 14, "surface": 6, "texture": 8, "export": 4},
    "standard": {
        "matting": 2, "orbit": 10, "refine": 1, "splats": 50, "surface": 25, "texture": 30, "export": 8,
    },
    "high": {
        "matting": 3, "orbit": 12, "refine": 6, "splats": 240, "surface": 60, "texture": 90, "export": 20,
    },
}  # fmt: skip
"""Seconds of each stage on two cores of 2020, while there is no earlier job to learn from."""

LEARNT_FROM = 5


def stage_seconds(jobs: Iterable[Job], quality: str, recipe: str) -> dict[str, float]:
    """Stage -> seconds to expect: the median of the newest finished jobs like it, else the usual ones."""
    seen: dict[str, list[float]] = {}
    for job in reversed(list(jobs)):
        if job.recipe == recipe and job.settings.get("quality") == quality:
            for stage, seconds in job.stage_seconds.items():
                if seconds > 0 and len(seen.setdefault(stage, [])) < LEARNT_FROM:
                    seen[stage].append(seconds)
    expected = dict(USUAL.get(quality, USUAL["standard"]))
    if recipe != "image_to_3d":
        expected = {stage: s for stage, s in expected.items() if stage not in ("matting", "orbit", "refine")}
    return expected | {stage: median(values) for stage, values in seen.items()}


def whole(jobs: Iterable[Job], quality: str, recipe: str) -> float:
    """Seconds of a new job."""
    return sum(stage_seconds(jobs, quality, recipe).values())


def left(job: Job, jobs: Iterable[Job], now: float) -> float | None:
    """Seconds until a running job's result; None while nothing can be said. now: seconds since 1970"""
    if job.state is not State.RUNNING or not job.stage:
        return None
    expected = stage_seconds(jobs, job.settings.get("quality", "standard"), job.recipe)
    order = list(expected)
    after = order[order.index(job.stage) + 1 :] if job.stage in order else []
    rest = sum(expected[stage] for stage in after if stage not in job.reused)
    stage = expected.get(job.stage, 0.0) if job.stage not in job.reused else 0.0
    passed = max(now - job.stage_began, 0.0) if job.stage_began else 0.0
    if job.total and job.done and passed:
        share = min(job.done / job.total, 1.0)
        by_steps = passed / share * (1 - share)
        # Steps tell more the further the stage is; before, the earlier jobs do.
        return rest + share * by_steps + (1 - share) * max(stage - passed, by_steps * share)
    return rest + max(stage - passed, 0.0)


def words(seconds: float) -> str:
    """ "about 40 s", "about 3 min"."""
    if seconds < 90:
        return f"about {max(round(seconds / 10) * 10, 10)} s"
    return f"about {round(seconds / 60)} min"
