"""Surfaces of revolution: exact volumes from rendered outlines, handles kept, flat and legged things left."""

import numpy as np
import pytest
import trimesh

from backend.geometry.cameras import Cameras, ring
from backend.geometry.metrics import mask_iou, silhouette
from backend.stages.orbit.backside import back_colour
from backend.stages.orbit.inflate import build_shape
from backend.stages.orbit.lathe import find_axis
from backend.stages.orbit.turned import recognise

SIZE = 256


def camera(elevation: float) -> Cameras:
    return ring(1, radius=3.0, elevation_degrees=elevation, fov_degrees=25.0, size=SIZE)


def turned(profile: list[tuple[float, float]]) -> trimesh.Trimesh:
    """Profile points (radius, height), from the bottom up."""
    return trimesh.creation.revolve(np.array(profile), sections=96)


arc = np.linspace(-np.pi / 2, np.pi / 2, 33)
SOLIDS = {
    "ball": turned([(0.4 * np.cos(a), 0.4 * np.sin(a)) for a in arc]),
    "cone": turned([(0, -0.4), (0.35, -0.4), (0.02, 0.4), (0, 0.4)]),
    "vase": turned([(0, -0.45), (0.2, -0.45), (0.3, -0.1), (0.12, 0.25), (0.2, 0.45), (0, 0.45)]),
    "bottle": turned([(0, -0.45), (0.2, -0.45), (0.2, 0.1), (0.07, 0.25), (0.07, 0.45), (0, 0.45)]),
}


def cut_out(mesh: trimesh.Trimesh, cameras: Cameras) -> np.ndarray:
    alpha = silhouette(mesh.vertices, mesh.faces, cameras, 0, 4)
    return np.dstack([np.full((SIZE, SIZE, 3), 0.5, np.float32), alpha])


def volume(mesh: trimesh.Trimesh, elevation: float) -> tuple[float, float]:
    """Volume that the shape has from this view, over the true one; and the confidence of a lathe."""
    cameras = camera(elevation)
    shape, _, confidence = build_shape(cut_out(mesh, cameras), cameras, elevation)
    result = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert result.is_watertight
    return abs(result.volume / mesh.volume), confidence


@pytest.mark.parametrize("elevation", [0.0, 15.0, 30.0])
@pytest.mark.parametrize("name", SOLIDS)
def test_turned_solid_has_its_volume(name, elevation):
    ratio, confidence = volume(SOLIDS[name], elevation)
    assert confidence > 0.5
    # Within 3 % from the side. From above, the ring under a bulge is out of sight and is filled; what a
    # ball stands on is out of sight too and is flattened (0.926 measured).
    least = 0.91 if (name, elevation) == ("ball", 30.0) else 0.96
    assert least < ratio < (1.04 if elevation == 0 or name in ("ball", "cone") else 1.25)


@pytest.mark.parametrize("elevation", [15.0, 30.0])
def test_cylinder_seen_from_above_has_flat_ends_and_its_volume(elevation):
    ratio, confidence = volume(turned([(0, -0.35), (0.3, -0.35), (0.3, 0.35), (0, 0.35)]), elevation)
    assert confidence > 0.5
    assert ratio == pytest.approx(1, abs=0.04)


def test_outline_of_a_lathe_with_a_handle_stays_and_the_body_is_round():
    cameras = camera(15.0)
    body = turned([(0, -0.35), (0.3, -0.35), (0.3, 0.35), (0, 0.35)])
    handle = trimesh.creation.torus(0.16, 0.035)
    handle.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0], [0, 0, 0]))
    handle.apply_translation([0.32, 0, 0])
    rgba = cut_out(trimesh.util.concatenate([body, handle]), cameras)
    shape, _, confidence = build_shape(rgba, cameras, 15.0)
    assert confidence > 0.5
    assert mask_iou(silhouette(shape.vertices, shape.faces, cameras, 0), rgba[..., 3]) > 0.98
    depth = np.ptp(shape.vertices[:, 1])
    assert depth == pytest.approx(0.6, rel=0.05)


