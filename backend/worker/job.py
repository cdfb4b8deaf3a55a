"""One job, from uploaded pictures to result files in the artifact store."""

import json
import threading
from collections.abc import Sequence

from backend.inputs.picture import load_picture_bytes
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import override, preset
from backend.pipeline.recipes import RECIPES
from backend.pipeline.runner import run_recipe
from backend.report import build_report
from backend.warmup import NO_WARM_UP, WarmUp
from backend.worker.reports import Reports
from shared_protocol.errors import InvalidInput
from shared_protocol.messages import ResultFile, Submit


def execute(
    submit: Submit,
    reports: Reports,
    cancelled: threading.Event,
    low_memory: bool = False,
    warm_up: WarmUp = NO_WARM_UP,
) -> Sequence[ResultFile]:
    """Run the job's recipe on its first picture; the results are the recipe's exports and report.json.

    low_memory  ask engines for their way that needs less
    warm_up     the compile that runs beside; stages wait for it
    """
    store = ArtifactStore()
    options = override(preset(submit.quality), submit.options)
    source = submit.inputs[0]
    try:
        data = store.blob_path(source.sha256).read_bytes()
    except FileNotFoundError:
        raise InvalidInput("the uploaded picture is no longer stored", remedy="Submit it again.") from None
    loaded = load_picture_bytes(data, source.name)
    result = run_recipe(
        RECIPES[submit.recipe],
        {"picture": loaded.picture},
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
        source=source.name,
        warnings=loaded.warnings,
    )
    exports = result.artifacts["exports"]
    files = [ResultFile(name, exports.sizes[name], digest) for name, digest in sorted(exports.files.items())]
    text = json.dumps(report, indent=2, ensure_ascii=False).encode()
    digest = store.save_blob(text)
    pictures = [picture.sha256 for picture in submit.inputs]
    store.pin(submit.job, [*pictures, *(file.sha256 for file in files), digest])
    store.prune()
    return [*files, ResultFile("report.json", len(text), digest)]
