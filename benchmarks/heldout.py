"""The whole of `reconstruct`, judged by views it never saw: `python -m benchmarks.heldout DIR... -o OUT`.

Each DIR holds views with cameras.json, whose `heldout` frames (first half on the orbit, second half off
it) and mesh.ply are the truth. Judged from the written files alone; the last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import trimesh

from backend.geometry import metrics
from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import over
from backend.geometry.photometric import psnr
from benchmarks.results import Table, WrittenMesh, read_rgba

COLUMNS = (
    "chamfer",
    "f_01",
    "iou",
    "front_psnr",
    "mid_psnr",
    "off_psnr",
    "fit_psnr",
    "watertight",
    "seconds",
)


def judge(source: Path, folder: Path) -> dict:
    """Figures of one result against the scan and the held-out views."""
    mesh = WrittenMesh.read(folder / "mesh.glb")
    data = json.loads((source / "cameras.json").read_text())
    size = (data["width"], data["height"])
    matrix = np.array([[data["fl_x"], 0, data["cx"]], [0, data["fl_y"], data["cy"]], [0, 0, 1.0]])
    scores = []
    for frame in data.get("heldout", []):
        camera = Cameras(np.array([frame["world_from_camera"]]), matrix[None], *size)
        truth = read_rgba(source / frame["file_path"])
        drawn = mesh.render(camera, supersample=2)
        scores.append(psnr(over(drawn, (1, 1, 1)), over(truth, (1, 1, 1))))
    half = len(scores) // 2
    report = json.loads((folder / "report.json").read_text())
    row = {
        "mid_psnr": float(np.mean(scores[:half])) if scores else None,
        "off_psnr": float(np.mean(scores[half:])) if scores else None,
        "front_psnr": report["front_psnr"],
        "fit_psnr": report["fit_psnr"],
        "watertight": mesh.watertight,
    }
    if (source / "mesh.ply").exists():
        truth_mesh = trimesh.load(source / "mesh.ply", force="mesh")
        shape = metrics.score_shape(mesh.vertices, mesh.faces, truth_mesh.vertices, truth_mesh.faces)
        row |= {"chamfer": shape.chamfer, "f_01": shape.fscore[0.01], "iou": shape.iou}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--quality", default="standard")
    args = parser.parse_args()
    table = Table("object", COLUMNS, name_width=16, width=12, digits=4)
    for folder in args.folders:
        start = time.perf_counter()
        out = args.out / folder.name
        command = [sys.executable, "-m", "backend", "reconstruct", str(folder), "-o", str(out)]
        subprocess.run([*command, "--quality", args.quality], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        table.add(folder.name, judge(folder, out) | {"seconds": seconds})
    table.finish()


if __name__ == "__main__":
    main()