def person(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Head, trunk, arms held out, two legs; x and y -1..1, y downward."""
    head = x**2 + (y + 0.55) ** 2 < 0.15**2
    trunk = (abs(x) < 0.17) & (abs(y + 0.15) < 0.3)
    arms = (abs(y + 0.3) < 0.07) & (abs(x) < 0.5)
    legs = (abs(abs(x) - 0.11) < 0.06) & (y > 0.1) & (y < 0.7)
    return head | trunk | arms | legs


NOT_TURNED = {
    "person": person,
    "front of a box": lambda x, y: (abs(x) < 0.45) & (abs(y) < 0.3),
    "box from a corner": lambda x, y: (abs(x) < 0.5) & (abs(y - 0.28 * x) < 0.35),
    "chair": lambda x, y: (
        ((abs(x) < 0.35) & (y > -0.7) & (y < 0.15)) | ((abs(abs(x) - 0.3) < 0.05) & (abs(y - 0.4) < 0.3))
    ),
    "leaning bar": lambda x, y: (abs(x - y) < 0.12) & (abs(x + y) < 1.1),
}


@pytest.mark.parametrize("name", NOT_TURNED)
def test_what_is_not_turned_is_not_taken_for_it(name):
    at = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    alpha = NOT_TURNED[name](*np.meshgrid(at, at)).astype(np.float32)
    cameras = camera(0.0)
    lathe, confidence = recognise(alpha, cameras.world_from_camera[0], cameras.intrinsics[0])
    assert lathe is None
    assert confidence <= 0.5


def test_axis_of_a_leaning_bottle_is_found():
    leaning = SOLIDS["bottle"].copy()
    leaning.apply_transform(trimesh.transformations.rotation_matrix(np.radians(12), [0, 1, 0]))
    axis = find_axis(cut_out(leaning, camera(0.0))[..., 3])
    assert np.degrees(np.arctan2(axis.direction[0], -axis.direction[1])) == pytest.approx(12, abs=0.7)
    assert axis.agree > 0.9


def test_a_mark_on_the_outline_does_not_colour_the_back():
    y, x = np.mgrid[:192, :192] + 0.5
    alpha = (np.hypot((x - 96) / 50, (y - 96) / 80) < 1).astype(np.float32)
    colour = np.full((192, 192, 3), 0.9, np.float32)
    colour[(abs(y - 96) < 14) & (abs(x - 96) > 40)] = (0.5, 0.2, 0.1)
    back = back_colour(colour, alpha)
    np.testing.assert_allclose(back[96, 76:116], 0.9, atol=0.06)


def test_a_rim_all_around_colours_the_back():
    y, x = np.mgrid[:192, :192] + 0.5
    radius = np.hypot(x - 96, y - 96)
    colour = np.where((radius < 55)[..., None], 0.9, 0.2).astype(np.float32).repeat(3, axis=2)
    back = back_colour(colour, (radius < 70).astype(np.float32))
    np.testing.assert_allclose(back[96, 96], 0.2, atol=0.05)


def shaded_rectangle(light) -> np.ndarray:
    """An upright rectangle of linear luminance light(x, y), x and y -1..1 on it, on a transparent frame."""
    rgba = np.zeros((SIZE, SIZE, 4), np.float32)
    x, y = np.meshgrid((np.arange(120) + 0.5) / 60 - 1, (np.arange(160) + 0.5) / 80 - 1)
    rgba[48:208, 68:188, :3] = np.clip(light(x, y), 0, 1)[..., None] ** (1 / 2.2)
    rgba[48:208, 68:188, 3] = 1
    return rgba


def lambert(turn: float, ambient: float = 0.15):
    """A cylinder lit from `turn` degrees to the right of the viewer."""
    sine, cosine = np.sin(np.radians(turn)), np.cos(np.radians(turn))
    return lambda x, y: ambient + 0.7 * np.maximum(x * sine + np.sqrt(1 - x**2) * cosine, 0)


@pytest.mark.parametrize("turn", [-30, -10, 0, 20, 40])
def test_can_seen_exactly_from_the_side_is_round_by_its_shading(turn):
    cameras = camera(0.0)
    shape, _, confidence = build_shape(shaded_rectangle(lambert(turn)), cameras, 0.0)
    assert confidence > 0.5
    width, depth = np.ptp(shape.vertices[:, 0]), np.ptp(shape.vertices[:, 1])
    assert depth == pytest.approx(width, rel=0.08)


FLAT = {
    "even": lambda x, y: 0.6 + 0 * x,
    "lit from one side": lambda x, y: 0.5 + 0.2 * x,
    "dark frame": lambda x, y: np.where((abs(x) > 0.85) | (abs(y) > 0.9), 0.1, 0.7),
    "vignette": lambda x, y: 0.8 - 0.25 * (x**2 + y**2),
    "striped": lambda x, y: 0.5 + 0.3 * np.sign(np.sin(9 * x)),
    "bright spot in the middle": lambda x, y: 0.2 + 0.6 * np.exp(-6 * (x**2 + y**2)),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_face_of_a_box_stays_a_box(name):
    cameras = camera(0.0)
    _, _, confidence = build_shape(shaded_rectangle(FLAT[name]), cameras, 0.0)
    assert confidence <= 0.5
