"""Texture atlases of meshes, beside plain xatlas on the same meshes in the same run.

    python -m benchmarks.unwrap MESH... [--faces 20000,50000] [--size 2048] [--plain] [--bake] ...

MESH is anything trimesh reads. --faces brings each mesh to those numbers of faces, 0 leaves it as it is.
--plain runs xatlas, too (pip install xatlas; a minute and more from 100,000 faces on). --bake paints 16
pictures of the mesh, coloured by its normals, back onto it, at --size, without
Gaussians and without fitting. --pictures DIR draws the charts in colours.

Columns: charts; L2 stretch, angle and area distortion (1 is none); texel density, 95th percentile over 5th;
share of the atlas covered; mirrored triangles; texels covered twice; gap in texels; seconds. Last line: JSON.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import trimesh

from backend.geometry.cameras import ring
from backend.geometry.decimate import decimate
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.mesh_render import vertex_normals
from backend.geometry.uv_check import measure_uvs, narrowest_gap, overlapping_texels, uv_islands
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.texture.atlas import chart_padding, unwrap
from backend.stages.texture.project import ProjectTexture
from backend.stages.texture.warmup import warm_up
from benchmarks.results import Table

COLUMNS = (
    "faces", "charts", "stretch", "angle", "area", "density", "filled", "mirrored", "twice", "gap", "cpu",
    "wall",
)  # fmt: skip
NO_SPLATS = Splats(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 1, 3)))


def read_mesh(path: Path, faces: int) -> Mesh:
    """Welded, halved along its edges until it has enough faces, then reduced to `faces`; 0 leaves it."""
    shape = trimesh.load(path, force="mesh", process=False)
    shape.merge_vertices(merge_tex=True, merge_norm=True)
    vertices, triangles = np.asarray(shape.vertices), np.asarray(shape.faces)
    while faces and len(triangles) < faces:
        vertices, triangles = trimesh.remesh.subdivide(vertices, triangles)
    mesh = Mesh(vertices, triangles)
    if faces and len(mesh.faces) > faces:
        mesh = Mesh(*decimate(mesh.vertices, mesh.faces, faces))
    return mesh


def timed(work: Callable[[], object]) -> tuple[object, float, float]:
    """What `work` returns, its CPU and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def plain_xatlas(mesh: Mesh, size: int) -> tuple[np.ndarray, int]:
    """UVs and charts of xatlas with our gap between charts, otherwise as it comes."""
    import xatlas

    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, chart_padding(size), True
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), pack)
    _, indices, uvs = atlas[0]
    return uvs[indices].astype(np.float32), atlas.chart_count


def judge(mesh: Mesh, uvs: np.ndarray, charts: int, size: int, cpu: float, wall: float) -> dict:
    """One row."""
    quality = measure_uvs(mesh.vertices, mesh.faces, uvs)
    return {
        "faces": len(mesh.faces), "charts": charts, "stretch": quality.stretch, "angle": quality.angle,
        "area": quality.area, "density": quality.density_span, "filled": quality.utilisation,
        "mirrored": quality.flipped, "twice": overlapping_texels(uvs, size),
        "gap": narrowest_gap(uv_islands(mesh.faces, uvs), uvs, size, chart_padding(size)),
        "cpu": cpu, "wall": wall,
    }  # fmt: skip


def bake(mesh: Mesh, size: int) -> dict[str, float]:
    """Seconds and extra memory of the whole texture stage for 16 views of 512 pixels."""
    cameras = ring(16, radius=2.0, elevation_degrees=15.0, fov_degrees=40.0, size=512)
    middle = (mesh.vertices.max(axis=0) + mesh.vertices.min(axis=0)) / 2
    mesh = Mesh((mesh.vertices - middle) / np.ptp(mesh.vertices, axis=0).max(), mesh.faces)
    colors = (0.5 + 0.5 * vertex_normals(mesh.vertices, mesh.faces)).astype(np.float32)
    pictures = []
    for view in range(16):
        seen = rasterize_mesh(
            mesh.vertices, mesh.faces, cameras.world_from_camera[view], cameras.intrinsics[view], 512, 512
        )
        alpha = (seen.face >= 0).astype(np.float32)
        pictures.append(np.dstack([seen.interpolate(colors, mesh.faces), alpha]))
    views = Views(np.stack(pictures).astype(np.float32), cameras)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    context = StageContext("texture", None, "project")
    options = TextureOptions(size=size, optimise=False)
    _, cpu, wall = timed(lambda: ProjectTexture().bake(mesh, views, NO_SPLATS, options, context))
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"bake_cpu": cpu, "bake_wall": wall, "bake_mib": extra, "front_psnr": context.facts["front_psnr"]}


def draw_charts(mesh: Mesh, uvs: np.ndarray, path: Path) -> None:
    """The atlas with each chart in a colour of its own."""
    island = uv_islands(mesh.faces, uvs)
    colors = np.random.default_rng(1).integers(60, 255, (island.max() + 1, 3)).tolist()
    picture = np.full((1024, 1024, 3), 20, np.uint8)
    corners = np.rint((uvs * (1, -1) + (0, 1)) * 1024 * 16).astype(np.int32)
    for face, chart in enumerate(island.tolist()):
        cv2.fillPoly(picture, corners[face : face + 1], colors[chart], cv2.LINE_8, 4)
    cv2.imwrite(str(path), picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("meshes", type=Path, nargs="+")
    parser.add_argument("--faces", default="20000", help="numbers with commas")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--bake", action="store_true")
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    warm_up()
    columns = (*COLUMNS, "bake_cpu", "bake_wall", "bake_mib") if arguments.bake else COLUMNS
    table = Table("mesh", columns, name_width=28, width=10, digits=3)
    for path in arguments.meshes:
        name = path.stem if path.stem != "mesh" else path.parent.name
        for faces in (int(n) for n in arguments.faces.split(",")):
            mesh, size = read_mesh(path, faces), arguments.size
            context = StageContext("texture", None, "project")
            (uvs, charts), cpu, wall = timed(lambda: unwrap(mesh, size, context))  # noqa: B023
            row = judge(mesh, uvs, charts, size, cpu, wall)
            table.add(f"{name} {len(mesh.faces)}", row | (bake(mesh, size) if arguments.bake else {}))
            if arguments.pictures:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                draw_charts(mesh, uvs, arguments.pictures / f"{name}_{len(mesh.faces)}.png")
            if arguments.plain:
                (uvs, charts), cpu, wall = timed(lambda: plain_xatlas(mesh, size))  # noqa: B023
                table.add("  xatlas", judge(mesh, uvs, charts, size, cpu, wall))
    table.finish()
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
