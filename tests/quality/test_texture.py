"""Baking true views onto true geometry: what the texture stage alone loses."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_render import over, render_mesh
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, Splats, Views
from backend.stages.texture.project import ProjectTexture
from tests.support.shared import shared_path

pytestmark = [pytest.mark.quality, pytest.mark.slow]

NO_SPLATS = Splats(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 1, 3)))


def _views(name: str, key: str) -> Views:
    folder = shared_path("data", "protocol", name)
    data = json.loads((folder / "cameras.json").read_text())
    frames = data[key]
    lens = np.array([[data["fl_x"], 0, data["cx"]], [0, data["fl_y"], data["cy"]], [0, 0, 1]])
    pictures = [np.asarray(Image.open(folder / f["file_path"]).convert("RGBA")) for f in frames]
    poses = np.array([f["world_from_camera"] for f in frames])
    cameras = Cameras(poses, np.repeat(lens[None], len(frames), 0), data["width"], data["height"])
    return Views(np.stack(pictures).astype(np.float32) / 255, cameras)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    white = (1, 1, 1)
    return float(-10 * np.log10(np.mean((over(a, white) - over(b, white)) ** 2)))


# Measured: front, held-out on the orbit, off the orbit = drill 55 / 55 / 51 dB, duck 48 / 52 / 50,
# monkey 55 / 54 / 48. (A ray-cast bake at the same size: 37 to 38 dB.)
@pytest.mark.parametrize("name", ["drill", "duck", "monkey"])
def test_true_views_on_true_geometry_come_back_from_all_sides(name):
    views, held = _views(name, "frames"), _views(name, "heldout")
    scan = trimesh.load(shared_path("data", "protocol", name, "mesh.ply"), process=False)
    scan.merge_vertices()
    mesh = Mesh(scan.vertices, scan.faces)
    context = StageContext("texture", None, "project")
    baked = ProjectTexture().bake(mesh, views, NO_SPLATS, TextureOptions(size=1024), context)
    assert context.facts["front_psnr"] > 45
    assert context.facts["charts"] <= 200
    pictures = render_mesh(mesh.vertices, mesh.faces, baked.uvs, baked.texture, held.cameras)
    on_orbit = [_psnr(pictures[i], held.rgba[i]) for i in range(4)]
    off_orbit = [_psnr(pictures[i], held.rgba[i]) for i in range(4, 8)]
    assert np.mean(on_orbit) > 45
    assert np.mean(off_orbit) > 42
