"""Lays a mesh out in the plane with xatlas, in a process of its own: `python unwrap.py IN.npz OUT.npz`.

xatlas holds the interpreter lock for seconds (1.2 s for 16k faces, 8 s for 50k): in its own process it
can be watched and killed. This file imports nothing of ours, so that the process starts at once.

IN   vertices (V, 3) float32, faces (F, 3) uint32, resolution, padding (texels)
OUT  uvs (F, 3, 2) float32 0..1 as xatlas lays them, charts (the number of them)
"""

import sys

import numpy as np
import xatlas


def unwrap(vertices: np.ndarray, faces: np.ndarray, resolution: int, padding: int) -> tuple[np.ndarray, int]:
    """UVs of every face corner, and the number of charts."""
    charts = xatlas.ChartOptions()
    pack = xatlas.PackOptions()
    pack.resolution = resolution
    pack.padding = padding
    pack.bilinear = True
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    atlas.generate(charts, pack)
    _, indices, uvs = atlas[0]
    return uvs[indices], atlas.chart_count


def main() -> None:
    """Read IN, write OUT."""
    source, target = sys.argv[1:]
    with np.load(source) as data:
        uvs, charts = unwrap(data["vertices"], data["faces"], int(data["resolution"]), int(data["padding"]))
    np.savez(target, uvs=uvs.astype(np.float32), charts=charts)


if __name__ == "__main__":
    main()
