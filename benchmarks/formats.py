"""Speed and size of the Gaussian-splat files, next to gsply and gaussforge where they are installed.

    python -m benchmarks.formats                    500,000 Gaussians of degree 3
    python -m benchmarks.formats --count 100000 --degree 0

From arrays to a file in memory and back; the libraries as they offer it (gsply works on files, gaussforge on
bytes). CPU milliseconds are process time over all threads, smallest of several runs, and wall milliseconds
likewise; on a busy machine the former say more. Kernels of gsply are compiled before. Last line: JSON.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.results import Table
from shared_protocol.splats.arrays import COEFFICIENTS, StoredSplats
from shared_protocol.splats.files import FORMATS, decode_stored, encode_stored

COLUMNS = ("save cpu", "save wall", "load cpu", "load wall", "MB")


def scene(count: int, degree: int) -> StoredSplats:
    """A bumpy ball as `benchmarks.rasterizer`'s, seed 0."""
    from benchmarks.rasterizer import ball

    positions, scales, rotations, opacities, harmonics = ball(count, COEFFICIENTS[degree])
    return StoredSplats(
        *(
            np.ascontiguousarray(values, dtype=np.float32)
            for values in (
                positions,
                np.log(scales),
                rotations,
                np.log(opacities / (1 - opacities)),
                harmonics,
            )
        )
    )


def measure(save: Callable[[], int], load: Callable[[], object], repeats: int) -> dict[str, float]:
    """`save` returns the bytes of the file."""
    row: dict[str, float] = {}
    for name, function in (("save", save), ("load", load)):
        cpu, wall = [], []
        for _ in range(repeats):
            start, start_wall = time.process_time(), time.perf_counter()
            result = function()
            cpu.append(time.process_time() - start)
            wall.append(time.perf_counter() - start_wall)
        row |= {f"{name} cpu": 1000 * min(cpu), f"{name} wall": 1000 * min(wall)}
        if name == "save":
            row["MB"] = result / 1e6
        del result
    return row


def ours(stored: StoredSplats, kind: str, repeats: int) -> dict[str, float]:
    data = encode_stored(stored, kind)
    return measure(lambda: len(encode_stored(stored, kind)), lambda: decode_stored(data), repeats)


def with_gsply(stored: StoredSplats, kind: str, repeats: int, folder: Path) -> dict[str, float]:
    import gsply

    path = folder / f"gsply.{kind}"
    rest = np.ascontiguousarray(stored.harmonics[:, 1:]) if stored.degree else None
    base = np.ascontiguousarray(stored.harmonics[:, 0])

    def save() -> int:
        data = gsply.GSData.from_arrays(*stored[:4], base, rest, format="ply")
        gsply.write_spz(path, data) if kind == "spz" else gsply.plywrite(path, data)
        return path.stat().st_size

    def load() -> object:
        return gsply.read_spz(path) if kind == "spz" else gsply.plyread(path)

    save(), load()
    return measure(save, load, repeats)


def with_gaussforge(stored: StoredSplats, kind: str, repeats: int) -> dict[str, float]:
    import gaussforge

    forge = gaussforge.GaussForge()
    between = forge.read(encode_stored(stored, "ply"), "ply")["data"]
    data = bytes(forge.write(between, kind)["data"])
    return measure(lambda: len(forge.write(between, kind)["data"]), lambda: forge.read(data, kind), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=500_000)
    parser.add_argument("--degree", type=int, choices=range(4), default=3)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    stored = scene(arguments.count, arguments.degree)
    title = f"{stored.count:,} of degree {stored.degree}"
    table = Table(title, COLUMNS, name_width=30, width=11, digits=1)
    for kind in FORMATS:
        table.add(f"ours {kind}", ours(stored, kind, arguments.repeats))
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("ply", "compressed.ply", "spz") if importlib.util.find_spec("gsply") else ():
            table.add(f"gsply {kind}", with_gsply(stored, kind, arguments.repeats, Path(folder)))
    for kind in ("ply", "spz") if importlib.util.find_spec("gaussforge") else ():
        # Its own SPZ takes seconds: once is enough.
        table.add(
            f"gaussforge {kind}", with_gaussforge(stored, kind, 1 if kind == "spz" else arguments.repeats)
        )
    table.finish()


if __name__ == "__main__":
    sys.exit(main())
