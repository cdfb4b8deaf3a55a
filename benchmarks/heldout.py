"""The whole of `reconstruct`, judged by views it never saw and by the scan, beside the plain hull.

    python -m benchmarks.heldout FOLDER_OR_MESH... -o OUT [--noise 1] [--size 1024] [--keep] ...

A folder holds views with cameras.json, whose `heldout` frames and mesh.ply are the truth; of NAME_noise1 they
are those of NAME beside it. A mesh is rendered as protocol `orrery` says. Judged from the written files. OUT
gets the results, table.md and table.json. Each object is run in a process of its own with an empty cache.

Against it in the same run: `hull`, silhouettes alone, and `uncarved`, the surface stage with carve=false.
Every figure of every object that is below one of them is named. --keep judges results that OUT holds already.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from backend.evaluation.posed import PosedViews, write_posed
from backend.evaluation.protocols import find_protocol
from backend.evaluation.scores import PictureJudge, score_shape
from backend.evaluation.settings import Settings
from backend.evaluation.trials import Objects, Source, Trial
from backend.inputs.views import read_views
from backend.pipeline.options import override, preset
from backend.pipeline.values import Splats
from benchmarks.baseline import plain_hull, textured, uncarved
from benchmarks.results import Table, WrittenMesh, reported, run_measured
from benchmarks.tables import NOISE, below, document
from shared_protocol.splats.files import read_splats

ORRERY = find_protocol("orrery")
COLUMNS = (
    *NOISE, "front_psnr", "fit_psnr", "faces", "charts", "parts", "watertight", "seconds", "cpu", "extra_mib"
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One object: its trial, and the folder of views that the product is given."""

    folder: Path
    trial: Trial

    @property
    def name(self) -> str:
        """Of the results."""
        return self.folder.name

    @classmethod
    def read(cls, path: Path, out: Path, settings: Settings) -> Self:
        """A mesh is rendered, and disturbed views are written, below OUT/views."""
        if path.is_file():
            source: Source = Objects(path)
        else:
            true = path.with_name(path.name.partition("_noise")[0])
            source = PosedViews(true if true.is_dir() else path)
        trial = source.trial(source.names()[0], settings, lambda *_: None)
        if path.is_dir() and not settings.noise:
            given, _ = read_views(path, lambda picture: picture)
            return cls(path, dataclasses.replace(trial, given=given))
        noise = f"_noise{settings.noise:g}" if settings.noise else ""
        folder = out / "views" / f"{trial.name}{noise}"
        write_posed(folder, trial.given)
        return cls(folder, trial)

    def judge(self, mesh: WrittenMesh) -> dict[str, Any]:
        """Shape and held-out pictures of a result."""
        trial = self.trial
        points = trial.to_truth.points(mesh.vertices)
        found: dict[str, Any] = {"faces": len(mesh.faces), "parts": mesh.parts}
        if trial.vertices is not None:
            found |= score_shape(points, mesh.faces, trial.vertices, trial.faces, ORRERY.shape)
        if trial.judged is not None:
            judge = PictureJudge(trial.judged.rgba, None)
            drawn = {
                view: mesh.render(trial.judged.cameras.take([view]), supersample=2)
                for view in range(len(trial.judged))
            }
            for name, kept in (("mid_psnr", False), ("off_psnr", True)):
                part = {view: drawn[view] for view in drawn if (view in trial.off) == kept}
                if part:
                    found[name] = judge.psnr(part)
        return found


def judge_product(case: Case, out: Path) -> dict[str, Any]:
    """Figures of the written files."""
    mesh = WrittenMesh.read(out / "mesh.glb")
    return {**case.judge(mesh), "charts": mesh.charts, "watertight": mesh.watertight, **reported(out)}


def judge_baselines(
    case: Case,
    out: Path,
    quality: str,
    changes: Mapping[str, Any],
    names: Sequence[str] = ("hull", "uncarved"),
) -> dict[str, dict]:
    """Figures of the hulls, coloured by the product's texture stage."""
    views, splats = case.trial.given, Splats(*read_splats(out / "splats.ply"))
    options = override(preset(quality), dict(changes))
    without = override(options, {"surface.carve": False})["surface"]
    make = {
        "hull": lambda: plain_hull(views, options["surface"].faces),
        "uncarved": lambda: uncarved(views, splats, without),
    }
    return {
        name: case.judge(WrittenMesh.of(textured(make[name](), views, splats, options))) for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER_OR_MESH")
    parser.add_argument("--noise", type=float, default=0.0, help="as evaluate --noise")
    parser.add_argument("--size", type=int, default=512, help="pixels of the views rendered from meshes")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument("--keep", action="store_true", help="judge what OUT holds already")
    parser.add_argument("--against", default="hull,uncarved", metavar="NAMES", help="hulls, with commas")
    parser.add_argument("--no-hull", dest="against", action="store_const", const="", help="no hulls")
    args = parser.parse_args()
    changes = dict(text.split("=", 1) for text in args.set)
    arguments = ["--quality", args.quality, *(word for text in args.set for word in ("--set", text))]
    subprocess.run([sys.executable, "-m", "backend.warmup"], check=True)
    table = Table("object", COLUMNS, name_width=20, width=11, digits=4)
    results: dict[str, dict[str, Any]] = {}
    rig = dataclasses.replace(ORRERY.rig, size=args.size)
    settings = Settings(dataclasses.replace(ORRERY, rig=rig), "views", preset(args.quality), noise=args.noise)
    for path in args.folders:
        case = Case.read(path, args.out, settings)
        out = args.out / case.name
        if not (args.keep and (out / "mesh.glb").exists()):
            run_measured(case.folder, out, arguments)
        row = judge_product(case, out)
        hulls = [name for name in args.against.split(",") if name]
        row["baselines"] = judge_baselines(case, out, args.quality, changes, hulls)
        results[case.name] = row
        table.add(case.name, row)
        for name, figures in row.get("baselines", {}).items():
            lost = below(row, figures)
            table.add(f"  {name}", figures)
            if lost:
                sys.stdout.write(f"    below the {name}: {', '.join(lost)}\n")
        (args.out / "table.md").write_text("\n".join(document(results)))
        (args.out / "table.json").write_text(json.dumps(results, indent=1))
    table.finish()


if __name__ == "__main__":
    main()
