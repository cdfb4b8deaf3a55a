"""Drawing with nvdiffrast: our conversion to its conventions, by a stand-in on the CPU; itself on a GPU."""

import numpy as np
import pytest
import trimesh

from backend.geometry import mesh_raster, mesh_render
from backend.geometry.cameras import Cameras, ring
from backend.geometry.photometric import psnr
from backend.pipeline.engines import availability, find_engine
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, TexturedMesh, Views
from shared_protocol.errors import EngineUnavailable

torch = pytest.importorskip("torch")
from backend.geometry import mesh_nvdiffrast as cuda  # noqa: E402
from backend.stages.texture import refine_cuda  # noqa: E402
from tests.support import nvdiffrast_standin as standin  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def shape() -> trimesh.Trimesh:
    """Two overlapping bodies, few faces, no symmetry; in front of cameras 2 m away."""
    ball = trimesh.creation.icosphere(1, radius=0.4)
    box = trimesh.creation.box((0.3, 0.7, 0.2), trimesh.transformations.rotation_matrix(0.5, (1, 2, 3)))
    box.apply_translation((0.3, 0.1, 0.2))
    return trimesh.util.concatenate([ball, box])


def cameras(width: int = 60, height: int = 44, views: int = 2) -> Cameras:
    """Oblong pictures, a principal point off the middle, different focal lengths."""
    turned = ring(views, radius=2.0, elevation_degrees=25, fov_degrees=40, size=width)
    intrinsics = turned.intrinsics.copy()
    intrinsics[:, 1, 1] *= 0.9
    intrinsics[:, :2, 2] = width / 2 + 3.3, height / 2 - 2.1
    return Cameras(turned.world_from_camera, intrinsics, width, height)


def layout(mesh: trimesh.Trimesh) -> np.ndarray:
    """(F, 3, 2) some UVs: two coordinates of the corners, within 0..1."""
    corners = np.asarray(mesh.vertices)[mesh.faces][..., :2]
    return (corners * 0.6 + 0.5).astype(np.float32)


def picture(size: int = 40) -> np.ndarray:
    return np.random.default_rng(3).random((size, size, 3), dtype=np.float32)


def test_clip_space_spans_the_picture_from_its_outer_edges_and_the_depth_range():
    view = cameras()
    pose, intrinsics = view.world_from_camera[1], view.intrinsics[1]
    clip = cuda.clip_from_world(pose, intrinsics, view.width, view.height, 0.5, 4.0)
    for pixel, depth, expected in (
        ((0, 0), 0.5, (-1, -1, -1)),
        ((60, 44), 4.0, (1, 1, 1)),
        ((30, 11), 1.0, (0, -0.5)),
    ):
        local = np.linalg.inv(intrinsics) @ [*pixel, 1] * depth
        point = clip @ pose @ [*local, 1]
        assert point[3] == pytest.approx(depth)
        assert point[: len(expected)] / point[3] == pytest.approx(np.array(expected), abs=1e-9)


def test_faces_barycentrics_and_depth_equal_the_cpu_rasterisers():
    mesh, view = shape(), cameras()
    for n in range(len(view)):
        camera = view.world_from_camera[n], view.intrinsics[n], view.width, view.height
        ours = mesh_raster.rasterize_mesh(mesh.vertices, mesh.faces, *camera)
        theirs = cuda.rasterize_mesh(mesh.vertices, mesh.faces, *camera, dr=standin, device="cpu")
        same = ours.face == theirs.face
        assert same.mean() > 0.995 and (ours.face >= 0).mean() > 0.1
        assert np.abs(ours.barycentric - theirs.barycentric)[same].max() < 1e-3
        hit = same & (ours.face >= 0)
        assert np.abs(ours.depth[hit] - theirs.depth[hit]).max() < 1e-4
        assert np.isinf(theirs.depth[theirs.face < 0]).all()
        assert theirs.face.dtype == np.int32 and theirs.barycentric.dtype == np.float32


def test_a_mesh_far_from_the_origin_is_drawn_as_well():
    mesh, view, far = shape(), cameras(views=1), np.array([3e4, -2e4, 1e4])
    moved = view.transformed(1.0, far)
    camera = moved.world_from_camera[0], moved.intrinsics[0], moved.width, moved.height
    ours = mesh_raster.rasterize_mesh(mesh.vertices + far, mesh.faces, *camera)
    theirs = cuda.rasterize_mesh(mesh.vertices + far, mesh.faces, *camera, dr=standin, device="cpu")
    assert (ours.face == theirs.face).mean() > 0.995


