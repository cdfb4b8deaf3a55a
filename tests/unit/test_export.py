"""The export stage: every file, read by something other than what wrote it."""

import io
import json

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.geometry.cameras import Cameras, ring
from backend.inputs.views import read_views
from backend.pipeline.options import ExportOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Exports, Mesh, Picture, Splats, TexturedMesh, Views
from backend.stages.export.cameras import transforms_json
from backend.stages.export.files import FilesExport
from backend.stages.export.film import encode_film
from backend.stages.export.images import encode_png
from backend.stages.export.run import run
from backend.stages.export.viewpoints import around_object
from shared_protocol.errors import Cancelled
from shared_protocol.splats.files import decode_splats
from tests.support.scenes import render_views

RED = np.array([0.8, 0.1, 0.1], dtype=np.float32)


def _scene() -> tuple[Picture, Views, Splats, TexturedMesh]:
    """A red ball as mesh, views and Gaussians."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
    views = render_views(ball, ring(4, radius=3.0, elevation_degrees=5.0, fov_degrees=25.0, size=96))
    rgba = views.rgba.copy()
    rgba[..., :3] = RED
    views = Views(rgba, views.cameras)
    count = len(ball.vertices)
    splats = Splats(
        ball.vertices,
        np.full((count, 3), 0.03),
        np.tile([1.0, 0, 0, 0], (count, 1)),
        np.full(count, 0.95),
        np.tile(((RED - 0.5) / 0.28209479177387814)[None, None], (count, 1, 1)),
    )
    uvs = np.zeros((len(ball.faces), 3, 2), dtype=np.float32) + 0.5
    textured = TexturedMesh(Mesh(ball.vertices, ball.faces), uvs, np.broadcast_to(RED, (32, 32, 3)))
    return Picture(np.pad(rgba[0], ((0, 40), (0, 0), (0, 0)))), views, splats, textured


def _export(film_frames: int = 5, turntable: bool = True, context: StageContext | None = None) -> Exports:
    picture, views, splats, textured = _scene()
    return run(
        picture=picture,
        views=views,
        splats=splats,
        textured=textured,
        options=ExportOptions(turntable=turntable, film_frames=film_frames, settle_steps=0),
        context=context or StageContext("export", FilesExport(), "files"),
    )


@pytest.fixture(scope="module")
def exports() -> Exports:
    return _export()


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_all_files_are_there(exports):
    orbit = {f"orbit/{view:03d}.png" for view in range(4)}
    assert set(exports.files) == orbit | {
        "cutout.png",
        "cameras.json",
        "mesh.glb",
        "splats.ply",
        "turntable.png",
        "turntable.mp4",
    }


def test_without_turntable_the_sheet_and_the_film_are_left_out():
    assert {"turntable.png", "turntable.mp4"}.isdisjoint(_export(turntable=False).files)


def test_two_runs_give_the_same_bytes(exports):
    again = _export()
    assert [name for name, data in exports.files.items() if again.files[name] != data] == []


def test_pictures_hold_straight_alpha(exports):
    _, views, _, _ = _scene()
    pixels = _pixels(exports.files["orbit/002.png"])
    np.testing.assert_array_equal(pixels[..., 3], np.rint(views.rgba[2, ..., 3] * 255))
    partial = (pixels[..., 3] > 0) & (pixels[..., 3] < 255)
    assert partial.any()
    np.testing.assert_allclose(pixels[partial][:, :3], np.tile(RED * 255, (partial.sum(), 1)), atol=0.6)
    assert exports.files["cutout.png"] == exports.files["orbit/000.png"]


def test_cameras_read_back_as_the_cameras_they_were(exports, tmp_path):
    for name, data in exports.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    _, views, _, _ = _scene()
    read, _ = read_views(tmp_path, lambda picture: picture)
    np.testing.assert_allclose(read.cameras.world_from_camera, views.cameras.world_from_camera, atol=1e-12)
    np.testing.assert_allclose(read.cameras.intrinsics, views.cameras.intrinsics, atol=1e-9)
    np.testing.assert_allclose(read.rgba[..., 3], views.rgba[..., 3], atol=0.003)


def test_the_camera_file_has_the_layout_of_nerfstudio(exports):
    document = json.loads(exports.files["cameras.json"])
    assert {"camera_model", "fl_x", "fl_y", "cx", "cy", "w", "h", "frames"} <= set(document)
    assert document["cx"] == document["cy"] == 48
    matrix = np.array(document["frames"][0]["transform_matrix"])
    assert document["frames"][0]["file_path"] == "orbit/000.png"
    # OpenGL: the camera on -Y looks along its own -Z, and its +Y is up.
    assert matrix[1, 3] < -2.9 and matrix[1, 2] < -0.99 and matrix[2, 1] > 0.99


def test_cameras_of_different_lenses_state_them_in_each_frame():
    cameras = ring(2, radius=2.0, elevation_degrees=0.0, fov_degrees=30.0, size=64)
    lenses = cameras.intrinsics.copy()
    lenses[1, 0, 0] = 200.0
    document = json.loads(transforms_json(Cameras(cameras.world_from_camera, lenses, 64, 64), ["a", "b"]))
    assert "fl_x" not in document
    assert document["frames"][1]["fl_x"] == 200.0


def test_gaussians_read_back(exports):
    _, _, splats, _ = _scene()
    read = decode_splats(exports.files["splats.ply"])
    np.testing.assert_array_equal(read.positions, splats.positions)


def test_the_contact_sheet_shows_the_object_in_every_cell(exports):
    sheet = _pixels(exports.files["turntable.png"]).astype(float) / 255
    assert sheet.shape[1] == 1800 and 1200 < sheet.shape[0] < 1800
    red = (sheet[..., 0] > 0.6) & (sheet[..., 1] < 0.3)
    clay = (np.ptp(sheet, axis=-1) > 0.04) & ~red
    # Seven renders a row: red in the textured row and in the Gaussians', clay between.
    rows = {"mesh": red, "clay": clay}
    for name, mask in rows.items():
        columns = [mask[:, round(36 + 248 * i) : round(36 + 248 * i + 240)] for i in range(7)]
        assert all(column[560:].sum() > 5000 for column in columns), name
    assert red[:480, :480].sum() > 5000  # the input


def test_the_film_plays_and_shows_the_right_colours(exports):
    with av.open(io.BytesIO(exports.files["turntable.mp4"])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 5
    height, width = frames[0].shape[:2]
    assert width == 2 * height
    for column in (width // 4, 3 * width // 4):
        middle = frames[2][height // 2 - 5 : height // 2 + 5, column - 5 : column + 5].mean(axis=(0, 1))
        np.testing.assert_allclose(middle, RED * 255, atol=10)
    data = exports.files["turntable.mp4"]
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads


def test_a_film_of_plain_colours_keeps_them():
    frames = [np.full((64, 96, 3), color, dtype=np.uint8) for color in ((200, 40, 90), (10, 220, 30))]
    with av.open(io.BytesIO(encode_film(frames))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for frame, expected in zip(decoded, frames, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 4


def test_turntable_cameras_begin_at_the_front_view_and_show_the_whole_object():
    _, views, _, textured = _scene()
    vertices = textured.mesh.vertices + np.array([0.3, 0, 0.1], dtype=np.float32)
    turns = [(0, 5.0), (90, 5.0), (30, 89.0), (200, -60.0)]
    cameras = around_object(vertices, views.cameras.take([0]), turns, 200)
    pixels, depth = cameras.project(vertices)
    assert pixels.min() > 0 and pixels.max() < 200 and depth.min() > 0
    assert np.ptp(pixels, axis=1).max() > 150
    first = cameras.centres[0] - vertices.mean(axis=0)
    front = views.cameras.centres[0] - vertices.mean(axis=0)
    np.testing.assert_allclose(np.arctan2(first[0], first[1]), np.arctan2(front[0], front[1]), atol=1e-3)
    assert cameras.centres[1][0] > 2.5  # 90 degrees counter-clockwise from -Y is +X


def test_colour_under_no_alpha_is_not_written():
    rgba = np.ones((4, 4, 4), dtype=np.float32)
    rgba[0, ..., 3] = 0
    assert (_pixels(encode_png(rgba))[0] == 0).all()


def test_cancel_during_the_film_stops_at_the_next_frame():
    context = StageContext("export", FilesExport(), "files")
    texts: list[str] = []

    def on_step(done: int, total: int, text: str) -> None:
        assert 0 <= done <= total
        texts.append(text)
        if text.startswith("Filming, frame 2"):
            context.cancelled.set()

    context.on_step = on_step
    with pytest.raises(Cancelled):
        _export(context=context)
    assert texts[-1] == "Filming, frame 2 of 5"
