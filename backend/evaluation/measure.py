"""One object through the pipeline and back: render it, reconstruct it, judge the result."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.evaluation.objects import TrueObject
from backend.evaluation.placing import Similarity, by_box, by_camera, by_icp, lens_for
from backend.evaluation.protocols import Protocol
from backend.evaluation.renders import render_truth
from backend.evaluation.scores import PictureJudge, score_shape, seen_from
from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import render_mesh
from backend.geometry.perceptual import PerceptualNet
from backend.geometry.rasterize import rasterize
from backend.pipeline.options import StageOptions, override
from backend.pipeline.recipes import EXPORT, IMAGE_TO_3D, VIEWS_TO_3D
from backend.pipeline.runner import RunResult
from backend.pipeline.stage import Stage
from backend.pipeline.values import Picture, Splats, TexturedMesh, Views

STEPS = 2
"""Steps around the recipe's own: drawing the truth, judging."""


@dataclass(frozen=True)
class Settings:
    """What an evaluation does with every object.

    options  of the stages, from the preset; changes  the user's own, which win over the protocol's
    """

    protocol: Protocol
    task: str
    options: Mapping[str, StageOptions]
    changes: Mapping[str, Any] = field(default_factory=dict)
    placement: str = "camera"
    seed: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The recipe without its files."""
        recipe = IMAGE_TO_3D if self.task == "image" else VIEWS_TO_3D
        return tuple(stage for stage in recipe if stage is not EXPORT)


@dataclass(frozen=True)
class Measured:
    """Figures of one object by column, facts for its record, and pictures to look at.

    rows  name -> (N, H, W, 3): truth, frames, mesh, splats, from the judged views
    """

    figures: dict[str, float]
    facts: dict[str, Any]
    rows: dict[str, np.ndarray]


Run = Callable[[tuple[Stage, ...], dict[str, Any], Mapping[str, StageOptions]], RunResult]
Step = Callable[[str, int, int], None]
"""Called with what is happening, and how far; may raise Cancelled."""


def measure(
    truth: TrueObject, settings: Settings, net: PerceptualNet | None, run: Run, step: Step
) -> Measured:
    """All figures of one object. Raises what the stages raise."""
    protocol, task = settings.protocol, settings.task
    rig = protocol.rig
    elevation = rig.elevation_of(np.random.default_rng([settings.seed, zlib.crc32(truth.name.encode())]))
    given = rig.ring(elevation)[: 1 if task == "image" else None]
    judged = protocol.judged(task, elevation)
    pictures = render_truth(
        truth,
        rig.cameras([*given, *judged], rig.size),
        lit=protocol.lit,
        on_view=lambda view: step("truth", view, len(given) + len(judged)),
    )
    cameras = rig.cameras(given, rig.size)
    inputs, options = _task_inputs(settings, elevation, cameras, pictures[: len(given)])
    result = run(settings.stages, inputs, options)

    textured: TexturedMesh = result.values["textured"]
    splats: Splats = result.values["splats"]
    place = _place(settings, truth, cameras, result, options, lambda: step("judging", 0, 0))
    target = rig.cameras(judged, rig.size)
    drawn = {
        "frames": _frames(protocol, task, result.values["views"], target, place),
        "mesh": _of_mesh(textured, place.cameras(target), lambda view: step("judging", view, len(target))),
        "splats": _of_splats(splats, place.cameras(target), lambda: step("judging", 0, 0)),
    }
    judge = PictureJudge(pictures[len(given) :], net, lambda: step("judging", 0, 0))
    figures: dict[str, float] = {}
    for source, views in drawn.items():
        if views:
            figures |= {f"{source}_{name}": value for name, value in judge.score(views).items()}
        if views and protocol.extra and source != "frames":
            on = len(judged) - len(protocol.extra)
            for name, part in (("on", range(on)), ("off", range(on, len(judged)))):
                figures[f"{source}_psnr_{name}"] = judge.psnr({view: views[view] for view in part})
    front = _of_mesh(textured, place.cameras(cameras.take([0])), lambda view: step("judging", 0, 0))
    figures["input_psnr"] = PictureJudge(pictures[:1], None).psnr(front)
    if protocol.shape is not None:
        figures |= score_shape(
            place.points(textured.mesh.vertices),
            textured.mesh.faces,
            truth.vertices,
            truth.faces,
            protocol.shape,
            lambda: step("judging", 0, 0),
        )
    figures["seconds"] = sum(report.seconds for report in result.reports)
    facts = {
        "elevation": elevation,
        "true_faces": len(truth.faces),
        "faces": len(textured.mesh.faces),
        "gaussians": len(splats),
        "placement": {
            "scale": place.scale,
            "rotation": place.rotation.tolist(),
            "offset": place.offset.tolist(),
        },
        "stages": [
            {"stage": r.stage, "engine": r.engine, "seconds": round(r.seconds, 3), "reused": r.reused}
            for r in result.reports
        ],
        "warnings": [
            *_cut_off(pictures),
            *(text for report in result.reports for text in report.warnings),
        ],
    }
    return Measured(figures, facts, {"truth": pictures[len(given) :]} | _stacked(drawn, pictures[0]))


def _cut_off(pictures: np.ndarray) -> list[str]:
    """A sentence where the rig's frame does not hold the whole object."""
    alpha = pictures[..., 3]
    edges = np.concatenate([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], axis=1)
    count = int((edges > 0.5).any(axis=1).sum())
    return [f"The object leaves the frame in {count} of {len(alpha)} views of the rig."] if count else []


