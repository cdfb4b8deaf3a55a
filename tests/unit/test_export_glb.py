"""mesh.glb: read back by our own check, by trimesh and, where there is node, by Khronos' validator."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.pipeline.values import Mesh, TexturedMesh
from backend.stages.export.glb import split_at_seams, write_glb
from shared_protocol.conventions import world_from_gltf
from tests.support.gltf_check import check_glb


def _unfolded_ball() -> TexturedMesh:
    """A sphere whose triangles stand apart in the atlas in two charts (front and back)."""
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    vertices = sphere.vertices.astype(np.float32) + np.array([0.1, -0.2, 0.3], dtype=np.float32)
    corner = sphere.vertices[sphere.faces]
    front = corner.mean(axis=1)[:, 1] < 0
    uvs = corner[..., [0, 2]] * 0.45 + 0.25 + np.where(front, 0, 0.5)[:, None, None] * np.array([1, 0])
    texture = np.random.default_rng(3).random((64, 64, 3), dtype=np.float32)
    return TexturedMesh(Mesh(vertices, sphere.faces), np.clip(uvs, 0, 1).astype(np.float32), texture)


def test_the_file_keeps_the_rules_of_the_format():
    ball = _unfolded_ball()
    arrays = check_glb(write_glb(ball))
    assert arrays["material"]["metallicFactor"] == 0
    assert arrays["material"]["roughnessFactor"] == pytest.approx(0.9)
    assert len(arrays["indices"]) == len(ball.mesh.faces)


def test_positions_uvs_and_texture_are_the_mesh_turned_y_up():
    ball = _unfolded_ball()
    arrays = check_glb(write_glb(ball))
    np.testing.assert_array_equal(
        world_from_gltf(arrays["POSITION"])[arrays["indices"]], ball.mesh.vertices[ball.mesh.faces]
    )
    uvs = arrays["TEXCOORD_0"][arrays["indices"]]
    np.testing.assert_allclose(uvs[..., 0], ball.uvs[..., 0])
    np.testing.assert_allclose(uvs[..., 1], 1 - ball.uvs[..., 1], atol=1e-7)
    pixels = np.asarray(Image.open(io.BytesIO(arrays["png"])))
    np.testing.assert_array_equal(pixels, np.rint(ball.texture * 255).astype(np.uint8))


def test_vertices_are_split_along_seams_only_and_their_copies_are_the_same_bits():
    ball = _unfolded_ball()
    source, uv, faces = split_at_seams(ball.mesh.faces, ball.uvs)
    np.testing.assert_array_equal(source[faces], ball.mesh.faces)
    np.testing.assert_array_equal(uv[faces], ball.uvs)
    count = len(ball.mesh.vertices)
    assert count < len(source) < 1.2 * count
    arrays = check_glb(write_glb(ball))
    assert len(np.unique(arrays["POSITION"], axis=0)) == count
    both = np.column_stack([arrays["POSITION"], arrays["NORMAL"]])
    assert len(np.unique(both, axis=0)) == count


def test_trimesh_reads_it_and_finds_it_watertight_once_welded(tmp_path):
    ball = _unfolded_ball()
    path = tmp_path / "mesh.glb"
    path.write_bytes(write_glb(ball))
    for process in (False, True):
        mesh = trimesh.load(path, force="mesh", process=process)
        assert not mesh.is_watertight  # split along the seams, as glTF must be
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.02)
        np.testing.assert_allclose(mesh.bounds, [[-0.4, -0.2, -0.3], [0.6, 0.8, 0.7]], atol=1e-6)
    scene = trimesh.load(path)
    (geometry,) = scene.geometry.values()
    assert geometry.visual.material.baseColorTexture.size == (64, 64)
    assert geometry.visual.material.metallicFactor == 0


def test_the_same_mesh_gives_the_same_bytes():
    assert write_glb(_unfolded_ball()) == write_glb(_unfolded_ball())


def test_khronos_validator_has_nothing_to_say(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = "require.resolve('gltf-validator')"
    if subprocess.run([node, "-e", script], capture_output=True, check=False).returncode:
        pytest.skip("the npm package gltf-validator is not installed (set NODE_PATH)")
    path = tmp_path / "mesh.glb"
    path.write_bytes(write_glb(_unfolded_ball()))
    script = (
        "require('gltf-validator').validateBytes(new Uint8Array(require('fs')"
        ".readFileSync(process.argv[1]))).then(r => console.log(JSON.stringify(r.issues)))"
    )
    output = subprocess.run([node, "-e", script, str(path)], capture_output=True, check=True, text=True)
    issues = json.loads(output.stdout)
    assert issues["messages"] == []
