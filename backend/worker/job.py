"""One job, from uploaded pictures to result files in the artifact store."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.inputs.picture import LoadedPicture, load_picture_bytes
from backend.inputs.sides import arrange_sides
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import StageOptions, override, preset
from backend.pipeline.recipes import RECIPES
from backend.pipeline.runner import run_recipe
from backend.pipeline.stage import Progress
from backend.pipeline.values import Picture, Views
from backend.report import build_report
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
    report = build_report(
        result,
        recipe=submit.recipe,
        quality=submit.quality,
        seed=submit.seed,
        source=submit.inputs[0].name,
        warnings=warnings,
    )
    exports = result.artifacts["exports"]
    files = [ResultFile(name, exports.sizes[name], digest) for name, digest in sorted(exports.files.items())]
    text = json.dumps(report, indent=2, ensure_ascii=False).encode()
    digest = store.save_blob(text)
    pictures = [picture.sha256 for picture in submit.inputs]
    store.pin(submit.job, [*pictures, *(file.sha256 for file in files), digest])
    store.prune()
    return [*files, ResultFile("report.json", len(text), digest)]


def _inputs(
    submit: Submit,
    options: Mapping[str, StageOptions],
    store: ArtifactStore,
    reports: Reports,
    cancelled: threading.Event,
) -> tuple[dict[str, Picture | Views], list[str]]:
    """What the recipe begins with: the first picture, and for sides the views made of all; warnings."""
    if submit.recipe != "sides_to_3d":
        loaded = _load(submit.inputs[0], store)
        return {"picture": loaded.picture}, list(loaded.warnings)
    loaded_by_side = {Path(file.name).stem: _load(file, store) for file in submit.inputs}
    first, stages = RECIPES[submit.recipe][0].name, len(RECIPES[submit.recipe])

    def step(done: int, total: int, text: str) -> None:
        if cancelled.is_set():
            raise Cancelled("cancelled while the views were cut out")
        reports.progress(Progress("step", first, 0, stages, done, total, text))

    pictures = {side: loaded.picture for side, loaded in loaded_by_side.items()}
    views, warnings = arrange_sides(pictures, options["matting"], options["orbit"], step)
    warnings += [sentence for loaded in loaded_by_side.values() for sentence in loaded.warnings]
    return {"picture": pictures["front"], "views": views}, warnings


def _load(file: InputFile, store: ArtifactStore) -> LoadedPicture:
    try:
        data = store.blob_path(file.sha256).read_bytes()
    except FileNotFoundError:
        raise InvalidInput("the uploaded picture is no longer stored", remedy="Submit it again.") from None
    return load_picture_bytes(data, file.name)
