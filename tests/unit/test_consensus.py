"""Known displacements put on views of solids are found from outlines, from pictures, and taken back."""

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from backend.geometry.cameras import ring
from backend.geometry.carving import bounds_of, extract_surface, field_of, silhouettes
from backend.geometry.consensus import agreeing_pictures
from backend.pipeline.values import Views
from backend.stages.surface.base import cut_base
from tests.support.solids import ball_masks, render_views

VIEWS = 8


def cameras_of(size, elevation=12):
    return ring(VIEWS, radius=2.0, elevation_degrees=elevation, fov_degrees=40, size=size)


def smooth_moves(size, pixels, seed=0):
    """(N, size, size, 2): shifts and warps of `pixels` on average, smooth over a twelfth of the picture."""
    generator = np.random.default_rng(seed)
    moves = []
    for _ in range(VIEWS):
        warp = [cv2.GaussianBlur(generator.normal(size=(size, size)), (0, 0), size / 12) for _ in range(2)]
        moves.append(np.stack([w / w.std() + 0.5 * generator.normal() for w in warp], axis=-1) * pixels)
    return np.stack(moves).astype(np.float32)


def moved(rgba, moves):
    rows, columns = np.mgrid[0 : rgba.shape[1], 0 : rgba.shape[2]].astype(np.float32)
    out = []
    for picture, move in zip(rgba, moves, strict=True):
        flat = picture.copy()
        flat[..., :3] *= flat[..., 3:]
        there = cv2.remap(flat, columns + move[..., 0], rows + move[..., 1], cv2.INTER_LINEAR)
        there[..., :3] /= np.maximum(there[..., 3:], 1e-6)
        out.append(there.clip(0, 1))
    return np.stack(out)


def grey_ball(size):
    cameras = cameras_of(size)
    alpha = ball_masks(cameras, 0.5, np.zeros(3), 4 if size < 512 else 2)
    rgba = np.full((*alpha.shape, 4), 0.5, dtype=np.float32)
    rgba[..., 3] = alpha
    ball = trimesh.creation.icosphere(5, radius=0.5)
    return rgba, cameras, np.asarray(ball.vertices), np.asarray(ball.faces)


def apart(first, second):
    """Mean pixels between the outlines of two sets of views."""
    return float(
        np.mean(
            [np.mean(cKDTree(outline(a)).query(outline(b))[0]) for a, b in zip(first, second, strict=True)]
        )
    )


def outline(view):
    """(P, 2): many points of the curve of half coverage."""
    (curve,) = find_contours(view[..., 3], 0.5)
    along = np.linspace(0, len(curve) - 1, 20 * len(curve))
    return np.stack([np.interp(along, np.arange(len(curve)), c) for c in curve.T], axis=1)


@pytest.mark.parametrize("size", [192, 576])
def test_outlines_of_a_ball_without_texture_come_back_to_the_balls_own(size):
    rgba, cameras, vertices, faces = grey_ball(size)
    given = moved(rgba, smooth_moves(size, size / 512))
    back, length = agreeing_pictures(given, cameras, vertices, faces, texture=False)
    before, after = apart(rgba, given), apart(rgba, back)
    assert before > 0.6 * size / 512 and after < 0.45 * before, (before, after)
    assert 0.2 < length * 512 / size < 2


def test_what_is_drawn_inside_comes_back_from_neighbours_that_are_right():
    ball = trimesh.creation.icosphere(5, radius=0.5)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    true = render_views(vertices, faces, cameras_of(256))
    moves = smooth_moves(256, 0.6, seed=3)
    moves[1:] = 0
    given = true.rgba.copy()
    given[:1] = moved(true.rgba, moves)[:1]
    back, _ = agreeing_pictures(given, true.cameras, vertices, faces)
    inside = cv2.erode((true.rgba[0, ..., 3] > 0.99).astype(np.uint8), np.ones((9, 9))) > 0
    error = [np.abs(p[0, ..., :3] - true.rgba[0, ..., :3])[inside].mean() for p in (given, back)]
    assert error[1] < 0.4 * error[0], error


def test_views_that_agree_hardly_move():
    ball = trimesh.creation.icosphere(5, radius=0.5)
    true = render_views(np.asarray(ball.vertices), np.asarray(ball.faces), cameras_of(256))
    _, length = agreeing_pictures(true.rgba, true.cameras, ball.vertices, np.asarray(ball.faces))
    assert length < 0.1


def test_an_empty_view_stays_as_it_is():
    rgba, cameras, vertices, faces = grey_ball(128)
    rgba[3] = 0
    back, _ = agreeing_pictures(rgba, cameras, vertices, faces)
    assert not back[3].any() and np.isfinite(back).all()


def test_one_view_in_eight_does_not_pull_the_base_down():
    drum = trimesh.creation.cylinder(0.4, 0.6, sections=64)
    views = render_views(np.asarray(drum.vertices), np.asarray(drum.faces), cameras_of(192, 20))
    rgba = views.rgba.copy()
    rgba[2] = np.roll(rgba[2], 4, axis=0)
    views = Views(rgba, views.cameras)
    masks = silhouettes(rgba[..., 3], views.cameras)
    low, high = bounds_of(masks, views.cameras)
    hull = field_of(masks, low, high, 80)
    base = [
        extract_surface(cut_base(hull, masks, views.cameras, doubted))[0][:, 2].min()
        for doubted in (0.0, 0.2)
    ]
    assert base[1] == pytest.approx(-0.3, abs=0.015) and base[1] > base[0] + 0.01, base
