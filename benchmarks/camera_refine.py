"""What learned corrections of cameras and exposures gain: `python -m benchmarks.camera_refine DATA_DIR`.

Rows without and with `splats.refine_cameras`:

protocol  a scan with its cameras as they are, and disturbed: a turn about the object (1 degree), a shift
          (1 % of its size), a gain of each channel (5 %), all normally distributed, view 0 left as it is, so
          the answer is known. `pixels` is how far the object's points lie from their true place, in views 1
          and up (pixels_0 before); `aligned` the same after the turn, shift and scale of the whole object
          that views cannot tell
chicken   the sixteen views that the published SyncDreamer model made for a scan, judged by the scan's own
          pictures at the same cameras (`truth`)
monster   the film that the published Hi3D model made; nothing is known but how well it is fitted

`between` and `off` as in `splat_fit`; with refined cameras `fitted` is of the corrected views. The last line
is JSON.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from backend.geometry.cameras import Cameras, moved
from backend.inputs.cut import cut_out
from backend.inputs.views import read_views
from backend.pipeline.engines import find_engine, load_engine
from backend.pipeline.options import SplatsOptions, override, preset
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Splats, Views
from backend.stages.splats import run
from benchmarks.results import Table, read_rgba
from benchmarks.splat_fit import held_out, mean_psnr

COLUMNS = ("fitted", "truth", "between", "off", "pixels_0", "pixels", "aligned", "turned", "cpu_s")
TURN, SHIFT, GAIN = 1.0, 0.01, 0.05


def disturbed(views: Views, centre: np.ndarray, extent: float, seed: int = 0) -> Views:
    """The views with wrong cameras and exposures; view 0 stays."""
    random = np.random.default_rng(seed)
    poses, rgba = views.cameras.world_from_camera.copy(), views.rgba.copy()
    for i in range(1, len(views)):
        pivot = views.cameras.camera_from_world[i] @ np.r_[centre, 1]
        turn = random.normal(0, np.radians(TURN), 3)
        rotation = np.linalg.inv(moved(np.eye(4), np.r_[turn, 0, 0, 0]))[:3, :3]
        shift = pivot[:3] - rotation @ pivot[:3] + random.normal(0, SHIFT * extent, 3)
        poses[i] = moved(poses[i], np.r_[turn, shift])
        gain = 1 + random.normal(0, GAIN, 3)
        rgba[i, ..., :3] = np.clip(rgba[i, ..., :3] * gain, 0, 1)
    cameras = Cameras(poses, views.cameras.intrinsics, views.cameras.width, views.cameras.height)
    return replace(views, rgba=rgba, cameras=cameras)


def fitted(views: Views, options: SplatsOptions) -> tuple[Splats, dict]:
    """Splats and the stage's facts, with CPU seconds."""
    context = StageContext("splats", load_engine(find_engine("splats", "cpu")), "cpu")
    cpu = time.process_time()
    splats = run.run(views=views, options=options, context=context)
    return splats, context.facts | {"cpu_s": time.process_time() - cpu}


def displacement(points: np.ndarray, cameras: Cameras, true: Cameras) -> float:
    """Median distance in pixels of points from their true place, views 1 and up."""
    shown, expected = cameras.project(points)[0], true.project(points)[0]
    return float(np.median(np.linalg.norm(shown - expected, axis=2)[1:]))


def aligned_displacement(points: np.ndarray, cameras: Cameras, true: Cameras) -> float:
    """As `displacement`, after the similarity of the world that makes it least."""
    expected = true.project(points)[0]

    def errors(motion: np.ndarray) -> np.ndarray:
        moved_points = Rotation.from_rotvec(motion[:3]).apply(points) * (1 + motion[6]) + motion[3:6]
        return (cameras.project(moved_points)[0] - expected)[1:].ravel()

    return float(np.median(np.linalg.norm(least_squares(errors, np.zeros(7)).fun.reshape(-1, 2), axis=1)))


def generated(folder: Path) -> Views:
    """Pictures without alpha of the cameras that the folder above lists."""
    with tempfile.TemporaryDirectory() as together:
        shutil.copy(folder.parent / "cameras.json", together)
        for picture in folder.glob("*.png"):
            shutil.copy(picture, together)
        return read_views(Path(together), cut_out)[0]


def rows(data: Path, names: list[str], options: SplatsOptions):
    """Yields (name, row)."""
    for name in names:
        folder = data / name
        if name.startswith("orbits/hi3d"):
            views, _ = read_views(folder / "orbit.mp4", cut_out, orbit="hi3d")
        elif name.startswith("orbits"):
            views = generated(folder)
        else:
            views, _ = read_views(folder, lambda picture: picture)
        true, truth = views, None
        if name.startswith("protocol"):
            truth = held_out(folder, views)
            for refine in (True, False):
                splats, facts = fitted(views, replace(options, refine_cameras=refine))
                row = facts | _judged(splats, truth) | {"fitted": facts["fit_psnr"]}
                yield f"{name} true {'refined' if refine else 'as given'}", row
            low, high = splats.positions.min(axis=0), splats.positions.max(axis=0)
            views = disturbed(views, (low + high) / 2, float((high - low).max()))
        for refine in (False, True):
            splats, facts = fitted(views, replace(options, refine_cameras=refine))
            row = facts | {"fitted": facts["fit_psnr"], "turned": facts.get("camera_turn_degrees")}
            if name.startswith("protocol"):
                points = splats.positions[::50]
                row |= _judged(splats, truth)
                row["pixels_0"] = displacement(points, views.cameras, true.cameras)
                learned = splats.agreed(views).cameras
                row["pixels"] = displacement(points, learned, true.cameras)
                row["aligned"] = aligned_displacement(points, learned, true.cameras)
            elif (folder.parent / "gt").is_dir():
                pictures = np.stack(
                    [read_rgba(folder.parent / "gt" / f"{i:03}.png") for i in range(len(views))]
                )
                row["truth"] = mean_psnr(splats, replace(views, rgba=pictures))
            yield f"{name} {'refined' if refine else 'as given'}", row


def _judged(splats: Splats, truth: tuple[Views, Views]) -> dict:
    return {"between": mean_psnr(splats, truth[0]), "off": mean_psnr(splats, truth[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--only", nargs="+", default=["protocol/drill", "orbits/chicken/predicted", "orbits/hi3d_monster"]
    )
    parser.add_argument("--set", action="append", default=[], metavar="splats.X=Y", dest="changes")
    args = parser.parse_args()
    options = override(preset("standard"), dict(change.split("=", 1) for change in args.changes))["splats"]
    table = Table("views", COLUMNS, name_width=42, width=9, digits=2)
    for name, row in rows(args.data, args.only, options):
        table.add(name, row)
    table.finish()


if __name__ == "__main__":
    main()
