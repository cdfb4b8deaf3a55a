"""The surface stage alone, against scans: `python -m benchmarks.reconstruction FOLDER_OR_MESH... [--hull]`.

Folders and meshes as in `benchmarks.heldout`, which measures the whole product; this one shows within seconds
what a change of the surface stage does. No splats are fitted. A line of dots holds the figures of earlier
prototypes on the same views, `hull` those of the plain hull in the same run; the last line is JSON.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from backend.evaluation.scores import score_shape
from backend.evaluation.settings import Settings
from backend.geometry import metrics
from backend.geometry.mesh_check import is_watertight_manifold
from backend.pipeline.options import override, preset
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats
from backend.stages.surface import run as surface
from backend.stages.surface.hull import HullSurface
from backend.stages.surface.warmup import warm_up
from benchmarks.baseline import PROTOTYPES, plain_hull
from benchmarks.heldout import ORRERY, Case
from benchmarks.results import Table

COLUMNS = (
    "chamfer", "f_005", "f_01", "iou", "sync", "front", "worst", "faces", "cpu", "seconds", "closed",
    "confirmed",
)  # fmt: skip

NO_SPLATS = Splats(
    np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32), np.ones((1, 4), np.float32),
    np.ones(1, np.float32), np.zeros((1, 1, 3), np.float32),
)  # fmt: skip


def judge(case: Case, mesh: Mesh) -> dict[str, float | bool]:
    """Shape against the scan, silhouettes against the given views."""
    trial = case.trial
    ours = trial.to_truth.points(mesh.vertices), mesh.faces
    alpha, cameras = trial.given.rgba[..., 3], trial.given.cameras
    outlines = [
        metrics.mask_iou(metrics.silhouette(mesh.vertices, mesh.faces, cameras, view), alpha[view])
        for view in range(len(alpha))
    ]
    return {
        **score_shape(*ours, trial.vertices, trial.faces, ORRERY.shape),
        "sync": metrics.sync_chamfer(*ours, trial.vertices, trial.faces),
        "front": outlines[0],
        "worst": min(outlines),
        "faces": len(mesh.faces),
        "closed": is_watertight_manifold(mesh.faces),
    }


def measure(case: Case, changes: dict[str, str]) -> dict[str, float | bool]:
    """All figures of the surface stage on one object."""
    options = override(preset("standard"), changes)["surface"]
    context = StageContext("surface", HullSurface(), "hull")
    cpu, wall = time.process_time(), time.perf_counter()
    mesh = surface.run(views=case.trial.given, splats=NO_SPLATS, options=options, context=context)
    took = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
    return judge(case, mesh) | took | {"confirmed": context.facts.get("confirmed_share", 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER_OR_MESH")
    parser.add_argument("--set", action="append", default=[], metavar="surface.FIELD=VALUE")
    parser.add_argument("--noise", type=float, default=0.0, help="as evaluate --noise")
    parser.add_argument("--hull", action="store_true", help="also measure the plain hull")
    args = parser.parse_args()
    changes = dict(text.split("=", 1) for text in args.set)
    settings = Settings(dataclasses.replace(ORRERY, extra=()), "views", preset("standard"), noise=args.noise)
    warm_up()
    table = Table("object", COLUMNS, name_width=20, width=10, digits=4)
    with tempfile.TemporaryDirectory() as folder:
        for path in args.folders:
            case = Case.read(path, Path(folder), settings)
            table.add(case.name, measure(case, changes))
            if args.hull:
                table.add("  hull", judge(case, plain_hull(case.trial.given, 20_000)))
            if case.name in PROTOTYPES:
                table.add("  ...", PROTOTYPES[case.name])
    table.finish()


if __name__ == "__main__":
    main()
