"""Gaussians drawn on the GPU, in Blender's window, next to a plain reference renderer.

One window serves all tests: `session` runs in it and leaves pictures and findings in a folder.
"""

import math
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from shared_protocol.splats.files import read_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support import ewa  # noqa: E402
from tests.support.xvfb import in_window  # noqa: E402

pytestmark = pytest.mark.blender

SIZE = 192
LEAST_DB = 50
"""Measured: 58 to 72 dB; half floats hold 11 bits."""


def wild_splats(terms: int, seed: int, count: int = 4000) -> dict:
    """Arguments of `splat_ply`: thin needles and flat discs of all sizes, a haze, colours that turn with
    the view."""
    random = np.random.default_rng(seed)
    normals = random.normal(size=(count, 3))
    positions = (
        normals / np.linalg.norm(normals, axis=1, keepdims=True) * random.uniform(0.2, 0.5, (count, 1))
    )
    harmonics = random.normal(0, 0.12, (count, terms, 3))
    harmonics[:, 0] = 1.5 * np.sin(positions * (9, 7, 8) + seed)
    return {
        "positions": positions,
        "log_scales": np.log(0.02 * np.exp(random.normal(0, 1.2, (count, 3)))),
        "rotations": random.normal(size=(count, 4)),
        "logits": np.where(random.random(count) < 0.6, 3.0, -1.5) + random.normal(0, 1, count),
        "harmonics": harmonics,
    }


def looking(azimuth: float, elevation: float = 15.0, distance: float = 2.0) -> np.ndarray:
    """(4, 4) view_from_world with OpenGL axes, looking at the origin."""
    a, e = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)])
    right = np.cross([0, 0, 1], back) / np.linalg.norm(np.cross([0, 0, 1], back))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = distance * back
    return np.linalg.inv(pose)


def lens(focal: float = 2.2, shift: tuple[float, float] = (0, 0), aspect: float = 1.0) -> np.ndarray:
    near, far = 0.1, 50.0
    return np.array(
        [
            [focal, 0, shift[0], 0],
            [0, focal * aspect, shift[1], 0],
            [0, 0, (near + far) / (near - far), 2 * near * far / (near - far)],
            [0, 0, -1, 0],
        ]
    )