def _task_inputs(
    settings: Settings, elevation: float, cameras: Cameras, pictures: np.ndarray
) -> tuple[dict[str, Any], dict[str, StageOptions]]:
    """What the recipe is given, and its options: it is told the input camera's lens and elevation."""
    picture = Picture(pictures[0])
    if settings.task == "views":
        options = override(dict(settings.options), dict(settings.changes))
        return {"picture": picture, "views": Views(pictures, cameras)}, options
    options = override(dict(settings.options), dict(settings.changes))
    ring = options["orbit"]
    fov = lens_for(cameras, picture.rgba[..., 3], options["matting"].fill)
    # The frame keeps its width in metres at the object, and so the object its size.
    width = 2 * ring.radius * np.tan(np.radians(ring.fov) / 2)
    radius = float(width / 2 / np.tan(np.radians(fov) / 2))
    told = {
        "orbit.views": settings.protocol.rig.views,
        "orbit.elevation": elevation,
        "orbit.fov": fov,
        "orbit.radius": radius,
    }
    return {"picture": picture}, override(options, told | dict(settings.changes))


def _place(
    settings: Settings,
    truth: TrueObject,
    cameras: Cameras,
    result: RunResult,
    options: Mapping[str, StageOptions],
    check: Callable[[], None],
) -> Similarity:
    if settings.task == "views":
        return Similarity()
    matting = next(report for report in result.reports if report.stage == "matting")
    mesh = result.values["textured"].mesh
    place = by_camera(
        cameras.take([0]), result.values["views"].cameras, matting.facts, options["matting"].fill
    )
    if settings.placement in ("box", "icp"):
        place = by_box(mesh, place)
    if settings.placement == "icp":
        place = by_icp(mesh, truth.vertices, truth.faces, place, check)
    return place


def _frames(
    protocol: Protocol, task: str, views: Views, target: Cameras, place: Similarity
) -> dict[int, np.ndarray]:
    """Judged view -> the generated frame that shows it; empty where the paper judges none."""
    if task != "image" or not protocol.frames or len(views) != protocol.rig.views:
        return {}
    first = 0 if protocol.with_input else 1
    moved = place.cameras(target)
    return {
        frame - first: seen_from(views.rgba[frame], views.cameras.take([frame]), moved.take([frame - first]))
        for frame in range(first, len(views))
    }


def _of_mesh(
    textured: TexturedMesh, cameras: Cameras, on_view: Callable[[int], None]
) -> dict[int, np.ndarray]:
    mesh = textured.mesh
    drawn = render_mesh(
        mesh.vertices, mesh.faces, textured.uvs, textured.texture, cameras, supersample=3, on_view=on_view
    )
    return dict(enumerate(drawn))


def _of_splats(splats: Splats, cameras: Cameras, check: Callable[[], None]) -> dict[int, np.ndarray]:
    """Drawn at twice the size and averaged: a fit at a larger size would flicker in small pictures."""
    fine = cameras.resized(2 * cameras.width, 2 * cameras.height)
    drawn = {}
    for view in range(len(cameras)):
        check()
        image = rasterize(splats, fine.take([view]), antialiased=splats.antialiased, differentiable=False)
        colour = np.clip(image.color[0], 0, 1)
        drawn[view] = colour.reshape(cameras.height, 2, cameras.width, 2, 3).mean(axis=(1, 3))
    return drawn


def _stacked(drawn: Mapping[str, Mapping[int, np.ndarray]], blank: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.stack([views[i] for i in sorted(views)]) for name, views in drawn.items() if views}


def describe(settings: Settings) -> dict[str, Any]:
    """Everything that decides the figures of an object, as plain data."""
    return {
        "protocol": dataclasses.asdict(settings.protocol),
        "task": settings.task,
        "placement": settings.placement if settings.task == "image" else "as is",
        "seed": settings.seed,
        "options": {stage: dataclasses.asdict(value) for stage, value in settings.options.items()},
        "changes": {name: str(value) for name, value in settings.changes.items()},
    }
