"""Hollow vessels: closed forms of cups, and everything that must stay solid."""

import threading

import numpy as np
import pytest
import trimesh

from backend.geometry import metrics
from backend.geometry.cameras import Cameras, ring
from backend.geometry.carving import Grid, extract_surface
from backend.geometry.field_rays import Photographs, SightLines, agreement, entry_distance, first_hits
from backend.geometry.mesh_check import is_watertight_manifold
from backend.geometry.photo_consistency import neighbours
from backend.pipeline.options import SurfaceOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Views
from backend.stages.surface.hull import HullSurface
from backend.stages.surface.vessel import hollow_vessels
from shared_protocol.errors import Cancelled
from tests.support.solids import one_splat, render_views, solid_texture

RADIUS, HEIGHT = 0.35, 0.7
CELL = 0.0125


def lathe(profile):
    solid = trimesh.creation.revolve(np.asarray(profile, dtype=np.float64), sections=96)
    solid.fix_normals()
    return np.asarray(solid.vertices), np.asarray(solid.faces)


def cup(wall=0.05, floor=0.075):
    half = HEIGHT / 2
    inner = RADIUS - wall
    return lathe(
        [
            (0, -half),
            (RADIUS, -half),
            (RADIUS, half),
            (inner, half),
            (inner, -half + floor),
            (0, -half + floor),
        ]
    )


def drum():
    half = HEIGHT / 2
    return lathe([(0, -half), (RADIUS, -half), (RADIUS, half), (0, half)])


def cameras_at(elevation, size=224, views=16):
    return ring(views, radius=2.0, elevation_degrees=elevation, fov_degrees=40, size=size)


def plugged(radius=RADIUS):
    """The exact field of the cup with its mouth closed: what matching leaves at best."""
    axes = [np.arange(-0.45, 0.45 + CELL / 2, CELL)] * 3
    x, y, z = np.meshgrid(*axes, indexing="ij")
    field = np.minimum(radius - np.hypot(x, y), HEIGHT / 2 - np.abs(z))
    return Grid(field.astype(np.float32), np.full(3, -0.45), CELL)


def run(grid, views):
    context = StageContext("surface", HullSurface(), "hull")
    return hollow_vessels(grid, views, context), context


def shape(grid):
    """Inner radius half-way up, and height of the floor, along the axes of the field."""
    x = grid.origin[0] + CELL * np.arange(grid.field.shape[0])
    middle = len(x) // 2
    row, column = grid.field[:, middle, middle], grid.field[middle, middle]
    inside = np.flatnonzero((row > 0) & (x > 0))[0]
    radius = x[inside] - CELL * row[inside] / (row[inside] - row[inside - 1])
    top = np.flatnonzero((column > 0) & (x < 0))[-1]
    floor = x[top] + CELL * column[top] / (column[top] - column[top + 1])
    return radius, floor


@pytest.fixture(scope="module")
def cup_views():
    return render_views(*cup(), cameras_at(15))


@pytest.fixture(scope="module")
def hollowed(cup_views):
    return run(plugged(), cup_views)


def test_a_cup_is_carved_to_its_inner_wall_and_continued_to_a_floor(hollowed):
    grid, context = hollowed
    radius, floor = shape(grid)
    assert radius == pytest.approx(RADIUS - 0.05, rel=0.03)  # measured .301
    assert floor == pytest.approx(-HEIGHT / 2 + 0.075, abs=0.02)
    assert context.facts["hollow_walls"] == [pytest.approx(0.05, abs=0.01)]
    assert "no view shows the bottom" in context.warnings[0]
    vertices, faces = extract_surface(grid)
    assert is_watertight_manifold(faces)
    assert metrics.volume_iou(vertices, faces, *cup(), cells=96) > 0.85


def test_the_same_cup_gives_the_same_bits(hollowed, cup_views):
    again, _ = run(plugged(), cup_views)
    np.testing.assert_array_equal(hollowed[0].field, again.field)


def test_up_is_where_the_cameras_say(hollowed, cup_views):
    """World turned so that up is -Y: the same hollow, in other axes."""
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # z -> -y, y -> z
    turned = turn @ cup_views.cameras.world_from_camera
    cameras = Cameras(turned, cup_views.cameras.intrinsics, cup_views.cameras.width, cup_views.cameras.height)
    solid = plugged()
    grid, _ = run(
        Grid(np.ascontiguousarray(solid.field.transpose(0, 2, 1)[:, ::-1]), solid.origin, CELL),
        Views(cup_views.rgba, cameras),
    )
    back = grid.field[:, ::-1].transpose(0, 2, 1)
    assert np.mean((back > 0) != (hollowed[0].field > 0)) < 2e-3


def test_a_solid_drum_is_handed_back_untouched():
    solid = plugged()
    grid, context = run(solid, render_views(*drum(), cameras_at(15)))
    assert grid is solid
    assert not context.warnings and not context.facts


def test_what_is_seen_exactly_from_the_side_stays_solid():
    solid = plugged()
    grid, _ = run(solid, render_views(*cup(), cameras_at(0)))
    assert grid is solid


def test_a_cup_of_one_colour_without_any_shading_shows_nothing_and_stays_solid(cup_views):
    rgba = cup_views.rgba.copy()
    rgba[..., :3] = 0.6
    solid = plugged()
    assert run(solid, Views(rgba, cup_views.cameras))[0] is solid


