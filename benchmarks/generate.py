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

import numpy as np
import trimesh
from PIL import Image

from backend.geometry.mesh_render import over, render_mesh
from backend.inputs.views import read_views
from shared_protocol.conventions import world_from_gltf

COLUMNS = ("silhouette_iou", "front_psnr", "fit_psnr", "watertight", "faces", "seconds")


def judge(folder: Path) -> dict:
    """Figures of one result folder, from its files."""
    views, _ = read_views(folder, lambda picture: picture)
    cutout = np.asarray(Image.open(folder / "cutout.png").convert("RGBA"), dtype=np.float32) / 255
    mesh = trimesh.load(folder / "mesh.glb", force="mesh", process=False)
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), dtype=np.float32) / 255
    camera = views.cameras.take([0]).resized(cutout.shape[1], cutout.shape[0])
    uvs = np.asarray(mesh.visual.uv, dtype=np.float32)[mesh.faces]
    rendered = render_mesh(world_from_gltf(mesh.vertices), mesh.faces, uvs, texture, camera, supersample=3)[0]
    inside, expected = rendered[..., 3] > 0.5, cutout[..., 3] > 0.5
    error = np.mean((over(rendered, (1, 1, 1)) - over(cutout, (1, 1, 1))) ** 2)
    welded = mesh.copy()
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    report = json.loads((folder / "report.json").read_text())
    return {
        "silhouette_iou": float((inside & expected).sum() / (inside | expected).sum()),
        "front_psnr": float(-10 * np.log10(error)),
        "fit_psnr": report["fit_psnr"],
        "watertight": bool(welded.is_watertight),
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
    rows = {}
    sys.stdout.write(f"{'picture':<28}" + "".join(f"{c:>16}" for c in COLUMNS) + "\n")
    for picture in args.pictures:
        name = picture.stem if picture.stem not in ("image", "rgba") else picture.parent.name
        start = time.perf_counter()
        command = [sys.executable, "-m", "backend", "generate", str(picture), "-o", str(args.out / name)]
        done = subprocess.run([*command, "--quality", args.quality], capture_output=True, text=True)
        if done.returncode:
            sys.stdout.write(f"{name:<28}exit {done.returncode}: {done.stderr.strip().splitlines()[-1]}\n")
            rows[name] = {"exit": done.returncode}
            continue
        rows[name] = judge(args.out / name) | {"seconds": time.perf_counter() - start}
        cells = [rows[name][c] for c in COLUMNS]
        sys.stdout.write(
            f"{name:<28}"
            + "".join(f"{c:>16.3f}" if isinstance(c, float) else f"{c!s:>16}" for c in cells)
            + "\n"
        )
        sys.stdout.flush()
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
