"""What an evaluation does with every object."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.evaluation.protocols import Protocol
from backend.pipeline.options import StageOptions
from backend.pipeline.recipes import IMAGE_TO_3D, VIEWS_TO_3D
from backend.pipeline.stage import Stage
from shared_protocol.errors import InvalidInput

Step = Callable[[str, int, int], None]
"""Called with what is happening, and how far; may raise Cancelled."""


@dataclass(frozen=True)
class Settings:
    """The same for all objects.

    options  of the stages, from the preset; changes  the user's own, which win over the protocol's
    noise    level at which the views given to the recipe disagree (see `noise`); task "views" only
    """

    protocol: Protocol
    task: str
    options: Mapping[str, StageOptions]
    changes: Mapping[str, Any] = field(default_factory=dict)
    placement: str = "camera"
    seed: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 10:
            raise InvalidInput(f"noise is {self.noise:g}", "0 to 10")
        if self.noise and self.task != "views":
            raise InvalidInput("noise needs several views", "--task views")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The recipe; its files bring the Gaussians as a user gets them, settled on the surface."""
        return IMAGE_TO_3D if self.task == "image" else VIEWS_TO_3D

    def describe(self) -> dict[str, Any]:
        """Everything that decides the figures of an object, as plain data."""
        return {
            "protocol": dataclasses.asdict(self.protocol),
            "task": self.task,
            "placement": self.placement,
            "seed": self.seed,
            "noise": self.noise,
            "options": {stage: dataclasses.asdict(value) for stage, value in self.options.items()},
            "changes": {name: str(value) for name, value in self.changes.items()},
        }
