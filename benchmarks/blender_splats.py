"""How Gaussians look in Blender: the add-on's drawing and its Cycles nodes next to a plain EWA reference.

    .venv-blender/bin/python -m benchmarks.blender_splats                       made-up Gaussians
    .venv-blender/bin/python -m benchmarks.blender_splats a.ply b.spz --no-cycles --size 256

For every file, at degree 0 and at its own degree, seen by one perspective camera: PSNR over white of the GPU
drawing (in a real window, on Linux under Xvfb) and of Cycles (flat Gaussians mixed as trained, mixed in
linear light, solid ones for any camera). The reference is `tests.support.ewa`, float64 and apart from
the product; it agrees with the backend's rasteriser to 78 dB and more. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bpy
import numpy as np

from shared_protocol.splats.arrays import cut_degree
from shared_protocol.splats.files import read_splats, read_stored, write_stored
from tests.blender.test_splat_drawing import lens, looking, wild_splats
from tests.support import blender_files as files
from tests.support import ewa
from tests.support.xvfb import in_window

AZIMUTH, DISTANCES = 30.0, 3.2
WAYS = {
    "cycles as trained": {},
    "cycles linear": {"trained": False},
    "cycles any camera": {"any_camera": True},
}


def prepare(paths: list[Path], folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Copies of the files at degree 0 and at their own; label -> view and projection that frame them."""
    if not paths:
        made = {
            "needles and haze": wild_splats(16, 3, 3000),
            "ball of discs": files.ball_splats(count=5000, terms=16),
        }
        for name, raw in made.items():
            (folder / f"{name}.ply").write_bytes(files.splat_ply(**raw))
        paths = [folder / f"{name}.ply" for name in made]
    views = {}
    for path in paths:
        stored = read_stored(path)
        label = path.stem if path.stem != "splats" else path.parent.name
        for degree in sorted({0, stored.degree}):
            name = f"{label} degree {degree}"
            write_stored(folder / f"{name}.ply", cut_degree(stored, degree))
            middle = np.median(stored.positions, axis=0)
            radius = np.percentile(np.linalg.norm(stored.positions - middle, axis=1), 98)
            view = looking(AZIMUTH, 15.0, DISTANCES * radius)
            shift = np.eye(4)
            shift[:3, 3] = -middle
            views[name] = view @ shift, lens(2.6)
    return views


def session(bpy, folder: Path):
    """In the window: the drawing of all files."""
    import gpu

    from blender_addon.splats import atlas, order, painter
    from blender_addon.splats.columns import open_file
    from blender_addon.splats.importing import import_splats
    from blender_addon.splats.view import View

    yield 0.5
    task = json.loads((folder / "task.json").read_text())
    target = gpu.types.GPUOffScreen(task["size"], task["size"], format="RGBA16F")
    for name, (view, projection) in task["views"].items():
        item = import_splats(open_file(folder / f"{name}.ply"), name, bpy.context.scene.collection)
        *_, made = atlas.build([(item.data.name, item.data)])
        seen = View.of(view, projection, task["size"], task["size"])
        instances = [painter.Instance(item.data.name, np.eye(4))]
        sorted_ = order.far_to_near(seen.view_from_world, painter.placed(made, instances))
        texture = painter.order_texture(sorted_)
        painter.paint(target, seen, made, instances, texture, len(sorted_))
        np.save(folder / f"{name}.npy", painter.read(target))
        bpy.data.objects.remove(item)
        yield 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--size", type=int, default=256, help="pixels of the drawing (Cycles: 64)")
    parser.add_argument("--no-cycles", action="store_true")
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        views = prepare(options.files, folder)
        task = {
            "size": options.size,
            "views": {name: [view.tolist(), p.tolist()] for name, (view, p) in views.items()},
        }
        (folder / "task.json").write_text(json.dumps(task))
        in_window(folder, "benchmarks.blender_splats:session", seconds=540)
        for name, (view, projection) in views.items():
            expected = ewa.picture(
                [(read_splats(folder / f"{name}.ply"), np.eye(4))],
                view,
                projection,
                options.size,
                options.size,
            )
            drawn = np.load(folder / f"{name}.npy")
            row = {"drawn": ewa.psnr(ewa.over_white(drawn), ewa.over_white(expected))}
            if not options.no_cycles:
                row |= cycles(folder, name, options.samples)
            table[name] = {way: round(value, 1) for way, value in row.items()}
            _line(f"{name:32} " + "  ".join(f"{way} {value:.1f}" for way, value in table[name].items()))
    _line(json.dumps({"unit": "dB", "files": table}))


def cycles(folder: Path, name: str, samples: int) -> dict[str, float]:
    """PSNR of each way in Cycles."""
    from tests.blender.test_splat_cycles import compare

    found = {}
    for way, settings in WAYS.items():
        bpy.ops.wm.read_factory_settings(use_empty=True)
        found[way] = compare(folder, (folder / f"{name}.ply").read_bytes(), samples=samples, **settings)
    return found


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
