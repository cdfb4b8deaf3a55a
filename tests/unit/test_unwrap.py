"""Atlases of shapes of every kind: few charts, hardly any stretch, nothing twice, nothing mirrored."""

import threading
import time

import numpy as np
import pytest
import trimesh

from backend.geometry.uv_check import measure_uvs, narrowest_gap, overlapping_texels, uv_islands
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh
from backend.stages.texture.atlas import chart_padding, unwrap
from shared_protocol.errors import Cancelled, StageFailed
from tests.support.shared import shared_path

SIZE = 512


def _context(**more) -> StageContext:
    return StageContext("texture", None, "project", **more)


def _mesh(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(shape.vertices, shape.faces)


def _fine(shape: trimesh.Trimesh, edge: float) -> Mesh:
    return _mesh(shape.subdivide_to_size(edge))


def _check_layout(mesh: Mesh, uvs: np.ndarray, charts: int, *, size: int = SIZE) -> None:
    """What every layout must hold."""
    assert uvs.shape == (len(mesh.faces), 3, 2) and uvs.dtype == np.float32
    assert uvs.min() >= 0 and uvs.max() <= 1
    quality = measure_uvs(mesh.vertices, mesh.faces, uvs)
    assert quality.flipped == 0
    assert quality.collapsed == 0
    assert overlapping_texels(uvs, 2 * size) == 0
    islands = uv_islands(mesh.faces, uvs)
    assert len(set(islands)) == charts
    assert narrowest_gap(islands, uvs, size, chart_padding(size) - 1) >= chart_padding(size) - 1


def _box() -> Mesh:
    return _fine(trimesh.creation.box((1, 1, 1)), 0.12)


def _tube(open_ends: bool) -> Mesh:
    if open_ends:
        angle, height = np.meshgrid(np.arange(48) * 2 * np.pi / 48, np.linspace(-1, 1, 20))
        points = np.column_stack([0.4 * np.cos(angle.ravel()), 0.4 * np.sin(angle.ravel()), height.ravel()])
        corner = np.arange(48 * 20).reshape(20, 48)
        a, b = corner[:-1], np.roll(corner, -1, axis=1)[:-1]
        c, d = np.roll(corner, -1, axis=1)[1:], corner[1:]
        faces = np.concatenate(
            [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
        )
        return Mesh(points, faces)
    return _fine(trimesh.creation.cylinder(radius=0.4, height=2, sections=48), 0.15)


def _two_parts() -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions=3)
    return _mesh(trimesh.util.concatenate([ball, ball.copy().apply_translation((3, 0, 0)).apply_scale(0.3)]))


# Mesh, most charts, L2 stretch at most, least share of the atlas.
SHAPES = {
    "cube": (_box, 6, 1.01, 0.6),
    "ball": (lambda: _mesh(trimesh.creation.icosphere(subdivisions=4)), 6, 1.03, 0.5),
    "torus": (lambda: _mesh(trimesh.creation.torus(1.0, 0.35)), 16, 1.03, 0.4),
    "cylinder": (lambda: _tube(False), 12, 1.02, 0.5),
    "open tube": (lambda: _tube(True), 3, 1.01, 0.5),
    "thin plate": (lambda: _fine(trimesh.creation.box((1, 1, 0.004)), 0.08), 8, 1.01, 0.6),
    "two parts": (_two_parts, 12, 1.03, 0.5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_laid_out_well(name):
    make, most, stretch, filled = SHAPES[name]
    mesh = make()
    uvs, charts = unwrap(mesh, SIZE, _context())
    _check_layout(mesh, uvs, charts)
    quality = measure_uvs(mesh.vertices, mesh.faces, uvs)
    assert charts <= most
    assert quality.stretch < stretch
    assert quality.utilisation > filled


def _noisy(seed: int) -> Mesh:
    rng = np.random.default_rng(seed)
    ball = trimesh.creation.icosphere(subdivisions=4)
    bumps = 1 + 0.3 * np.sin(5 * ball.vertices).prod(axis=1) + rng.normal(0, 0.02, len(ball.vertices))
    return Mesh(ball.vertices * bumps[:, None], ball.faces)


@pytest.mark.parametrize("seed", range(4))
def test_rough_blobs_have_few_charts(seed):
    mesh = _noisy(seed)
    uvs, charts = unwrap(mesh, SIZE, _context())
    _check_layout(mesh, uvs, charts)
    assert charts <= 20


def test_handles_are_cut_open():
    ring = trimesh.creation.torus(1.0, 0.25, major_sections=40, minor_sections=16)
    rings = [ring.copy().apply_translation((1.9 * i, 0, 0)) for i in range(3)]
    volume = np.zeros((96, 48, 20), dtype=bool)
    x, y, z = np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij")
    points = np.stack([x * 0.085 - 2.2, y * 0.075 - 1.8, z * 0.06 - 0.6], axis=-1).reshape(-1, 3)
    for part in rings:
        centre = part.vertices.mean(axis=0)
        local = points - centre
        radial = np.hypot(np.linalg.norm(local[:, :2], axis=1) - 1.0, local[:, 2])
        volume |= (radial < 0.3).reshape(volume.shape)
    volume = np.pad(volume, 1)
    chain = trimesh.voxel.ops.matrix_to_marching_cubes(volume)
    assert chain.euler_number < 0
    mesh = _mesh(chain)
    uvs, charts = unwrap(mesh, SIZE, _context())
    _check_layout(mesh, uvs, charts)
    assert charts <= 60


def test_soups_and_broken_meshes_are_laid_out_too():
    rng = np.random.default_rng(2)
    ball = trimesh.creation.icosphere(subdivisions=2)
    loose = rng.normal(0, 1, (90, 3))
    vertices = np.vstack([ball.vertices, loose])
    faces = np.vstack(
        [
            ball.faces,
            ball.faces[:40],  # some faces twice: edges of four faces
            ball.faces[100:110, ::-1],  # some turned over
            [[5, 5, 9], [7, 7, 7]],  # without area
            len(ball.vertices) + np.arange(90).reshape(-1, 3),
        ]
    )
    mesh = Mesh(vertices, faces)
    uvs, _ = unwrap(mesh, SIZE, _context())
    quality = measure_uvs(mesh.vertices, mesh.faces, uvs)
    assert quality.flipped == quality.collapsed == 0
    assert overlapping_texels(uvs, 2 * SIZE) == 0


def test_one_triangle_one_pillow_and_nothing():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)
    for faces, charts in (([[0, 1, 2]], 1), ([[0, 1, 2], [0, 2, 1]], 2)):
        mesh = Mesh(corners, np.array(faces))
        uvs, count = unwrap(mesh, SIZE, _context())
        assert count == charts
        _check_layout(mesh, uvs, count)
    uvs, count = unwrap(Mesh(corners, np.zeros((0, 3))), SIZE, _context())
    assert uvs.shape == (0, 3, 2) and count == 0
    point = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    assert np.isfinite(unwrap(point, SIZE, _context())[0]).all()


def test_the_layout_does_not_depend_on_where_and_how_large_the_mesh_is():
    mesh = _noisy(0)
    moved = Mesh(mesh.vertices * 0.25 + (4, -8, 2), mesh.faces)
    one, two = unwrap(mesh, SIZE, _context())[0], unwrap(moved, SIZE, _context())[0]
    qualities = [measure_uvs(m.vertices, m.faces, uvs) for m, uvs in ((mesh, one), (moved, two))]
    assert qualities[0].stretch == pytest.approx(qualities[1].stretch, abs=0.01)
    assert qualities[0].utilisation == pytest.approx(qualities[1].utilisation, abs=0.2)


def test_the_same_mesh_gives_the_same_bytes():
    mesh = _noisy(1)
    one, two = unwrap(mesh, SIZE, _context())[0], unwrap(mesh, SIZE, _context())[0]
    assert one.tobytes() == two.tobytes()


def test_the_gap_grows_with_the_atlas():
    assert [chart_padding(size) for size in (128, 1024, 2048, 4096)] == [2, 8, 16, 32]
    mesh = _box()
    uvs, charts = unwrap(mesh, 1024, _context())
    _check_layout(mesh, uvs, charts, size=1024)


def test_cancelling_ends_the_work_at_once():
    cancelled = threading.Event()
    mesh = _mesh(trimesh.creation.icosphere(subdivisions=6))
    ended: list[float] = []

    def work() -> None:
        with pytest.raises(Cancelled):
            unwrap(mesh, 1024, _context(cancelled=cancelled))
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    cancelled.set()
    thread.join(timeout=60)
    assert ended


def test_a_mesh_that_cannot_be_laid_out_is_an_error_in_words():
    with pytest.raises(StageFailed, match="texture atlas"):
        unwrap(Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]])), 64, _context())
    rng = np.random.default_rng(0)
    dust = Mesh(rng.random((60_000, 3)), np.arange(60_000).reshape(-1, 3))
    with pytest.raises(StageFailed, match="20000 charts"):
        unwrap(dust, 1024, _context())


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["drill", "monkey"])
def test_a_scan_of_200_000_faces_has_few_charts(name):
    scan = trimesh.load(shared_path("data", "protocol", name, "mesh.ply"), process=False)
    scan.merge_vertices()
    while len(scan.faces) < 200_000:
        scan = scan.subdivide_to_size(np.median(scan.edges_unique_length) * 0.9)
    mesh = _mesh(scan)
    uvs, charts = unwrap(mesh, 2048, _context())
    quality = measure_uvs(mesh.vertices, mesh.faces, uvs)
    assert quality.flipped == quality.collapsed == 0
    assert overlapping_texels(uvs, 4096) == 0
    assert charts <= 100
    assert quality.stretch < 1.05


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_ball_of_300_000_faces():
    mesh = _mesh(trimesh.creation.icosphere(subdivisions=7))
    uvs, charts = unwrap(mesh, 2048, _context())
    quality = measure_uvs(mesh.vertices, mesh.faces, uvs)
    assert quality.flipped == quality.collapsed == 0
    assert charts <= 6
    assert quality.stretch < 1.03
