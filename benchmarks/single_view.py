"""The embedded orbit from one picture, judged by the scan: `python -m benchmarks.single_view DATA_DIR`.

DATA_DIR holds `protocol/NAME/{cameras.json,views,mesh.ply}` and, if there, `renders/NAME` whose cameras.json
names a model. One view is given with its true camera; its shape prior is compared with the scan (longest
side 1), its pictures with the other views of the orbit. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import trimesh
from scipy.ndimage import binary_fill_holes

from backend.geometry import metrics
from backend.geometry.cameras import Cameras, ring
from backend.geometry.mesh_render import over
from backend.inputs.views import read_views
from backend.pipeline.options import OrbitOptions
from backend.pipeline.values import Views
from backend.stages.orbit.inflate import build_shape
from backend.stages.orbit.render import render
from backend.stages.orbit.warmup import warm_up
from benchmarks.results import Table

COLUMNS = ("iou", "solid_iou", "chamfer", "f_02", "front_iou", "front_psnr", "held_psnr", "lathe", "cpu")


def truth_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the scan that the views in `folder` show, in their frame."""
    path = folder / "mesh.ply"
    if not path.exists():
        path = folder.parent.parent / json.loads((folder / "cameras.json").read_text())["object"]
    mesh = trimesh.load(path, process=False, force="mesh")
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def in_ring_frame(folder: Path, view: int) -> tuple[Views, Cameras, float, np.ndarray, np.ndarray]:
    """Everything in the frame in which `view` is camera 0 of a ring around the scan, its longest side 1.

    Returns the views with cameras in that frame, camera 0 alone, its elevation in degrees, and the scan.
    """
    views, _ = read_views(folder, lambda picture: picture)
    vertices, faces = truth_of(folder)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    scale, middle = 1 / (high - low).max(), (high + low) / 2
    poses = views.cameras.world_from_camera.copy()
    poses[:, :3, 3] = (poses[:, :3, 3] - middle) * scale
    eye = poses[view, :3, 3]
    radius = float(np.linalg.norm(eye))
    elevation = float(np.degrees(np.arcsin(eye[2] / radius)))
    intrinsics = views.cameras.intrinsics
    size = views.cameras.width
    fov = float(np.degrees(2 * np.arctan(size / 2 / intrinsics[view, 0, 0])))
    camera = ring(1, radius=radius, elevation_degrees=elevation, fov_degrees=fov, size=size)
    turn = camera.world_from_camera[0] @ np.linalg.inv(poses[view])
    cameras = Cameras(turn @ poses, intrinsics, size, size)
    true = ((vertices - middle) * scale) @ turn[:3, :3].T + turn[:3, 3]
    return Views(views.rgba, cameras), camera, elevation, true, faces


def solid_iou(
    vertices: np.ndarray,
    faces: np.ndarray,
    true_vertices: np.ndarray,
    true_faces: np.ndarray,
    eye: np.ndarray,
) -> float:
    """Volume IoU of the shape alone: solid, and as far away as fits best.

    Mugs, bells and shoes are thin shells around a hollow: the holes of each horizontal slice are filled, on
    64^3 points. One picture does not tell distance: the shape may grow or shrink about the camera, which
    leaves its picture as it is.
    """
    both = np.concatenate([vertices, true_vertices])
    low, high = both.min(axis=0), both.max(axis=0)
    middle, half = (low + high) / 2, (high - low).max() / 2 * 1.15
    box = middle - half, middle + half

    def filled(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        solid = metrics.inside_grid(points, triangles, *box, 64)
        return np.stack([binary_fill_holes(solid[:, :, z]) for z in range(64)], axis=2)

    truth = filled(true_vertices, true_faces)
    tries = (filled(eye + scale * (vertices - eye), faces) for scale in np.linspace(0.86, 1.14, 15))
    return max(float((ours & truth).sum() / (ours | truth).sum()) for ours in tries)


def measure(folder: Path, view: int, relief: float) -> dict[str, float]:
    """One row: all figures of one object from one view."""
    views, camera, elevation, true, true_faces = in_ring_frame(folder, view)
    start = time.process_time()
    shape, _, lathe = build_shape(views.rgba[view], camera, elevation, relief=relief)
    cpu = time.process_time() - start
    score = metrics.score_shape(shape.vertices, shape.faces, true, true_faces, samples=30_000)
    outline = metrics.silhouette(shape.vertices, shape.faces, camera, 0)

    def quality(index: int) -> float:
        pose, intrinsics = views.cameras.world_from_camera[index], views.cameras.intrinsics[index]
        drawn, _ = render(shape, pose, intrinsics, views.cameras.width)
        return metrics.psnr(over(drawn, (1, 1, 1)), over(views.rgba[index], (1, 1, 1)))

    return {
        "iou": score.iou,
        "solid_iou": solid_iou(shape.vertices, shape.faces, true, true_faces, camera.centres[0]),
        "chamfer": score.chamfer,
        "f_02": score.fscore[0.02],
        "front_iou": metrics.mask_iou(outline, views.rgba[view, ..., 3]),
        "front_psnr": quality(view),
        "held_psnr": float(np.mean([quality(i) for i in range(len(views)) if i != view])),
        "lathe": lathe,
        "cpu": cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--views", default="0", help="numbers of the views to start from, with commas")
    parser.add_argument("--relief", type=float, default=OrbitOptions().relief, help="as orbit.relief")
    args = parser.parse_args()
    wanted = set(args.only.split(",")) - {""}
    folders = [
        path.parent
        for kind in ("protocol", "renders")
        for path in sorted(args.data.glob(f"{kind}/*/cameras.json"))
        if not path.parent.name.endswith("_noise1") and (not wanted or path.parent.name in wanted)
    ]
    warm_up()
    table = Table("object", COLUMNS, name_width=26, width=11, digits=4)
    rows = []
    for folder in folders:
        for view in map(int, args.views.split(",")):
            rows.append(measure(folder, view, args.relief))
            table.add(f"{folder.parent.name}/{folder.name} {view}", rows[-1])
    table.add("mean", {column: float(np.mean([row[column] for row in rows])) for column in COLUMNS})
    table.finish()


if __name__ == "__main__":
    main()
