"""One object through the pipeline and back: render it, reconstruct it, judge the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.evaluation.placing import Similarity, by_box, by_camera, by_icp, lens_for
from backend.evaluation.protocols import Protocol
from backend.evaluation.scores import PictureJudge, score_shape, seen_from
from backend.evaluation.settings import Settings, Step
from backend.evaluation.trials import Trial
from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import render_mesh
from backend.geometry.perceptual import PerceptualNet
from backend.geometry.rasterize import rasterize
from backend.pipeline.options import StageOptions, override
from backend.pipeline.runner import RunResult
from backend.pipeline.stage import Stage
from backend.pipeline.values import Picture, Splats, TexturedMesh, Views
from shared_protocol.splats.files import decode_splats

STEPS = 2
"""Steps around the recipe's own: drawing the truth, judging."""


@dataclass(frozen=True)
class Measured:
    """Figures of one object by column, facts for its record, and pictures to look at.

    rows  name -> (N, H, W, 3): truth, frames, mesh, splats, from the judged views
    """

    figures: dict[str, float]
    facts: dict[str, Any]
    rows: dict[str, np.ndarray]


Run = Callable[[tuple[Stage, ...], dict[str, Any], Mapping[str, StageOptions]], RunResult]


def measure(trial: Trial, settings: Settings, net: PerceptualNet | None, run: Run, step: Step) -> Measured:
    """All figures of one object. Raises what the stages raise."""
    inputs, options = _task_inputs(settings, trial)
    result = run(settings.stages, inputs, options)
    textured: TexturedMesh = result.values["textured"]

    def judging(view: int = 0) -> None:
        step("judging", view, 0 if trial.judged is None else len(trial.judged))

    seen, shape = _place(settings, trial, result, options, judging)
    figures: dict[str, float] = {}
    rows: dict[str, np.ndarray] = {}
    if trial.judged is not None:
        drawn = _drawings(settings, trial, result, seen, judging)
        figures |= _score_pictures(trial, drawn, net, judging)
        rows = {"truth": trial.judged.rgba} | _stacked(drawn)
    elif settings.task == "views":
        again = _of_mesh(textured, seen.cameras(trial.given.cameras), judging)
        figures["given_psnr"] = PictureJudge(trial.given.rgba, None, judging).psnr(again)
    front = _of_mesh(textured, seen.cameras(trial.given.cameras.take([0])), judging)
    figures["input_psnr"] = PictureJudge(trial.front[None], None).psnr(front)
    rows = rows or {"truth": trial.front[None]} | _stacked({"mesh": front})
    if trial.vertices is not None and settings.protocol.shape is not None:
        figures |= score_shape(
            shape.points(textured.mesh.vertices),
            textured.mesh.faces,
            trial.vertices,
            trial.faces,
            settings.protocol.shape,
            judging,
        )
    figures["seconds"] = sum(report.seconds for report in result.reports)
    return Measured(figures, _facts(trial, shape, result), rows)


def _drawings(
    settings: Settings, trial: Trial, result: RunResult, seen: Similarity, judging: Callable[..., None]
) -> dict[str, dict[int, np.ndarray]]:
    """frames, mesh, splats -> judged view -> its picture."""
    target = trial.judged.cameras
    cameras = seen.cameras(target)
    return {
        "frames": _frames(settings.protocol, settings.task, result.values["views"], target, seen),
        "mesh": _of_mesh(result.values["textured"], cameras, judging),
        "splats": _of_splats(_written_splats(result), cameras, judging),
    }


def _score_pictures(
    trial: Trial,
    drawn: Mapping[str, Mapping[int, np.ndarray]],
    net: PerceptualNet | None,
    judging: Callable[..., None],
) -> dict[str, float]:
    """All picture figures by column; on the ring and off it where some are off."""
    judge = PictureJudge(trial.judged.rgba, net, judging)
    figures: dict[str, float] = {}
    for source, views in drawn.items():
        if views:
            figures |= {f"{source}_{name}": value for name, value in judge.score(views).items()}
        if views and trial.off and source != "frames":
            on = [view for view in views if view not in trial.off]
            for name, part in (("on", on), ("off", trial.off)):
                if part:
                    figures[f"{source}_psnr_{name}"] = judge.psnr({view: views[view] for view in part})
    return figures


def _facts(trial: Trial, place: Similarity, result: RunResult) -> dict[str, Any]:
    """What an object's record holds besides its figures."""
    return {
        **{name: value for name, value in trial.facts.items() if name != "warnings"},
        "faces": len(result.values["textured"].mesh.faces),
        "gaussians": len(_written_splats(result)),
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
            *trial.facts.get("warnings", []),
            *(text for report in result.reports for text in report.warnings),
        ],
    }


def _task_inputs(settings: Settings, trial: Trial) -> tuple[dict[str, Any], dict[str, StageOptions]]:
    """What the recipe is given, and its options: it is told the input camera's lens and elevation."""
    picture = Picture(trial.given.rgba[0])
    options = override(dict(settings.options), {"export.turntable": False} | dict(settings.changes))
    if settings.task == "views":
        return {"picture": picture, "views": trial.given}, options
    ring = options["orbit"]
    fov = lens_for(trial.given.cameras, picture.rgba[..., 3], options["matting"].fill)
    # The frame keeps its width in metres at the object, and so the object its size.
    width = 2 * ring.radius * np.tan(np.radians(ring.fov) / 2)
    radius = float(width / 2 / np.tan(np.radians(fov) / 2))
    told = {
        "orbit.views": settings.protocol.rig.views,
        "orbit.elevation": trial.facts["elevation"],
        "orbit.fov": fov,
        "orbit.radius": radius,
    }
    return {"picture": picture}, override(options, told | dict(settings.changes))


def _place(
    settings: Settings,
    trial: Trial,
    result: RunResult,
    options: Mapping[str, StageOptions],
    check: Callable[[], None],
) -> tuple[Similarity, Similarity]:
    """From the result's frame to that of the judged views, and to that of the truth's shape.

    Posed views tie the result to their own frame; only the shape can then be fitted to the truth.
    """
    mesh = result.values["textured"].mesh
    seen = Similarity()
    if settings.task == "image":
        matting = next(report for report in result.reports if report.stage == "matting")
        cameras = result.values["views"].cameras
        seen = by_camera(trial.given.cameras, cameras, matting.facts, options["matting"].fill)
    shape = seen.then(trial.to_truth)
    if settings.placement in ("box", "icp"):
        shape = by_box(mesh, shape)
    if settings.placement == "icp" and trial.vertices is not None:
        shape = by_icp(mesh, trial.vertices, trial.faces, shape, check)
    return (shape if settings.task == "image" else seen), shape


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


def _written_splats(result: RunResult) -> Splats:
    """The Gaussians as the files hold them."""
    arrays = decode_splats(result.values["exports"].files["splats.ply"])
    return Splats(*arrays, antialiased=result.values["splats"].antialiased)


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


def _stacked(drawn: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([views[i] for i in sorted(views)]) for name, views in drawn.items() if views}
