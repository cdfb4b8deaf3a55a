"""True objects: every format read into one frame, and their pictures."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.evaluation.objects import PLAIN, file_digest, find_objects, load_object
from backend.evaluation.renders import AMBIENT, FILL, FILL_LIGHT, KEY, KEY_LIGHT, render_truth
from backend.geometry.cameras import ring
from backend.geometry.mesh_render import render_mesh
from shared_protocol.errors import InvalidInput


@pytest.fixture
def striped(tmp_path):
    """A textured ball in a GLB: Y up in the file."""
    ball = trimesh.creation.uv_sphere(0.5)
    ball.apply_scale((1, 1, 2))  # taller, in Blender's world
    longitude = np.arctan2(ball.vertices[:, 1], ball.vertices[:, 0]) / (2 * np.pi) + 0.5
    uv = np.column_stack([longitude, ball.vertices[:, 2] / 2 + 0.5])
    stripes = np.zeros((64, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = (200, 80, 40)
    stripes[:32] //= 2
    visual = trimesh.visual.TextureVisuals(uv=uv, image=Image.fromarray(stripes))
    ball.vertices = ball.vertices[:, [0, 2, 1]] * (1, 1, -1)
    path = tmp_path / "ball.glb"
    trimesh.Trimesh(ball.vertices, ball.faces, visual=visual, process=False).export(path)
    return path


def test_a_gltf_is_turned_up_and_scaled_to_longest_side_one(striped):
    truth = load_object("ball", striped)
    low, high = truth.vertices.min(axis=0), truth.vertices.max(axis=0)
    assert high - low == pytest.approx([0.5, 0.5, 1], abs=5e-3)
    assert low + high == pytest.approx([0, 0, 0], abs=1e-9)
    lying = load_object("ball", striped, up="z")
    assert np.ptp(lying.vertices, axis=0)[1] == pytest.approx(1)


def test_a_turn_is_counter_clockwise_seen_from_above(tmp_path):
    box = trimesh.creation.box((1, 0.2, 0.2)).apply_translation((1, 0, 0))
    marker = trimesh.creation.box((0.1, 0.1, 0.1)).apply_translation((-1, 0, 0))
    trimesh.util.concatenate([box, marker]).export(tmp_path / "bar.ply")
    truth = load_object("bar", tmp_path / "bar.ply", turn=90)
    assert np.ptp(truth.vertices, axis=0)[1] == pytest.approx(1)
    assert np.abs(truth.vertices[truth.vertices[:, 1] > 0.3][:, 0]).max() > 0.035  # the thick end, now at +Y


def test_our_textured_renderer_and_the_truths_draw_the_same(striped):
    truth = load_object("ball", striped)
    cameras = ring(3, radius=2, elevation_degrees=20, fov_degrees=40, size=64)
    paint = truth.paints[0]
    ours = render_truth(truth, cameras, lit=False, supersample=2)
    theirs = render_mesh(truth.vertices, truth.faces, paint.uvs, paint.texture, cameras, supersample=2)
    assert np.array_equal(ours[..., 3] > 0, theirs[..., 3] > 0)
    inside = ours[..., 3] == 1
    assert np.abs(ours - theirs)[inside].mean() < 4e-3  # they differ where a texture repeats


def test_textures_repeat_and_factors_multiply_in_linear_light(tmp_path):
    square = trimesh.creation.box((1, 1, 0.01))
    half = np.full((2, 2, 3), 255, dtype=np.uint8)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(half), baseColorFactor=[55, 55, 55, 255]
    )
    visual = trimesh.visual.TextureVisuals(uv=np.full((8, 2), 7.3), material=material)
    trimesh.Trimesh(square.vertices, square.faces, visual=visual, process=False).export(tmp_path / "s.glb")
    truth = load_object("s", tmp_path / "s.glb")
    cameras = ring(1, radius=2, elevation_degrees=0, fov_degrees=20, size=32)
    middle = render_truth(truth, cameras, lit=False)[0, 16, 16]
    linear = 55 / 255
    assert middle == pytest.approx([1.055 * linear ** (1 / 2.4) - 0.055] * 3 + [1], abs=3e-3)


def test_lights_are_lambert_and_fixed_in_the_world(tmp_path):
    trimesh.creation.box().export(tmp_path / "box.stl")
    truth = load_object("box", tmp_path / "box.stl")
    cameras = ring(4, radius=3, elevation_degrees=0, fov_degrees=10, size=8)
    seen = render_truth(truth, cameras, lit=True)[:, 4, 4, :3]
    key, fill = np.array(KEY) / np.linalg.norm(KEY), np.array(FILL) / np.linalg.norm(FILL)
    for colour, normal in zip(seen, ([0, -1, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]), strict=True):
        light = AMBIENT + KEY_LIGHT * max(key @ normal, 0) + FILL_LIGHT * max(fill @ normal, 0)
        assert colour == pytest.approx(np.array(PLAIN) * light, abs=3e-3)


def test_vertex_and_face_colours_are_drawn(tmp_path):
    for kind in ("vertex", "face"):
        ball = trimesh.creation.icosphere(2)
        count = len(ball.vertices) if kind == "vertex" else len(ball.faces)
        colours = np.tile(np.array([10, 120, 250, 255], dtype=np.uint8), (count, 1))
        ball.visual = trimesh.visual.ColorVisuals(ball, **{f"{kind}_colors": colours})
        ball.export(tmp_path / f"{kind}.ply")
        truth = load_object(kind, tmp_path / f"{kind}.ply")
        cameras = ring(1, radius=3, elevation_degrees=0, fov_degrees=30, size=16)
        middle = render_truth(truth, cameras, lit=False)[0, 8, 8]
        assert middle[:3] == pytest.approx(np.array([10, 120, 250]) / 255, abs=3e-3)


def test_objects_are_found_by_name_and_generic_files_take_their_folders(tmp_path):
    for folder in ("mug", "other/mug"):
        (tmp_path / folder).mkdir(parents=True)
        trimesh.creation.box().export(tmp_path / folder / "model.obj")
    trimesh.creation.box().export(tmp_path / "ball.stl")
    (tmp_path / "notes.txt").write_text("no mesh")
    assert [name for name, _ in find_objects(tmp_path)] == ["ball", "mug", "mug-2"]
    assert [name for name, _ in find_objects(tmp_path / "ball.stl")] == ["ball"]


def test_a_changed_texture_changes_the_digest_of_an_obj(tmp_path):
    trimesh.creation.box().export(tmp_path / "model.obj")
    (tmp_path / "texture.png").write_bytes(b"one")
    first = file_digest(tmp_path / "model.obj")
    (tmp_path / "texture.png").write_bytes(b"two")
    assert file_digest(tmp_path / "model.obj") != first


@pytest.mark.parametrize("content", [b"", b"not a mesh", b"ply\nformat ascii 1.0\nend_header\n"])
@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl"])
def test_a_file_that_is_no_mesh_is_invalid_input(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidInput):
        load_object("broken", path)


def test_empty_folders_and_missing_ones_are_invalid_input(tmp_path):
    with pytest.raises(InvalidInput, match="holds no mesh"):
        find_objects(tmp_path)
    with pytest.raises(InvalidInput, match="does not exist"):
        find_objects(tmp_path / "nothing")