def test_textured_pictures_equal_the_cpu_renderers():
    mesh, view = shape(), cameras()
    arguments = mesh.vertices, mesh.faces, layout(mesh), picture(), view
    for background in (None, (1.0, 0.5, 0.0)):
        ours = mesh_render.render_mesh(*arguments, background=background)
        theirs = cuda.render_mesh(*arguments, background=background, dr=standin, device="cpu")
        assert theirs.shape == ours.shape and theirs.dtype == np.float32
        assert psnr(ours, theirs) > 45


def flat_problem() -> tuple[TexturedMesh, Views, np.ndarray]:
    """The shape with a known texture in true views, and with a wrong one as the mesh to refine."""
    mesh, view = shape(), cameras(48, 48, 4)
    y, x = np.mgrid[0:32, 0:32] / 31
    known = np.stack([x, y, 0.5 + 0.4 * np.sin(6 * x)], axis=-1).astype(np.float32)
    rendered = mesh_render.render_mesh(mesh.vertices, mesh.faces, layout(mesh), known, view)
    wrong = np.clip(known + np.array([0.25, -0.2, 0.15], np.float32), 0, 1)
    solid = Mesh(mesh.vertices, mesh.faces)
    return TexturedMesh(solid, layout(mesh), wrong), Views(rendered, view), known


def test_refinement_brings_a_wrong_texture_to_the_known_colours():
    textured, views, _ = flat_problem()
    context = StageContext("texture", None, "refine_cuda")
    refined = refine_cuda.refine(textured, views, np.ones(len(views)), context, standin, "cpu", steps=240)
    before, after = context.facts["texture_error_before"], context.facts["texture_error_after"]
    assert after < 0.1 * before
    rendered = mesh_render.render_mesh(
        textured.mesh.vertices, textured.mesh.faces, textured.uvs, refined, views.cameras
    )
    inside = views.rgba[..., 3] > 0.99
    assert np.mean((rendered[inside] - views.rgba[inside])[:, :3] ** 2) < 2e-3
    assert refined.min() >= 0 and refined.max() <= 1


def test_targets_of_refinement_are_divided_by_255_exactly_once():
    _, views, _ = flat_problem()
    white = Views(np.ones_like(views.rgba), views.cameras)
    targets = refine_cuda.make_targets(white, "cpu")
    assert all(float(t.colors.min()) == float(t.colors.max()) == 1.0 for t in targets)
    view = refine_cuda.make_targets(views, "cpu")[0]
    inside = view.inside.numpy()
    assert view.colors.numpy()[:, inside] == pytest.approx(views.rgba[0][inside][:, :3].T, abs=1e-2)


def test_texels_that_no_view_shows_stay_nearly_as_they_were_baked():
    textured, views, _ = flat_problem()
    context = StageContext("texture", None, "refine_cuda")
    none = Views(views.rgba * np.array([1, 1, 1, 0], np.float32), views.cameras)
    refined = refine_cuda.refine(textured, none, np.ones(4), context, standin, "cpu", steps=6)
    assert refined == pytest.approx(textured.texture, abs=1e-6)


def test_the_engine_says_what_is_missing_and_how_to_get_it():
    state = availability(find_engine("texture", "refine_cuda"))
    if state.ready:
        pytest.skip("nvdiffrast and a GPU are here")
    assert "nvdiffrast" in state.reason or "CUDA" in state.reason
    assert "pip install" in state.remedy or "NVIDIA" in state.remedy
    with pytest.raises(EngineUnavailable, match=r"nvdiffrast|CUDA"):
        cuda.require_cuda()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nvdiffrast_itself_draws_what_the_cpu_rasteriser_draws():
    pytest.importorskip("nvdiffrast")
    mesh, view = shape(), cameras(512, 384)
    for n in range(len(view)):
        camera = view.world_from_camera[n], view.intrinsics[n], view.width, view.height
        ours = mesh_raster.rasterize_mesh(mesh.vertices, mesh.faces, *camera)
        theirs = cuda.rasterize_mesh(mesh.vertices, mesh.faces, *camera)
        same = ours.face == theirs.face
        assert same.mean() > 0.995
        assert np.abs(ours.barycentric - theirs.barycentric)[same].max() < 1e-3
    arguments = mesh.vertices, mesh.faces, layout(mesh), picture(), view
    assert psnr(mesh_render.render_mesh(*arguments), cuda.render_mesh(*arguments)) > 45
    textured, views, _ = flat_problem()
    context = StageContext("texture", None, "refine_cuda")
    refine_cuda.refine(textured, views, np.ones(len(views)), context, cuda.require_cuda(), "cuda", steps=240)
    assert context.facts["texture_error_after"] < 0.1 * context.facts["texture_error_before"]
