"""The splats stage judged by views it never saw: `python -m benchmarks.splat_fit DIR... [--set splats.X=Y]`.

Each DIR holds 16 views with cameras.json. The truth between them: its `heldout` frames (first half on the
orbit, second half off it), those of NAME for a folder NAME_noise1, or, where cameras.json names the scan
(`object`, a path from DIR/../..), that scan drawn at four azimuths between the views, on the orbit and 15
degrees above it. Figures are dB over white at the views' full size; seconds are those of the whole stage
(carving the start included), CPU and wall, with compiled kernels. The last line is JSON.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import trimesh

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import render_mesh
from backend.geometry.photometric import psnr
from backend.geometry.rasterize import rasterize
from backend.geometry.splat_targets import over_white
from backend.inputs.views import read_views
from backend.pipeline.engines import find_engine, load_engine
from backend.pipeline.options import SplatsOptions, override, preset
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats import run
from backend.stages.splats.warmup import warm_up
from benchmarks.results import Table, read_rgba
from shared_protocol.conventions import look_at

COLUMNS = ("fitted", "between", "off", "cpu_s", "wall_s", "steps", "gaussians")


def held_out(folder: Path, views: Views) -> tuple[Views, Views] | None:
    """Views on the orbit and off it that the fit does not see; None where the folder has no truth."""
    data = json.loads((folder / "cameras.json").read_text())
    twin = folder.with_name(folder.name.removesuffix("_noise1"))
    if "heldout" not in data and twin != folder:
        return held_out(twin, views)
    if "heldout" in data:
        frames = data["heldout"]
        poses = np.array([frame["world_from_camera"] for frame in frames])
        rgba = np.stack([read_rgba(folder / frame["file_path"]) for frame in frames])
        cameras = _like(views.cameras, poses)
        half = len(frames) // 2
        return tuple(Views(rgba[part], cameras.take(part)) for part in (slice(half), slice(half, None)))
    scan = folder.parent.parent / str(data.get("object"))
    if not scan.is_file():
        return None
    loaded = trimesh.load(scan, force="mesh", process=False)
    texture = np.asarray(loaded.visual.material.image.convert("RGB"), dtype=np.float32) / 255
    uvs = np.asarray(loaded.visual.uv, dtype=np.float32)[loaded.faces]
    centre = np.array(data["centre"])
    pairs = []
    for rise in (0, 15):
        cameras = _like(
            views.cameras, np.stack([_between(views.cameras, i, centre, rise) for i in (0, 4, 8, 12)])
        )
        rgba = render_mesh(loaded.vertices, loaded.faces, uvs, texture, cameras, supersample=4)
        pairs.append(Views(rgba, cameras))
    return tuple(pairs)


def _between(cameras: Cameras, i: int, target: np.ndarray, rise: float) -> np.ndarray:
    """Pose halfway between views i and i + 1 of a ring around `target`, `rise` degrees higher."""
    a, b = cameras.centres[i] - target, cameras.centres[i + 1] - target
    radius, elevation = np.linalg.norm(a), np.arcsin(a[2] / np.linalg.norm(a)) + np.radians(rise)
    middle = (a + b)[:2] / np.linalg.norm((a + b)[:2])
    offset = radius * np.array([*(np.cos(elevation) * middle), np.sin(elevation)])
    return look_at(target + offset, target)


def _like(cameras: Cameras, poses: np.ndarray) -> Cameras:
    intrinsics = np.repeat(cameras.intrinsics[:1], len(poses), axis=0)
    return Cameras(poses, intrinsics, cameras.width, cameras.height)


def mean_psnr(splats: Splats, views: Views) -> float:
    """Mean over views, over white, dB."""
    shown = np.clip(rasterize(splats, views.cameras, differentiable=False).color, 0, 1)
    return float(np.mean([psnr(a, over_white(b)) for a, b in zip(shown, views.rgba, strict=True)]))


def measure(folder: Path, options: SplatsOptions, engine: str, seed: int) -> dict:
    """One row."""
    views, _ = read_views(folder, lambda picture: picture)
    context = StageContext("splats", load_engine(find_engine("splats", engine)), engine, seed=seed)
    cpu, wall = time.process_time(), time.perf_counter()
    splats = run.run(views=views, options=options, context=context)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    row = {"fitted": context.facts["fit_psnr"], "cpu_s": cpu, "wall_s": wall, **context.facts}
    truth = held_out(folder, views)
    if truth:
        row |= {"between": mean_psnr(splats, truth[0]), "off": mean_psnr(splats, truth[1])}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="splats.X=Y", dest="changes")
    args = parser.parse_args()
    changes = dict(change.split("=", 1) for change in args.changes)
    options = override(preset(args.quality), changes)["splats"]
    warm_up()
    table = Table(f"{os.cpu_count()} cores", COLUMNS, name_width=22, width=10, digits=2)
    for folder in args.folders:
        table.add(f"{folder.parent.name}/{folder.name}", measure(folder, options, args.engine, args.seed))
    table.finish()


if __name__ == "__main__":
    main()
