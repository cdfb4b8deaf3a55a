"""The shape prior: closed forms for the inflation, an exact front, a closed surface, calm views."""

import dataclasses
import threading

import cv2
import numpy as np
import pytest
import trimesh

from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.metrics import mask_iou, psnr, silhouette
from backend.pipeline.options import OrbitOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from backend.stages.orbit import inflate
from backend.stages.orbit import run as orbit
from backend.stages.orbit.contour import triangulate
from backend.stages.orbit.inflate import InflateOrbit, build_shape
from backend.stages.orbit.poisson import mask_problem
from backend.stages.orbit.relief import displacement, relief_signal
from backend.stages.orbit.thickness import half_thickness
from shared_protocol.errors import Cancelled, InvalidInput, StageFailed

SMALL = OrbitOptions(size=192, views=8)


def coverage(inside, size: int, samples: int = 4) -> np.ndarray:
    """(size, size) float32 coverage of `inside(x, y)`, x and y in -1..1."""
    at = (np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1
    values = np.broadcast_to(inside(at[None, :], at[:, None]), (len(at), len(at)))
    return values.reshape(size, samples, size, samples).mean(axis=(1, 3)).astype(np.float32)


SHAPES = {
    "disc": lambda x, y: x**2 + y**2 < 0.75**2,
    "ring": lambda x, y: (x**2 + y**2 < 0.75**2) & (x**2 + y**2 > 0.4**2),
    "two parts": lambda x, y: ((x - 0.4) ** 2 + y**2 < 0.3**2) | ((x + 0.4) ** 2 + y**2 < 0.3**2),
    "thin line": lambda x, y: (abs(y - 0.3 * x) < 0.02) & (abs(x) < 0.7) | (x**2 + y**2 < 0.1),
    "touching the border": lambda x, y: x < 0.2,
    "full frame": lambda x, y: (x + y) < 9,
    "checker corners": lambda x, y: ((x > 0) == (y > 0)) & (abs(x) < 0.7) & (abs(y) < 0.7),
}


def cutout(name: str, size: int = 192) -> Picture:
    y, x = np.mgrid[:size, :size] / size
    colour = np.stack([0.3 + 0.5 * x, 0.7 - 0.4 * y, 0.4 + 0.2 * np.sin(9 * x)], axis=-1)
    return Picture(np.dstack([colour, coverage(SHAPES[name], size)]).astype(np.float32))


def shape_of(picture: Picture, options: OrbitOptions):
    cameras = orbit.ring_cameras(options)
    return build_shape(picture.rgba, cameras, options.elevation)[0], cameras


def context() -> StageContext:
    return StageContext("orbit", InflateOrbit(), "inflate")


def test_poisson_inflation_of_a_disc_is_the_half_sphere():
    radius = 50.3
    y, x = np.mgrid[:128, :128] + 0.5
    r = np.hypot(x - 63.2, y - 64.7)
    alpha = np.clip(radius - r + 0.5, 0, 1)
    height = mask_problem(alpha).inflate()
    inside = r < radius - 1
    np.testing.assert_allclose((radius**2 - r**2)[inside], height[inside], atol=0.012 * radius**2)


def test_harmonic_fill_reproduces_a_harmonic_function():
    y, x = np.mgrid[:96, :96] + 0.5
    alpha = np.clip(35.6 - np.hypot(x - 48, y - 47) + 0.5, 0, 1)
    problem = mask_problem(alpha)
    truth = np.stack([0.2 + 0.01 * x, (x - 48) ** 2 - (y - 48) ** 2], axis=-1)
    # Contour values at the true crossing between the two grid points.
    cells = np.flatnonzero(problem.inside)[problem.links[:, 0]]
    theta = 1 / problem.weight
    flat = np.stack([x.ravel(), y.ravel()], axis=-1)
    at = flat[cells] + theta[:, None] * (flat[problem.links[:, 1]] - flat[cells])
    contour = np.stack([0.2 + 0.01 * at[:, 0], (at[:, 0] - 48) ** 2 - (at[:, 1] - 48) ** 2], axis=-1)
    fill = problem.fill(contour)
    np.testing.assert_allclose(truth[problem.inside], fill[problem.inside], atol=0.35, rtol=0.01)
    np.testing.assert_allclose(truth[problem.inside][:, 0], fill[problem.inside][:, 0], atol=1e-4)


def test_contour_area_is_the_area_of_the_disc():
    y, x = np.mgrid[:100, :100] + 0.5
    flat = triangulate(np.clip(30.4 - np.hypot(x - 50.3, y - 49.1) + 0.5, 0, 1))
    a, b, c = (flat.points[flat.faces[:, k]] for k in range(3))
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (area > 0).all()  # all wound alike, none degenerate
    np.testing.assert_allclose(np.pi * 30.4**2, area.sum(), rtol=1e-3)


@pytest.mark.parametrize("elevation", [0.0, 25.0, -20.0, 55.0])
@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_closed_and_its_front_outline_is_the_cut_outs(name, elevation):
    options = dataclasses.replace(SMALL, size=128, elevation=elevation)
    picture = cutout(name, 128)
    shape, cameras = shape_of(picture, options)
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume > 0
    outline = silhouette(shape.vertices, shape.faces, cameras, 0, 3)
    assert mask_iou(outline, picture.rgba[..., 3]) >= (0.97 if name != "full frame" else 0.95)


@pytest.mark.parametrize("seed", range(6))
def test_any_mask_gives_a_closed_shape(seed):
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(96, 96))
    smooth = noise if seed % 2 else cv2.GaussianBlur(noise, (0, 0), generator.uniform(0.6, 5))
    alpha = np.clip(0.5 + smooth, 0, 1)
    picture = Picture(np.dstack([np.full((96, 96, 3), 0.5), alpha]).astype(np.float32))
    shape, _ = shape_of(picture, dataclasses.replace(SMALL, size=96))
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


