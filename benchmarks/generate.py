"""Runs `generate` and judges the written files: `python -m benchmarks.generate PICTURE... -o DIR`.

Judged from the files alone, as any other program would read them: mesh.glb through trimesh, the cameras
through cameras.json, the input view through cutout.png. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from backend.geometry.mesh_render import over
from backend.geometry.photometric import psnr
from backend.inputs.views import read_views
from benchmarks.results import Table, WrittenMesh, read_rgba

COLUMNS = ("silhouette_iou", "front_psnr", "fit_psnr", "watertight", "faces", "seconds")


def judge(folder: Path) -> dict:
    """Figures of one result folder, from its files."""
    views, _ = read_views(folder, lambda picture: picture)
    cutout = read_rgba(folder / "cutout.png")
    mesh = WrittenMesh.read(folder / "mesh.glb")
    camera = views.cameras.take([0]).resized(cutout.shape[1], cutout.shape[0])
    rendered = mesh.render(camera, supersample=3)
    inside, expected = rendered[..., 3] > 0.5, cutout[..., 3] > 0.5
    report = json.loads((folder / "report.json").read_text())
    return {
        "silhouette_iou": float((inside & expected).sum() / (inside | expected).sum()),
        "front_psnr": psnr(over(rendered, (1, 1, 1)), over(cutout, (1, 1, 1))),
        "fit_psnr": report["fit_psnr"],
        "watertight": mesh.watertight,
        "faces": len(mesh.faces),
        "stages": {s["stage"]: s["seconds"] for s in report["stages"]},
        "confidence": next((s.get("confidence") for s in report["stages"] if s["stage"] == "matting"), None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--quality", default="standard")
    args = parser.parse_args()
    table = Table("picture", COLUMNS, name_width=28, width=16, digits=3)
    for picture in args.pictures:
        name = picture.stem if picture.stem not in ("image", "rgba") else picture.parent.name
        start = time.perf_counter()
        command = [sys.executable, "-m", "backend", "generate", str(picture), "-o", str(args.out / name)]
        done = subprocess.run([*command, "--quality", args.quality], capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            table.fail(name, done.returncode, done.stderr.strip().splitlines()[-1])
        else:
            table.add(name, judge(args.out / name) | {"seconds": seconds})
    table.finish()


if __name__ == "__main__":
    main()
