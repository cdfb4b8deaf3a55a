"""Posed views in every camera layout we read, and orbits whose cameras are known by name."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from backend.geometry.cameras import ring
from backend.inputs.cut import cut_out
from backend.inputs.orbits import ORBITS, estimate_elevation
from backend.inputs.views import read_views
from backend.pipeline.values import quantize
from shared_protocol.conventions import opengl_from_opencv
from shared_protocol.errors import InvalidInput
from tests.support.scenes import lopsided_figure, render_views


def _no_cut(picture):
    raise AssertionError("pictures with alpha need no cut-out")


@pytest.fixture(scope="module")
def views():
    return render_views(
        lopsided_figure(), ring(4, radius=3.0, elevation_degrees=10.0, fov_degrees=25.0, size=64)
    )


def _write(folder, views, layout):
    for i, rgba in enumerate(views.rgba):
        Image.fromarray(quantize(rgba)).save(folder / f"{i:03d}.png")
    intrinsics, poses = views.cameras.intrinsics[0], views.cameras.world_from_camera
    size = {"w": 64, "h": 64}
    focal = {"fl_x": intrinsics[0, 0], "fl_y": intrinsics[1, 1], "cx": 32.0, "cy": 32.0, **size}
    if layout == "nerfstudio":
        name, head = "transforms.json", focal
        frames = [{"transform_matrix": opengl_from_opencv(p).tolist()} for p in poses]
    elif layout == "blender nerf":
        name, head = "transforms.json", {"camera_angle_x": np.radians(25.0)}
        frames = [{"transform_matrix": opengl_from_opencv(p).tolist()} for p in poses]
    elif layout == "opencv":
        name, head = "cameras.json", focal
        frames = [{"world_from_camera": p.tolist()} for p in poses]
    elif layout == "world to camera":
        name, head = "cameras.json", {"K": intrinsics.tolist(), "width": 64, "height": 64}
        frames = [{"world_to_camera": np.linalg.inv(p)[:3].tolist()} for p in poses]
    else:
        name, head = "transforms.json", {k: v * 4 for k, v in focal.items()}
        frames = [{"transform_matrix": opengl_from_opencv(p).tolist()} for p in poses]
    for i, frame in enumerate(frames):
        frame["file_path"] = f"./{i:03d}" if layout == "blender nerf" else f"{i:03d}.png"
    (folder / name).write_text(json.dumps({**head, "frames": frames}))


@pytest.mark.parametrize(
    "layout", ["nerfstudio", "blender nerf", "opencv", "world to camera", "stated for a larger picture"]
)
def test_every_camera_layout_gives_the_same_cameras(views, layout, tmp_path):
    _write(tmp_path, views, layout)
    again, _ = read_views(tmp_path, _no_cut)
    np.testing.assert_allclose(again.cameras.world_from_camera, views.cameras.world_from_camera, atol=1e-9)
    np.testing.assert_allclose(again.cameras.intrinsics, views.cameras.intrinsics, atol=1e-9)
    np.testing.assert_array_equal(quantize(again.rgba), quantize(views.rgba))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is not a camera file"),
        ("{}", "is not a camera file"),
        ('{"frames": []}', "fewer than two"),
        ('{"frames": [{"file_path": "000.png"}, {"file_path": "001.png"}]}', "no usable pose"),
    ],
)
def test_broken_camera_files_are_named(views, text, words, tmp_path):
    _write(tmp_path, views, "nerfstudio")
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(InvalidInput, match=words):
        read_views(tmp_path, _no_cut)


def test_a_folder_without_cameras_says_what_is_missing(tmp_path):
    with pytest.raises(InvalidInput, match=r"transforms\.json"):
        read_views(tmp_path, _no_cut)


def test_a_missing_view_is_named(views, tmp_path):
    _write(tmp_path, views, "nerfstudio")
    (tmp_path / "002.png").unlink()
    with pytest.raises(InvalidInput, match=r"002\.png"):
        read_views(tmp_path, _no_cut)


def test_the_film_of_a_published_orbit_is_cut_out_without_codec_blocks(tmp_path):
    preset = ORBITS["hi3d"]
    truth = render_views(lopsided_figure(), preset.cameras(0.0, 160, 160))
    with av.open(str(tmp_path / "orbit.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=8, options={"crf": "17"})
        stream.width, stream.height, stream.pix_fmt = 160, 160, "yuv420p"
        for rgba in truth.rgba:
            white = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
            film.mux(stream.encode(av.VideoFrame.from_ndarray(quantize(white), format="rgb24")))
        film.mux(stream.encode())
    views, facts = read_views(tmp_path / "orbit.mp4", cut_out, orbit="hi3d")
    assert facts["elevation"] == pytest.approx(0, abs=3)
    for ours, true in zip(views.rgba[..., 3] > 0.5, truth.rgba[..., 3] > 0.5, strict=True):
        assert (ours & true).sum() / (ours | true).sum() > 0.97


def test_the_elevation_of_an_orbit_is_found_from_its_silhouettes():
    preset = ORBITS["hi3d"]
    views = render_views(lopsided_figure(), preset.cameras(20.0, 128, 128), supersample=1)
    assert estimate_elevation(views.rgba[..., 3], preset) == pytest.approx(20, abs=3)


def test_the_rings_of_the_published_models():
    """Facts of the releases: Hi3D 22.5 degree steps at 1.5, V3D 20 at 2, SV3D's input view is its last."""
    hi3d, v3d, sv3d = (ORBITS[name] for name in ("hi3d", "v3d", "sv3d"))
    cameras = hi3d.cameras(0.0, 512, 512)
    assert np.degrees(2 * np.arctan(256 / cameras.intrinsics[0, 0, 0])) == pytest.approx(49.13)
    np.testing.assert_allclose(cameras.centres[4], [1.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(v3d.cameras(0.0, 8, 8).centres, axis=1), 2.0)
    assert sv3d.front_first()[0] == 20
