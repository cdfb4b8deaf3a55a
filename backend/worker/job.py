"""One job, from uploaded pictures to result files in the artifact store."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.inputs.picture import LoadedPicture, load_picture_bytes
from backend.inputs.sides import arrange_sides
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import StageOptions, override, preset
from backend.pipeline.recipes import FROM_TEXT, PIPELINE_FILE, PROMPT_FILE, RECIPES
from backend.pipeline.runner import run_recipe
from backend.pipeline.stage import Progress
from backend.pipeline.values import Picture, Views
from backend.prompt import draw
from backend.report import build_orbit_report, build_report
from backend.variations import orbit_pictures
from backend.warmup import NO_WARM_UP, WarmUp
from backend.worker.reports import Reports
from shared_protocol.errors import Cancelled, InvalidInput
from shared_protocol.messages import InputFile, ResultFile, Submit


def execute(
    submit: Submit,
    reports: Reports,
    cancelled: threading.Event,
    low_memory: bool = False,
    warm_up: WarmUp = NO_WARM_UP,
) -> Sequence[ResultFile]:
    """Run the job's recipe on its pictures; the results are the recipe's exports and report.json.

    low_memory  ask engines for their way that needs less
    warm_up     the compile that runs beside; stages wait for it
    """
    store = ArtifactStore()
    options = override(preset(submit.quality), submit.options)
    inputs, warnings = _inputs(submit, options, store, reports, cancelled)
    result = run_recipe(
        RECIPES[submit.recipe],
        inputs,
        options,
        seed=submit.seed,
        store=store,
        on_progress=reports.progress,
        cancelled=cancelled,
        before_stage=warm_up.before_stage,
        on_preview=reports.preview,
        low_memory=low_memory,
    )
    facts = {"recipe": submit.recipe, "quality": submit.quality, "seed": submit.seed, "warnings": warnings}
    if "exports" in result.artifacts:
        report = build_report(result, source=submit.inputs[0].name, **facts)
        exports = result.artifacts["exports"]
        made = {name: (exports.sizes[name], digest) for name, digest in exports.files.items()}
    else:
        report = build_orbit_report(result, source=submit.inputs[0].name, **facts)
        pictures = orbit_pictures(result.values["orbit"])
        made = {name: (len(data), store.save_blob(data)) for name, data in pictures.items()}
    files = [ResultFile(name, *made[name]) for name in sorted(made)]
    text = json.dumps(report, indent=2, ensure_ascii=False).encode()
    digest = store.save_blob(text)
    inputs_here = [file.sha256 for file in submit.inputs]
    store.pin(submit.job, [*inputs_here, *(file.sha256 for file in files), digest])
    store.prune()
    return [*files, ResultFile("report.json", len(text), digest)]


def _inputs(
    submit: Submit,
    options: Mapping[str, StageOptions],
    store: ArtifactStore,
    reports: Reports,
    cancelled: threading.Event,
) -> tuple[dict[str, Picture | Views], list[str]]:
    """What the recipe begins with: the first picture, or one drawn of a prompt, and for sides the views made
    of all; warnings."""
    first, stages = RECIPES[submit.recipe][0].name, len(RECIPES[submit.recipe])

    def step(done: int, total: int, text: str) -> None:
        if cancelled.is_set():
            raise Cancelled("cancelled before the first stage")
        reports.progress(Progress("step", first, 0, stages, done, total, text))

    if submit.recipe in FROM_TEXT:
        texts = {file.name: _bytes_of(file, store).decode("utf-8", "replace") for file in submit.inputs}
        picture = draw(texts.get(PROMPT_FILE, ""), texts.get(PIPELINE_FILE), submit.seed, step)
        reports.preview("picture", lambda: picture.rgba[..., :3])
        return {"picture": picture}, []
    if submit.recipe != "sides_to_3d":
        loaded = _load(submit.inputs[0], store)
        return {"picture": loaded.picture}, list(loaded.warnings)
    loaded_by_side = {Path(file.name).stem: _load(file, store) for file in submit.inputs}
    pictures = {side: loaded.picture for side, loaded in loaded_by_side.items()}
    views, warnings = arrange_sides(pictures, options["matting"], options["orbit"], step)
    warnings += [sentence for loaded in loaded_by_side.values() for sentence in loaded.warnings]
    return {"picture": pictures["front"], "views": views}, warnings


def _load(file: InputFile, store: ArtifactStore) -> LoadedPicture:
    return load_picture_bytes(_bytes_of(file, store), file.name)


def _bytes_of(file: InputFile, store: ArtifactStore) -> bytes:
    try:
        return store.blob_path(file.sha256).read_bytes()
    except FileNotFoundError:
        raise InvalidInput("what was uploaded is no longer stored", remedy="Submit it again.") from None