def test_views_have_the_ring_cameras_the_exact_front_and_true_depth():
    picture = cutout("disc")
    views = orbit.run(cutout=picture, options=SMALL, context=context())
    np.testing.assert_array_equal(picture.rgba, views.rgba[0])
    assert views.confidence[0] == 1 and (views.confidence[1:] < 1).all()
    shape, cameras = shape_of(picture, SMALL)
    np.testing.assert_allclose(cameras.world_from_camera, views.cameras.world_from_camera)
    for index in (1, 4):
        hit = rasterize_mesh(
            shape.vertices, shape.faces, cameras.world_from_camera[index], cameras.intrinsics[index], 192, 192
        )
        solid = (views.rgba[index][..., 3] == 1) & (hit.face >= 0)
        difference = np.abs(views.depth[index][solid] - hit.depth[solid])
        assert np.percentile(difference, 95) < 0.01
        np.testing.assert_array_equal(np.isfinite(views.depth[index]), views.rgba[index][..., 3] > 0)


def test_a_disc_looks_like_a_ball_from_every_side():
    views = orbit.run(cutout=cutout("disc"), options=SMALL, context=context())
    for index in range(1, len(views)):
        # 0.90 measured: in perspective the contour of a true ball lies nearer than its middle.
        assert mask_iou(views.rgba[index][..., 3], views.rgba[0][..., 3]) > 0.88


def test_neighbouring_views_agree_near_the_front():
    views = orbit.run(
        cutout=cutout("disc", 192), options=dataclasses.replace(SMALL, views=72), context=context()
    )
    both = (views.rgba[0][..., 3:] == 1) & (views.rgba[1][..., 3:] == 1)
    assert psnr(views.rgba[0][..., :3] * both, views.rgba[1][..., :3] * both) > 28


def test_no_second_face_looks_backward():
    picture = cutout("disc")
    rgba = picture.rgba.copy()
    rgba[..., :3] = (0.6, 0.5, 0.4)
    rgba[70:90, 60:80, :3] = rgba[70:90, 110:130, :3] = 0  # eyes
    views = orbit.run(cutout=Picture(rgba), options=SMALL, context=context())
    back = views.rgba[4]
    solid = back[..., 3] > 0.99
    np.testing.assert_allclose(
        np.broadcast_to([0.6, 0.5, 0.4], back[solid][:, :3].shape), back[solid][:, :3], atol=0.02
    )


