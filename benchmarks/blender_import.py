"""Time to bring a file of Gaussians into Blender: the add-on's import next to raw numpy and Blender's own.

    .venv-blender/bin/python -m benchmarks.blender_import                 200,000 Gaussians, degree 3
    .venv-blender/bin/python -m benchmarks.blender_import --count 1000000 --rounds 3

`raw` is the least that any import must do: records of the file to one array, and that into attributes of a
mesh, with exp and sigmoid, and nothing checked. `blender` is Blender's own PLY importer, which leaves 58
numbers a Gaussian as they are. `ours` is what the add-on runs, up to a finished object with its nodes.
CPU seconds, the smallest of several rounds in turn, in one process. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bpy
import numpy as np

from blender_addon.splats.columns import open_file
from blender_addon.splats.importing import import_splats
from shared_protocol.splats.arrays import StoredSplats
from shared_protocol.splats.files import write_stored


def made_up(count: int) -> StoredSplats:
    """Gaussians of degree 3 with numbers of the usual size; quaternions of any length."""
    random = np.random.default_rng(0)
    return StoredSplats(
        random.normal(size=(count, 3)).astype(np.float32),
        random.normal(-5, 1, (count, 3)).astype(np.float32),
        random.normal(size=(count, 4)).astype(np.float32),
        random.normal(size=count).astype(np.float32),
        random.normal(0, 0.2, (count, 16, 3)).astype(np.float32),
    )


def raw(path: Path) -> None:
    """The throw-away import: no checks, no nodes."""
    data = path.read_bytes()
    start = data.index(b"end_header\n") + len(b"end_header\n")
    rows = np.frombuffer(data, np.float32, offset=start).reshape(-1, 62)
    mesh = bpy.data.meshes.new("raw")
    mesh.vertices.add(len(rows))
    mesh.vertices.foreach_set("co", rows[:, 0:3].ravel())

    def put(name: str, kind: str, field: str, values: np.ndarray) -> None:
        mesh.attributes.new(name, kind, "POINT").data.foreach_set(field, values.ravel())

    turn = rows[:, 58:62]
    put("rotation", "QUATERNION", "value", turn / np.linalg.norm(turn, axis=1, keepdims=True))
    put("scale", "FLOAT_VECTOR", "vector", np.exp(rows[:, 55:58]))
    base = np.concatenate([rows[:, 6:9], 1 / (1 + np.exp(-rows[:, 54:55]))], axis=1)
    put("radiance:base", "FLOAT_COLOR", "color", base)
    for k in range(15):
        columns = [9 + k, 24 + k, 39 + k]
        put(f"radiance:sh_{k}", "FLOAT_VECTOR", "vector", rows[:, columns])
    mesh.update()
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("raw", mesh))


def blender(path: Path) -> None:
    """Blender's importer."""
    bpy.ops.wm.ply_import(filepath=str(path), import_attributes=True)


def ours(path: Path) -> None:
    """The add-on's import."""
    import_splats(open_file(path), "ours", bpy.context.scene.collection)


WAYS: dict[str, Callable[[Path], None]] = {"raw": raw, "blender": blender, "ours": ours}
REPORTED = {"KIRI 3DGS Render 4.1.5": 8.1, "ReshotAI": 9.2}
"""Times the raw path that the import of two splat add-ons took where they could be run (Blender 5.0.1,
200,000 Gaussians of degree 3, the same process): 1.50 and 1.70 s, raw 0.184 s. They are not part of this
run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    best = dict.fromkeys(WAYS, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "splats.ply"
        size = write_stored(path, made_up(options.count))
        for _ in range(options.rounds):
            for name, way in WAYS.items():
                bpy.ops.wm.read_factory_settings(use_empty=True)
                start = time.process_time()
                way(path)
                best[name] = min(best[name], time.process_time() - start)
    _line(f"{options.count:,} Gaussians of degree 3, {size / 1e6:.1f} MB, Blender {bpy.app.version_string}")
    for name, seconds in best.items():
        _line(f"  {name:8} {seconds:7.3f} CPU-s  {seconds / best['raw']:5.2f} x raw")
    for name, ratio in REPORTED.items():
        _line(
            f"  {name}: {ratio} x raw when it was measured, {ratio * best['raw'] / best['ours']:.1f} x ours"
        )
    _line(json.dumps({"count": options.count, **{name: round(s, 4) for name, s in best.items()}}))


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