def flat(scale: float = 1.4, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    matrix = np.diag([scale, scale, -0.04, 1.0])
    matrix[:3, 3] = *shift, -1.0
    return matrix


def turned() -> np.ndarray:
    """An object's matrix: turned, stretched unevenly, sheared, moved."""
    a, b = math.radians(50), math.radians(-35)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ np.diag([1.6, 0.5, 0.9]) @ about_x
    matrix[:3, 3] = 0.1, 0.2, -0.15
    return matrix


def away(matrix: np.ndarray, x: float) -> np.ndarray:
    result = matrix.copy()
    result[0, 3] += x
    return result


EYE4 = np.eye(4)
# name -> (files and matrices, view, projection, Mip-Splatting's filter)
CASES = {
    "degree 0": ([("wild0", EYE4)], looking(30), lens(), False),
    "degree 1": ([("wild1", EYE4)], looking(200), lens(), False),
    "degree 2": ([("wild2", EYE4)], looking(100, -30), lens(), False),
    "degree 3": ([("wild3", EYE4)], looking(30), lens(), False),
    "degree 3 turned, stretched and sheared": ([("wild3", turned())], looking(70), lens(), False),
    "degree 3 from inside": ([("wild3", EYE4)], looking(10, 5, 0.15), lens(1.0), False),
    "shifted wide lens": ([("wild3", EYE4)], looking(30), lens(1.8, (0.4, -0.25), 1.1), False),
    "orthographic": ([("wild3", turned())], looking(120, 40), flat(1.2, (0.2, -0.1)), False),
    "with the filter": ([("wild3", EYE4)], looking(30, 15, 6.0), lens(), True),
    "small on the screen": ([("wild3", EYE4)], looking(30, 15, 12.0), lens(), False),
    "two objects inside one another": (
        [("wild3", EYE4), ("wild0", away(turned(), 0.2)), ("wild3", away(EYE4, -0.3))],
        looking(-60),
        lens(),
        False,
    ),
}


def make_files(folder: Path) -> None:
    for degree in range(4):
        raw = wild_splats((degree + 1) ** 2, seed=degree)
        (folder / f"wild{degree}.ply").write_bytes(files.splat_ply(**raw))


def session(bpy, folder):
    """In the window: draws the cases off screen."""
    import gpu

    from blender_addon.splats import atlas as atlases
    from blender_addon.splats import order, painter
    from blender_addon.splats.importing import import_splats
    from blender_addon.splats.view import View

    yield 0.5
    make_files(folder)
    collection = bpy.context.scene.collection
    made = {
        f"wild{d}": import_splats((folder / f"wild{d}.ply").read_bytes(), f"wild{d}", collection)
        for d in range(4)
    }
    pictures = {}
    target = gpu.types.GPUOffScreen(SIZE, SIZE, format="RGBA16F")
    for name, (objects, view_from_world, projection, filtered) in CASES.items():
        used = sorted({made[n].data.name for n, _ in objects})
        *_, atlas = atlases.build([(n, bpy.data.meshes[n]) for n in used])
        view = View.of(view_from_world, projection, SIZE, SIZE)
        instances = [painter.Instance(made[n].data.name, matrix, filtered) for n, matrix in objects]
        sorted_ = order.far_to_near(view.view_from_world, painter.placed(atlas, instances))
        texture = painter.order_texture(sorted_)
        painter.paint(target, view, atlas, instances, texture, len(sorted_))
        pictures[name] = painter.read(target)
        yield 0.01
    # The left half of the picture is hidden by something at the object's own depth.
    objects, view_from_world, projection, _ = CASES["degree 0"]
    depth = wall(projection)
    hidden = gpu.types.GPUTexture(
        (SIZE, SIZE), format="R32F", data=gpu.types.Buffer("FLOAT", SIZE * SIZE, depth[::-1].ravel())
    )
    *_, atlas = atlases.build([(made["wild0"].data.name, made["wild0"].data)])
    view, instances = (
        View.of(view_from_world, projection, SIZE, SIZE),
        [painter.Instance(made["wild0"].data.name, EYE4)],
    )
    sorted_ = order.far_to_near(view.view_from_world, painter.placed(atlas, instances))
    texture = painter.order_texture(sorted_)
    painter.paint(target, view, atlas, instances, texture, len(sorted_), hidden)
    pictures["wall"] = painter.read(target)
    np.savez(folder / "pictures.npz", **pictures)
    yield 0.1


def wall(projection: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE) float32 window depths: 2 m away on the left, nothing on the right."""
    depth = np.ones((SIZE, SIZE), np.float32)
    clip = projection @ (0, 0, -2.0, 1)
    depth[:, : SIZE // 2] = 0.5 + 0.5 * clip[2] / clip[3]
    return depth


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("window")
    in_window(folder, "tests.blender.test_splat_drawing:session")
    return folder, np.load(folder / "pictures.npz")


def reference(folder: Path, name: str, **more) -> np.ndarray:
    objects, view, projection, filtered = CASES[name]
    given = [(read_splats(folder / f"{n}.ply"), matrix) for n, matrix in objects]
    return ewa.picture(given, view, projection, SIZE, SIZE, filtered=filtered, **more)


@pytest.mark.parametrize("name", CASES)
def test_drawn_gaussians_look_like_the_reference(drawn, name):
    folder, pictures = drawn
    expected = reference(folder, name)
    assert (expected[..., 3] > 0.05).mean() > 0.005  # there is something to see
    assert ewa.psnr(ewa.over_white(pictures[name]), ewa.over_white(expected)) > LEAST_DB
    assert ewa.psnr(pictures[name], expected) > LEAST_DB


def test_what_stands_before_gaussians_hides_them(drawn):
    folder, pictures = drawn
    expected = reference(folder, "degree 0", scene_depth=wall(CASES["degree 0"][2]))
    assert ewa.psnr(pictures["wall"], expected) > LEAST_DB
    assert ewa.psnr(pictures["wall"], pictures["degree 0"]) < 30


def test_the_reference_turns_harmonics_as_the_product_does():
    random = np.random.default_rng(0)
    rays = random.normal(size=(50, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    from tests.blender.test_importers import third_degree_basis

    np.testing.assert_allclose(ewa.basis(rays), [third_degree_basis(ray) for ray in rays], atol=1e-12)