def test_a_floor_that_the_views_see_is_where_they_see_it():
    depth = 0.12
    half, inner = HEIGHT / 2, RADIUS - 0.05
    tray = lathe(
        [(0, -half), (RADIUS, -half), (RADIUS, half), (inner, half), (inner, half - depth), (0, half - depth)]
    )
    grid, context = run(plugged(), render_views(*tray, cameras_at(35)))
    column = grid.field[len(grid.field) // 2, len(grid.field) // 2]
    floor = -0.45 + CELL * np.flatnonzero(column > 0)[-1]
    assert floor == pytest.approx(half - depth, abs=0.02)
    assert not context.warnings


def test_cancel_stops_the_search(cup_views):
    context = StageContext("surface", HullSurface(), "hull", cancelled=threading.Event())
    context.cancelled.set()
    with pytest.raises(Cancelled):
        hollow_vessels(plugged(), cup_views, context)


@pytest.mark.slow
def test_the_engine_makes_a_hollow_cup_and_the_option_leaves_it_solid():
    views = render_views(*cup(), cameras_at(15, size=320))
    ious = {}
    for hollow in (True, False):
        context = StageContext("surface", HullSurface(), "hull")
        mesh = HullSurface().reconstruct(
            views, one_splat(), SurfaceOptions(grid=96, faces=8000, hollow=hollow), context
        )
        assert is_watertight_manifold(mesh.faces)
        ious[hollow] = metrics.volume_iou(mesh.vertices, mesh.faces, *cup(), cells=96)
    assert ious[True] > 0.8 and ious[False] < 0.5


def ball_field(radius, cells=40):
    axes = np.arange(cells) - (cells - 1) / 2
    x, y, z = np.meshgrid(axes, axes, axes, indexing="ij")
    return np.clip(radius - np.sqrt(x**2 + y**2 + z**2), -6, 6).astype(np.float32)


def sight_lines(count=500, cells=40, seed=0):
    generator = np.random.default_rng(seed)
    middle = (cells - 1) / 2
    towards = generator.normal(size=(count, 3))
    origin = middle + 80 * towards / np.linalg.norm(towards, axis=1, keepdims=True)
    aim = middle + generator.uniform(-14, 14, (count, 3)) - origin
    aim /= np.linalg.norm(aim, axis=1, keepdims=True)
    start = entry_distance(origin, aim, (cells,) * 3)
    return SightLines(np.zeros(count, np.int64), origin, aim, start, np.zeros((count, 3), np.float32))


def test_rays_meet_a_ball_where_geometry_says():
    lines, radius = sight_lines(), 12.0
    found = first_hits(ball_field(radius), lines.origin, lines.direction, lines.start)
    to_middle = 19.5 - lines.origin
    along = np.einsum("pi,pi->p", to_middle, lines.direction)
    away = np.einsum("pi,pi->p", to_middle, to_middle) - along**2
    exact = along - np.sqrt(np.maximum(radius**2 - away, 0))
    clear = away < (radius - 0.5) ** 2
    np.testing.assert_allclose(found[clear], exact[clear], atol=0.1)
    assert (found[away > (radius + 0.3) ** 2] == -1).all()
    assert clear.sum() > 100 and (found == -1).any()


def test_rays_that_miss_the_grid_are_told():
    origin = np.array([[-5.0, 5, 5], [-5.0, 50, 5]])
    ahead = np.array([[1.0, 0, 0], [1.0, 0, 0]])
    np.testing.assert_allclose(entry_distance(origin, ahead, (10, 10, 10)), [5.001, -1])


def test_views_agree_on_the_true_ball_and_not_on_a_smaller_one():
    ball = trimesh.creation.icosphere(5, radius=0.3)
    cameras = cameras_at(15, size=160, views=12)
    views = render_views(np.asarray(ball.vertices), np.asarray(ball.faces), cameras)
    cell, cells = 0.02, 40
    origin = -cell * (cells - 1) / 2
    world = np.diag([cell, cell, cell, 1.0])
    world[:3, 3] = origin
    pictures = views.rgba[..., :3] * views.rgba[..., 3:]
    centres = (cameras.centres - origin) / cell
    photographs = Photographs(
        np.ascontiguousarray(pictures),
        np.ascontiguousarray(cameras.intrinsics @ cameras.camera_from_world[:, :3] @ world),
        centres,
        neighbours(cameras, np.zeros(3)),
    )
    rows, columns = np.nonzero(views.rgba[0, ..., 3] > 0.99)
    k = cameras.intrinsics[0]
    rays = np.stack(
        [(columns + 0.5 - k[0, 2]) / k[0, 0], (rows + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(rows))], axis=1
    )
    rays = rays @ cameras.world_from_camera[0, :3, :3].T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    start = np.repeat(centres[:1], len(rows), axis=0)
    lines = SightLines(
        np.zeros(len(rows), np.int64), start, rays,
        entry_distance(start, rays, (cells,) * 3), np.ascontiguousarray(pictures[0, rows, columns]),
    )  # fmt: skip
    true, small = (agreement(ball_field(radius / cell), photographs, lines) for radius in (0.3, 0.25))
    assert (true.seen > 0).mean() > 0.9
    assert true.error[true.seen > 0].mean() < 0.3 * small.error[small.seen > 0].mean()
    # Each pixel shows the texture at the point that its ray meets.
    shown = solid_texture(lines.at(true.distance) * cell + origin)
    assert np.abs(shown - lines.colour)[true.seen > 2].mean() < 0.03
    # Nothing is seen through the ball: a view a quarter turn away shares less than half of the points.
    assert (true.seen[true.seen > 0] < 4).any()
