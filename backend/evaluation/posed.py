"""Trials of views that are there already: photographs, renders or a published model's orbit, with a scan."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.evaluation.noise import disagreeing
from backend.evaluation.objects import SUFFIXES, file_digest, load_object
from backend.evaluation.placing import Similarity
from backend.evaluation.settings import Settings, Step
from backend.evaluation.trials import Trial
from backend.geometry.cameras import Cameras
from backend.geometry.carving import looked_at
from backend.inputs.views import CAMERA_FILES, Cut, has_frames, read_views
from backend.pipeline.values import Picture, Views, quantize
from shared_protocol.errors import InvalidInput

OFF_RING = 3.0
"""Degrees: a held-out view that stands this much higher or lower than every given one is off the ring."""


@dataclass(frozen=True)
class PosedViews:
    """Views with their cameras, or the orbit of a published model, and the scan that they show.

    path       such a folder, a film, or a folder of such folders
    truth      the scan, normalised as every object, in whose frame a published orbit looks; without it a
               mesh beside the cameras, which then lies in the frame of the views
    orbit, elevation   as `reconstruct --orbit-cameras`
    limit, up, turn    as of `Objects`
    """

    path: Path
    truth: Path | None = None
    orbit: str | None = None
    elevation: float | None = None
    limit: int = 0
    up: str | None = None
    turn: float = 0.0

    def _found(self) -> dict[str, Path]:
        if not self.path.exists():
            raise InvalidInput(f"{self.path} does not exist", "a folder of views or a film of an orbit")
        if self.orbit is not None or self.path.is_file() or _has_cameras(self.path):
            return {self.path.stem if self.path.is_file() else self.path.name: self.path}
        found = {p.name: p for p in sorted(self.path.iterdir()) if p.is_dir() and _has_cameras(p)}
        if not found:
            raise InvalidInput(
                f"{self.path} holds no views",
                " or ".join(CAMERA_FILES) + " in it or in its folders",
                "Or name the model that made the orbit: --orbit-cameras.",
            )
        return dict(list(found.items())[: self.limit or None])

    def names(self) -> list[str]:
        """Of the folders."""
        return list(self._found())

    def digest(self, name: str) -> dict[str, Any]:
        """All pictures and cameras, and the mesh."""
        path = self._found()[name]
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(str(file.relative_to(path.parent)).encode() + file.read_bytes())
        return {
            "views": digest.hexdigest(),
            "truth": None if self.truth is None else file_digest(self.truth),
            "orbit": [self.orbit, self.elevation],
            "up": self.up,
            "turn": self.turn,
        }

    def trial(self, name: str, settings: Settings, step: Step) -> Trial:
        """Reads the views, those held out, and the scan. Cuts objects out as `reconstruct` does."""
        from backend.inputs.cut import cut_out

        if settings.task != "views":
            raise InvalidInput("views that are there already are no single picture", "--task views")

        def cut(picture: Picture) -> Picture:
            step("truth", 0, 0)
            return cut_out(picture)

        path = self._found()[name]
        views, facts = read_views(path, cut, orbit=self.orbit, elevation=self.elevation)
        shown = disagreeing(views.rgba, settings.noise, settings.seed, name)
        held = held_out(path, cut) if self.orbit is None else None
        trial = Trial(
            name,
            dataclasses.replace(views, rgba=shown),
            views.rgba[0],
            held,
            () if held is None else off_ring(views.cameras, held.cameras),
            facts=facts,
        )
        truth = self.truth or _mesh_beside(path)
        if truth is None:
            return trial
        scan = load_object(name, truth, up=self.up, turn=self.turn)
        beside = self.truth is None
        return dataclasses.replace(
            trial,
            vertices=scan.vertices,
            faces=scan.faces,
            to_truth=Similarity(1 / scan.side, offset=-scan.middle / scan.side) if beside else Similarity(),
            facts={**facts, "true_faces": len(scan.faces)},
        )


def held_out(path: Path, cut: Cut) -> Views | None:
    """The `heldout` frames of a folder's camera file; None where it has none."""
    return read_views(path, cut, frames="heldout")[0] if has_frames(path, "heldout") else None


def write_posed(folder: Path, views: Views) -> None:
    """The views as a folder that `reconstruct` reads: views/000.png ... and cameras.json."""
    (folder / "views").mkdir(parents=True, exist_ok=True)
    frames = []
    for number, picture in enumerate(views.rgba):
        name = f"views/{number:03d}.png"
        Image.fromarray(quantize(picture)).save(folder / name)
        pose, lens = views.cameras.world_from_camera[number], views.cameras.intrinsics[number]
        frames.append({"file_path": name, "world_from_camera": pose.tolist(), "K": lens.tolist()})
    size = {"width": views.cameras.width, "height": views.cameras.height}
    (folder / "cameras.json").write_text(json.dumps({**size, "frames": frames}), encoding="utf-8")


def off_ring(given: Cameras, held: Cameras) -> tuple[int, ...]:
    """Numbers of the held-out cameras that stand higher or lower than all given ones."""
    middle, _ = looked_at(given)
    low, high = (f(_elevations(given, middle)) for f in (np.min, np.max))
    elevation = _elevations(held, middle)
    return tuple(np.flatnonzero((elevation < low - OFF_RING) | (elevation > high + OFF_RING)).tolist())


def _elevations(cameras: Cameras, middle: np.ndarray) -> np.ndarray:
    """(N,) degrees above the horizontal plane through `middle`."""
    offset = cameras.centres - middle
    return np.degrees(np.arctan2(offset[:, 2], np.hypot(offset[:, 0], offset[:, 1])))


def _has_cameras(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in CAMERA_FILES)


def _mesh_beside(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.parent
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    return found[0] if found else None
