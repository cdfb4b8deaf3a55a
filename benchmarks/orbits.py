"""Published orbits, reconstructed and looked at: `python -m benchmarks.orbits DATA_DIR -o OUT`.

DATA_DIR/orbits holds Hi3D's film `hi3d_monster/orbit.mp4` and SyncDreamer's `chicken/{predicted,mesh.obj}`;
more by `--orbit NAME=MODEL:PATH`. OUT gets each result and NAME.png: from eight sides, above and below, the
nearest view that the model drew, the textured mesh, its bare shape. Counts loose parts; where a scan is
there, Chamfer distance and IoU by SyncDreamer's protocol. The last line is JSON.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.evaluation.objects import load_object
from backend.evaluation.protocols import find_protocol
from backend.evaluation.scores import WHITE, score_shape
from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import over, render_clay
from backend.inputs.cut import cut_out
from backend.inputs.views import read_views
from backend.pipeline.values import Views, quantize
from benchmarks.results import Table, WrittenMesh, reported, run_measured
from shared_protocol.conventions import look_at, ring_position

COLUMNS = ("chamfer", "iou", "parts", "largest", "fit_psnr", "views_psnr", "charts", "cpu", "extra_mib")
SIDES, EDGE = 8, 360


@dataclass(frozen=True)
class Orbit:
    """A published orbit, and the scan it should show if there is one."""

    name: str
    model: str
    path: Path
    truth: Path | None = None


def published(data: Path) -> list[Orbit]:
    """Those of the data folder that are there."""
    folder = data / "orbits"
    known = [
        Orbit("hi3d_monster", "hi3d", folder / "hi3d_monster" / "orbit.mp4"),
        Orbit("chicken", "syncdreamer", folder / "chicken" / "predicted", folder / "chicken" / "mesh.obj"),
    ]
    return [orbit for orbit in known if orbit.path.exists()]


def viewpoints(views: Views) -> tuple[Cameras, list[str], list[int]]:
    """Eight sides at the orbit's elevation, then above and below; their names; the view nearest to each."""
    centre = views.cameras.centres[0]
    radius = float(np.linalg.norm(centre))
    elevation = float(np.degrees(np.arcsin(centre[2] / radius)))
    directions = [(360.0 * i / SIDES, elevation) for i in range(SIDES)]
    directions += [(0.0, 75.0), (0.0, -75.0)]
    names = [f"{azimuth:.0f}°" for azimuth, _ in directions[:SIDES]] + ["above", "below"]
    poses = np.array([look_at(ring_position(*direction, radius)) for direction in directions])
    lens = np.repeat(views.cameras.intrinsics[:1], len(poses), axis=0)
    cameras = Cameras(poses, lens, views.cameras.width, views.cameras.height)
    nearest = [int(np.argmax(views.cameras.centres @ eye)) for eye in cameras.centres]
    return cameras, names, nearest


def sheet(views: Views, mesh: WrittenMesh) -> Image.Image:
    """Rows: the nearest drawn view, the textured mesh, its shape; one column a viewpoint."""
    cameras, names, nearest = viewpoints(views)
    large = cameras.resized(2 * EDGE, 2 * EDGE)
    rows = [
        ("views", over(views.rgba[nearest], WHITE)),
        ("mesh", np.stack([over(mesh.render(large.take([i]), 2), WHITE) for i in range(len(large))])),
        ("shape", render_clay(mesh.vertices, mesh.faces, large, background=WHITE)[..., :3]),
    ]
    half = len(names) // 2  # two blocks, so that the page is no ribbon
    page = Image.new("RGB", (60 + EDGE * half, 2 * (24 + EDGE * len(rows))), (255, 255, 255))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for index, name in enumerate(names):
        block, column = divmod(index, half)
        left, top = 60 + EDGE * column, block * (24 + EDGE * len(rows))
        draw.text((left + EDGE // 2, top + 4), name, fill=(40, 42, 46), font=font, anchor="ma")
        for row, (label, pictures) in enumerate(rows):
            place = (left, top + 24 + EDGE * row)
            draw.text((6, place[1] + EDGE // 2), label, fill=(40, 42, 46), font=font)
            cell = Image.fromarray(quantize(pictures[index]))
            page.paste(cell.resize((EDGE, EDGE), Image.Resampling.LANCZOS), place)
    return page


def judge(orbit: Orbit, views: Views, mesh: WrittenMesh) -> dict:
    """Figures of one result from its written mesh."""
    volumes = mesh.part_volumes()
    errors = []
    for view in range(len(views)):
        drawn = over(mesh.render(views.cameras.take([view]), 2), WHITE)
        errors.append(np.mean((drawn - over(views.rgba[view], WHITE)) ** 2))
    found = {
        "parts": mesh.parts,
        "largest": float(volumes.max() / volumes.sum()),
        "views_psnr": float(np.mean(-10 * np.log10(errors))),
        "charts": mesh.charts,
    }
    if orbit.truth is not None:
        scan = load_object(orbit.name, orbit.truth)
        rules = find_protocol("syncdreamer").shape
        found |= score_shape(mesh.vertices, mesh.faces, scan.vertices, scan.faces, rules)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--orbit", action="append", default=[], metavar="NAME=MODEL:PATH")
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument("--keep", action="store_true", help="judge what OUT holds already")
    args = parser.parse_args()
    orbits = published(args.data)
    for text in args.orbit:
        name, _, rest = text.partition("=")
        model, _, path = rest.partition(":")
        orbits.append(Orbit(name, model, Path(path)))
    table = Table("orbit", COLUMNS, name_width=20, width=12, digits=4)
    for orbit in orbits:
        out = args.out / orbit.name
        words = ["--orbit-cameras", orbit.model, "--quality", args.quality]
        words += [word for text in args.set for word in ("--set", text)]
        if not (args.keep and (out / "mesh.glb").exists()):
            run_measured(orbit.path, out, words)
        views, _ = read_views(orbit.path, cut_out, orbit=orbit.model)
        mesh = WrittenMesh.read(out / "mesh.glb")
        sheet(views, mesh).save(args.out / f"{orbit.name}.png")
        table.add(orbit.name, judge(orbit, views, mesh) | reported(out))
    table.finish()


if __name__ == "__main__":
    main()
