"""What the recipe is given, and what its result is judged by; trials of meshes, which are rendered."""

import dataclasses
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backend.evaluation.noise import disagreeing
from backend.evaluation.objects import file_digest, find_objects, load_object
from backend.evaluation.placing import Similarity
from backend.evaluation.renders import render_truth
from backend.evaluation.settings import Settings, Step
from backend.pipeline.values import Views


@dataclass(frozen=True)
class Trial:
    """One object's measurement.

    given     what the recipe gets: one view for task "image"
    front     (H, W, 4) the true picture of the first of them
    judged    cameras and true pictures, in the frame of the given views; None where there are none
    off       numbers of the judged views that lie off the ring of the given ones
    vertices, faces   the normalised truth, None where it is not known
    to_truth  from the frame of the given views to that of the truth
    facts     for the record
    """

    name: str
    given: Views
    front: np.ndarray
    judged: Views | None
    off: tuple[int, ...] = ()
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None
    to_truth: Similarity = dataclasses.field(default_factory=Similarity)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Source(Protocol):
    """Where trials come from: a list of names, and one trial a name."""

    def names(self) -> list[str]:
        """Of the objects, sorted."""

    def digest(self, name: str) -> dict[str, Any]:
        """Everything of the files that decides the figures, as plain data."""

    def trial(self, name: str, settings: Settings, step: Step) -> Trial:
        """Read (and draw) one object."""


@dataclass(frozen=True)
class Objects:
    """Meshes: the first `limit` of a folder (0: all), their up axis and a turn about it, degrees."""

    folder: Path
    limit: int = 0
    up: str | None = None
    turn: float = 0.0

    def _found(self) -> dict[str, Path]:
        found = find_objects(self.folder)
        return dict(found[: self.limit] if self.limit else found)

    def names(self) -> list[str]:
        """Of the files."""
        return list(self._found())

    def digest(self, name: str) -> dict[str, Any]:
        """The mesh's bytes, and how it is turned."""
        return {"object": file_digest(self._found()[name]), "up": self.up, "turn": self.turn}

    def trial(self, name: str, settings: Settings, step: Step) -> Trial:
        """Renders the rig's views and the judged ones."""
        truth = load_object(name, self._found()[name], up=self.up, turn=self.turn)
        protocol, rig = settings.protocol, settings.protocol.rig
        elevation = rig.elevation_of(np.random.default_rng([settings.seed, zlib.crc32(name.encode())]))
        given = rig.ring(elevation)[: 1 if settings.task == "image" else None]
        judged = protocol.judged(settings.task, elevation)
        pictures = render_truth(
            truth,
            rig.cameras([*given, *judged], rig.size),
            lit=protocol.lit,
            on_view=lambda view: step("truth", view, len(given) + len(judged)),
        )
        shown = disagreeing(pictures[: len(given)], settings.noise, settings.seed, name)
        return Trial(
            name,
            Views(shown, rig.cameras(given, rig.size)),
            pictures[0],
            Views(pictures[len(given) :], rig.cameras(judged, rig.size)),
            tuple(range(len(judged) - len(protocol.extra), len(judged))),
            truth.vertices,
            truth.faces,
            facts={
                "elevation": elevation,
                "true_faces": len(truth.faces),
                "warnings": _cut_off(pictures),
            },
        )


def _cut_off(pictures: np.ndarray) -> list[str]:
    """A sentence where the rig's frame does not hold the whole object."""
    alpha = pictures[..., 3]
    edges = np.concatenate([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], axis=1)
    count = int((edges > 0.5).any(axis=1).sum())
    return [f"The object leaves the frame in {count} of {len(alpha)} views of the rig."] if count else []
