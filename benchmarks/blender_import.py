"""Time to bring a file of Gaussians into Blender: the add-on's import next to raw numpy and Blender's own.

    .venv-blender/bin/python -m benchmarks.blender_import                 200,000 Gaussians, degree 3
    .venv-blender/bin/python -m benchmarks.blender_import --count 1000000 --rounds 3
    .venv-blender/bin/python -m benchmarks.blender_import --addons FOLDER FOLDER

`raw` is the least that any import must do: records of the file to one array, and that into attributes of a
mesh, with exp and sigmoid, and nothing checked. `blender` is Blender's own PLY importer, which leaves 58
numbers a Gaussian as they are. `ours` is what the add-on runs into an empty file, up to a finished object
with its node trees and materials, which an earlier import made (of this session or one before) and which
are appended; `ours first` makes them too, as the first import after the add-on's installation does; `ours
again` finds them in the file: what the object alone takes.
`--addons` runs other splat add-ons too, from folders with their sources, each by its own import operator.
CPU seconds, the smallest of several rounds in turn, in one process. The last line is JSON.
"""

import argparse
import importlib.util
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bpy
import numpy as np

from blender_addon.splats import template
from blender_addon.splats.columns import open_file
from blender_addon.splats.importing import import_splats
from blender_addon.splats.nodes import node_group
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


def again(path: Path) -> None:
    """The same into a file that has Gaussians of this degree."""
    ours(path)


def first(path: Path) -> None:
    """The same, with nothing kept of an earlier file."""
    ours(path)


WAYS: dict[str, Callable[[Path], None]] = {
    "raw": raw,
    "blender": blender,
    "ours first": first,
    "ours": ours,
    "ours again": again,
}
BEFORE = {first: template.forget, again: lambda: node_group(3)}
"""What comes before the clock starts."""
IMPORTERS = ("sna.dgs_render_import_ply_e0a3a", "object.import_gaussian_splatting")
"""Import operators of other splat add-ons: KIRI's 3DGS Render, ReshotAI's Gaussian Splatting."""


def other(folder: Path) -> tuple[str, Callable[[Path], None]]:
    """(name, import) of another add-on, checked out there: registered here, run by its own operator.

    What its file of assets (Git LFS) would still add is not counted where that file is missing: the operator
    then ends at its first use of it.
    """
    start = next(iter(sorted(folder.rglob("__init__.py"), key=lambda path: len(path.parts))), None)
    if start is None:
        raise SystemExit(f"{folder} holds no add-on")
    name = f"other_addon_{start.parent.name.translate(str.maketrans('-+. ', '____'))}"
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(start.parent)])
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    before = {known for known in IMPORTERS if _registered(known)}
    spec.loader.exec_module(module)
    module.register()
    found = [known for known in IMPORTERS if known not in before and _registered(known)]
    if not found:
        raise SystemExit(f"{start} registers none of {', '.join(IMPORTERS)}")
    category, operator = found[0].split(".")

    def run(path: Path) -> None:
        try:
            with redirect_stdout(io.StringIO()):
                getattr(getattr(bpy.ops, category), operator)(filepath=str(path))
        except RuntimeError as error:
            _missing.setdefault(name, str(error).strip().splitlines()[-1])

    return name, run


_missing: dict[str, str] = {}


def _registered(operator: str) -> bool:
    category, name = operator.split(".")
    return name in dir(getattr(bpy.ops, category))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--addons", type=Path, nargs="*", default=[], help="folders of other splat add-ons")
    options = parser.parse_args()
    bpy.ops.preferences.addon_enable(module="cycles")  # some add-ons ask for its settings
    ways = WAYS | dict(other(folder) for folder in options.addons)
    best = dict.fromkeys(ways, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "splats.ply"
        size = write_stored(path, made_up(options.count))
        for _ in range(options.rounds):
            for name, way in ways.items():
                bpy.ops.wm.read_factory_settings(use_empty=True)
                BEFORE.get(way, lambda: None)()
                start = time.process_time()
                way(path)
                best[name] = min(best[name], time.process_time() - start)
    _line(f"{options.count:,} Gaussians of degree 3, {size / 1e6:.1f} MB, Blender {bpy.app.version_string}")
    for name, seconds in best.items():
        _line(
            f"  {name:40} {seconds:7.3f} CPU-s  {seconds / best['raw']:6.2f} x raw"
            f"  {seconds / best['ours']:6.2f} x ours" + (f"  ({_missing[name]})" if name in _missing else "")
        )
    _line(json.dumps({"count": options.count, **{name: round(s, 4) for name, s in best.items()}}))


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
