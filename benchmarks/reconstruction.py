"""Reconstruction measured against scans: the surface stage on true (or jittered) views.

    python benchmarks/reconstruction.py DATA_DIR [--only drill,duck] [--set surface.grid=160] ...

DATA_DIR holds `protocol/NAME/{cameras.json,views,mesh.ply}` and, if wanted, `renders/NAME/cameras.json`
with `objects/...`. Prints a table beside the figures of the prototypes (dot lines) and of the plain hull
of the same run; the last line is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import trimesh

from backend.geometry import metrics
from backend.geometry.mesh_check import is_watertight_manifold
from backend.inputs.views import read_views
from backend.pipeline.options import override, preset
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.surface import run as surface
from backend.stages.surface.hull import HullSurface
from backend.stages.surface.warmup import warm_up

PROTOTYPE = {
    "drill": (0.00455, 0.829, 0.934, 0.945),
    "monkey": (0.00392, 0.843, 0.944, 0.864),
    "duck": (0.00793, 0.744, 0.890, 0.944),
    "drill_noise1": (0.00581, 0.690, 0.903, 0.920),
    "monkey_noise1": (0.00713, 0.643, 0.863, 0.830),
    "duck_noise1": (0.00867, 0.634, 0.882, 0.934),
    "banana": (0.00209, 0.967, 0.980, 0.983),
    "mug": (0.02927, 0.496, 0.611, 0.304),
}
"""Chamfer, F at .005, F at .01, IoU at 128 of earlier prototypes on the same views: the bars."""

NO_SPLATS = Splats(
    np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32), np.ones((1, 4), np.float32),
    np.ones(1, np.float32), np.zeros((1, 1, 3), np.float32),
)  # fmt: skip


def truth_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the scan that the views in `folder` show."""
    own = folder / "mesh.ply"
    twin = folder.with_name(folder.name.removesuffix("_noise1")) / "mesh.ply"
    if own.exists() or twin.exists():
        path = own if own.exists() else twin
    else:
        path = folder.parent.parent / json.loads((folder / "cameras.json").read_text())["object"]
    mesh = trimesh.load(path, process=False, force="mesh")
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def reconstruct(views: Views, settings: list[str], carve: bool) -> tuple[Mesh, float, float, dict]:
    """The mesh, its CPU and wall seconds, and the stage's notes."""
    options = override(preset("standard"), dict(s.split("=", 1) for s in settings))["surface"]
    if not carve:
        options = type(options)(**{**vars(options), "carve": False})
    context = StageContext("surface", HullSurface(), "hull")
    cpu, wall = time.process_time(), time.perf_counter()
    mesh = surface.run(views=views, splats=NO_SPLATS, options=options, context=context)
    return mesh, time.process_time() - cpu, time.perf_counter() - wall, context.facts


def measure(folder: Path, settings: list[str], carve: bool) -> dict[str, float | bool]:
    """One row: all figures of one object."""
    views, _ = read_views(folder, lambda picture: picture)
    vertices, faces = truth_of(folder)
    mesh, cpu, wall, facts = reconstruct(views, settings, carve)
    side = (vertices.max(axis=0) - vertices.min(axis=0)).max()
    middle = (vertices.max(axis=0) + vertices.min(axis=0)) / 2
    scaled, true = (mesh.vertices - middle) / side, (vertices - middle) / side
    score = metrics.score_shape(scaled, mesh.faces, true, faces)
    alpha = views.rgba[..., 3]
    front = metrics.mask_iou(metrics.silhouette(mesh.vertices, mesh.faces, views.cameras, 0), alpha[0])
    worst = min(
        metrics.mask_iou(metrics.silhouette(mesh.vertices, mesh.faces, views.cameras, n, 1), alpha[n])
        for n in range(len(views))
    )
    return {
        "chamfer": score.chamfer, "f005": score.fscore[0.005], "f01": score.fscore[0.01], "iou": score.iou,
        "sync": metrics.sync_chamfer(scaled, mesh.faces, true, faces),
        "front": front, "worst": worst, "faces": len(mesh.faces), "cpu": cpu, "wall": wall,
        "watertight": is_watertight_manifold(mesh.faces), "confirmed": facts.get("confirmed_share", 0.0),
    }  # fmt: skip


def line(name: str, row: dict) -> str:
    return (
        f"{name:22s} {row['chamfer']:.5f} {row['f005']:.3f} {row['f01']:.3f} {row['iou']:.3f} "
        f"{row['sync']:.5f} {row['front']:.4f} {row['worst']:.4f} {row['faces']:6d} "
        f"{row['cpu']:6.1f} {row['wall']:6.1f} {'yes' if row['watertight'] else 'NO ':3s} "
        f"{row['confirmed']:.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--set", action="append", default=[], help="surface.grid=160 ...")
    parser.add_argument("--hull", action="store_true", help="also measure the plain hull")
    parser.add_argument("--save", type=Path, help="write the meshes here as PLY")
    arguments = parser.parse_args()
    folders = sorted(
        p.parent for kind in ("protocol", "renders") for p in arguments.data.glob(f"{kind}/*/cameras.json")
    )
    wanted = set(arguments.only.split(",")) - {""}
    folders = [f for f in folders if not wanted or f.name in wanted or f"{f.parent.name}/{f.name}" in wanted]
    warm_up()
    out = sys.stdout
    out.write(
        f"{'object':22s} Chamfer F.005 F.01  IoU   sync    front  worst   faces    CPU   wall closed agree\n"
    )
    results: dict[str, dict] = {}
    for folder in folders:
        name = f"{folder.parent.name}/{folder.name}"
        results[name] = measure(folder, arguments.set, True)
        out.write(line(name, results[name]) + "\n")
        if arguments.hull:
            results[name]["hull"] = measure(folder, arguments.set, False)
            out.write(line("   hull", results[name]["hull"]) + "\n")
        if folder.parent.name == "protocol" and folder.name in PROTOTYPE:
            bar = PROTOTYPE[folder.name]
            out.write(f"{'   ...':22s} {bar[0]:.5f} {bar[1]:.3f} {bar[2]:.3f} {bar[3]:.3f}\n")
        out.flush()
    out.write(json.dumps(results) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