def test_cut_out_finer_than_the_orbit_is_averaged_for_view_0():
    picture = cutout("disc", 384)
    views = orbit.run(cutout=picture, options=SMALL, context=context())
    fine = picture.rgba
    mean = (fine[..., 3]).reshape(192, 2, 192, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(mean, views.rgba[0][..., 3], atol=1e-5)


def test_same_input_gives_the_same_bytes():
    views = [orbit.run(cutout=cutout("ring"), options=SMALL, context=context()) for _ in range(2)]
    assert views[0].to_files() == views[1].to_files()


def test_cancel_is_met_between_views():
    running = context()
    running.cancelled = threading.Event()

    def stop_at_third(done, total, text):
        if done == 3:
            running.cancelled.set()

    running.on_step = stop_at_third
    with pytest.raises(Cancelled):
        orbit.run(cutout=cutout("disc"), options=SMALL, context=running)


@pytest.mark.parametrize(
    "change",
    [{"views": 2}, {"size": 8}, {"elevation": 80.0}, {"fov": 0.0}, {"radius": -1.0}, {"relief": 0.2}],
)
def test_impossible_ring_is_refused(change):
    with pytest.raises(InvalidInput, match=f"orbit.{next(iter(change))}"):
        orbit.run(cutout=cutout("disc"), options=dataclasses.replace(SMALL, **change), context=context())


def test_empty_cut_out_is_a_failed_stage():
    with pytest.raises(StageFailed, match="no solid part"):
        orbit.run(cutout=Picture(np.zeros((64, 64, 4), np.float32)), options=SMALL, context=context())


@pytest.mark.parametrize("elevation", [-45.0, 0.0, 20.0, 45.0])
def test_middle_plane_faces_the_camera_within_the_tilt_limit(elevation):
    normal = inflate.middle_plane_normal(elevation)
    view = orbit.ring_cameras(dataclasses.replace(SMALL, elevation=elevation)).centres[0]
    cosine = normal @ view / np.linalg.norm(view)
    assert cosine >= np.cos(np.radians(inflate.MAX_TILT + 1e-6)) - 1e-9


def test_wide_lens_and_tall_object_stay_in_the_frame_or_warn():
    running = context()
    options = dataclasses.replace(SMALL, fov=60.0, radius=1.0, elevation=30.0)
    views = orbit.run(cutout=cutout("disc"), options=options, context=running)
    for view in views.rgba[1:]:
        rim = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
        assert rim[..., 3].max() == 0 or running.warnings


def test_object_that_fills_the_frame_is_warned_about():
    running = context()
    orbit.run(cutout=cutout("full frame"), options=SMALL, context=running)
    assert "use a smaller matting.fill" in running.warnings[0]


def test_front_of_a_box_keeps_its_edges():
    y, x = np.mgrid[:192, :192]
    alpha = ((abs(x - 95.5) < 60) & (abs(y - 95.5) < 40)).astype(np.float32)
    height = half_thickness(alpha)
    middle = height[96, 96]
    assert middle == height[96, 60] == height[70, 96]  # flat
    assert height[96, 37] > 0.5 * middle  # steep within two cells of the rim


def test_base_is_flat_where_the_object_stands():
    y, x = np.mgrid[:192, :192] + 0.5
    alpha = np.clip(60 - np.hypot(x - 96, y - 96), 0, 1) * (y < 140)
    height = half_thickness(alpha)
    assert height[138, 96] > 0.4 * height.max()  # at the cut
    assert height[36, 96] < 0.15 * height.max()  # at the top


def test_relief_stays_on_the_front_within_its_height_and_leaves_the_outline():
    picture = cutout("disc")
    rgba = picture.rgba.copy()
    rgba[80:110, 80:110, :3] = 0.05
    cameras = orbit.ring_cameras(SMALL)
    flat = build_shape(rgba, cameras, 0.0)[0]
    pressed = build_shape(rgba, cameras, 0.0, relief=0.01)[0]
    moved = np.linalg.norm(pressed.vertices - flat.vertices, axis=1)
    longest = np.ptp(flat.vertices, axis=0).max()
    assert 0.004 * longest < moved.max() <= 0.0105 * longest
    still = flat.attributes[:, 2] == 0  # the outline and the back
    assert still.mean() > 0.4
    assert moved[still].max() == 0
    np.testing.assert_array_equal(flat.attributes, pressed.attributes)
    outlines = [silhouette(shape.vertices, shape.faces, cameras, 0, 3) for shape in (flat, pressed)]
    assert mask_iou(*outlines) > 0.9999


def test_relief_puts_dark_things_deeper_and_knows_no_outside():
    rgba = np.full((192, 192, 4), 0.7, np.float32)
    y, x = np.mgrid[:192, :192] + 0.5
    rgba[..., 3] = np.hypot(x - 96, y - 96) < 70
    rgba[..., :3][rgba[..., 3] == 0] = 0  # black outside
    rgba[92:100, 92:100, :3] = 0.2
    signal = relief_signal(rgba, rgba[..., 3])
    assert signal[96, 96] < -0.8
    assert signal[96, 104] > 0.05  # the rim of the dark spot
    np.testing.assert_allclose(0, signal[96, 28:60], atol=1e-3)
    assert np.abs(signal).max() <= 1


def test_relief_of_a_thin_part_leaves_most_of_its_thickness():
    moved = displacement(np.ones(2), np.ones(2), np.array([0.001, 1.0]), 0.01)
    np.testing.assert_allclose([0.0002, 0.01], moved)
