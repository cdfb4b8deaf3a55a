"""Gaussians in a real 3D view: what is seen when objects are hidden, copied, deleted, brought back ..."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from shared_protocol.splats.files import read_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support import ewa  # noqa: E402
from tests.support.blender_render import read_png  # noqa: E402
from tests.support.xvfb import in_window  # noqa: E402

pytestmark = pytest.mark.blender

SIZE = (700, 520)
BACKGROUND = (0.1, 0.1, 0.1)  # linear
RED, BLUE, TOP = (-0.4, 0, 0), (0.4, 0, 0), (-0.4, 0, 0.6)


def ball(color: tuple[float, float, float], **more) -> bytes:
    raw = files.ball_splats(count=1500, radius=0.2, **more)
    raw["harmonics"][:, 0] = (np.array(color) - 0.5) / 0.28209479177387814
    return files.splat_ply(**raw)


class Watcher:
    """Screenshots of the only 3D view, and where points of the world are in them."""

    def __init__(self, bpy, folder: Path) -> None:
        self.bpy, self.folder, self.views = bpy, folder, {}

    @property
    def view(self):
        window = self.bpy.context.window_manager.windows[0]
        area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
        region = next(region for region in area.regions if region.type == "WINDOW")
        return window, area, region, area.spaces.active

    def prepare(self) -> None:
        *_, space = self.view
        space.show_region_toolbar = space.show_region_ui = space.show_region_header = False
        space.show_gizmo = False
        space.overlay.show_overlays = False
        space.shading.background_type = "VIEWPORT"
        space.shading.background_color = BACKGROUND
        space.region_3d.view_location = (0, 0, 0.2)
        space.region_3d.view_distance = 4
        space.region_3d.view_perspective = "PERSP"
        space.region_3d.view_rotation = (0.7071068, 0.7071068, 0, 0)  # from -Y

    def look(self, name: str):
        """Wait until the view is drawn, and keep it."""
        from blender_addon.splats import viewport

        _, area, region, space = self.view
        for turn in range(30):
            area.tag_redraw()
            yield 0.3
            state = viewport.state()
            if turn >= 3 and (state is None or state.ready):
                break
        picture = self.folder / f"{name}.png"
        subprocess.run(["import", "-window", "root", str(picture)], check=True)
        matrix = space.region_3d
        self.views[name] = {
            "rect": [region.x, region.y, region.width, region.height],
            "view": np.array(matrix.view_matrix).tolist(),
            "projection": np.array(matrix.window_matrix).tolist(),
        }
        (self.folder / "views.json").write_text(json.dumps(self.views))


def bare(watcher: Watcher, item):
    """What Blender itself draws, frames and selects of an object, our drawing switched off."""
    from blender_addon.splats import viewport

    bpy = watcher.bpy
    window, area, region, space = watcher.view
    overlay = space.overlay
    overlay.show_overlays = True
    overlay.show_floor = overlay.show_axis_x = overlay.show_axis_y = overlay.show_cursor = False
    overlay.show_text = overlay.show_object_origins = False
    viewport.unregister()
    for kind in ("SOLID", "WIREFRAME"):
        space.shading.type = kind
        yield from watcher.look(f"bare {kind.lower()}")
    space.shading.type = "SOLID"
    viewport.register()
    found = {"dimensions": list(item.dimensions)}
    bpy.ops.object.select_all(action="DESELECT")
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.view3d.select_box(xmin=5, xmax=region.width // 2, ymin=5, ymax=region.height - 5)
        found["boxed"] = [chosen.name for chosen in bpy.context.selected_objects]
        bpy.ops.view3d.view_selected()
    yield 0.6
    found["framed"] = [*space.region_3d.view_location, space.region_3d.view_distance]
    bpy.ops.object.select_all(action="DESELECT")
    watcher.prepare()
    return found


def session(bpy, folder):
    from blender_addon.splats import layout, nodes, viewport
    from blender_addon.splats.importing import import_splats

    yield 0.5
    bpy.ops.wm.read_factory_settings(use_empty=True)
    yield 0.3
    watcher = Watcher(bpy, folder)
    look = watcher.look
    watcher.prepare()
    collection = bpy.context.scene.collection
    (folder / "red.ply").write_bytes(ball((0.9, 0.1, 0.1)))
    red = import_splats(ball((0.9, 0.1, 0.1)), "red", collection)
    blue = import_splats(ball((0.1, 0.1, 0.9), seed=1), "blue", collection)
    red.location, blue.location = RED, BLUE
    bpy.ops.ed.undo_push(message="two balls")
    yield from look("both")
    findings = yield from bare(watcher, red)
    red.hide_set(True)
    yield from look("hidden")
    red.hide_set(False)
    copy = red.copy()
    copy.location = TOP
    collection.objects.link(copy)
    yield from look("copied")
    bpy.data.objects.remove(copy)
    bpy.ops.mesh.primitive_cube_add(size=0.5, location=(0.4, -0.5, 0))
    yield from look("behind a cube")
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    base = layout.values(red.data, "radiance:base")
    base[:, :3] = (np.array((0.1, 0.9, 0.1)) - 0.5) / 0.28209479177387814
    layout.put(red.data, "radiance:base", base)
    red.data.update()
    yield from look("recoloured")
    nodes.set_display(blue, nodes.ELLIPSOIDS)
    yield from look("ellipsoids")
    nodes.set_display(blue, nodes.DRAWN)
    bpy.ops.ed.undo_push(message="before")
    bpy.data.objects.remove(bpy.data.objects["blue"])
    bpy.ops.ed.undo_push(message="deleted")
    yield from look("deleted")
    window, area, region, _ = watcher.view
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.ed.undo()
    yield from look("undone")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "kept.blend"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    yield 0.3
    bpy.ops.wm.open_mainfile(filepath=str(folder / "kept.blend"), load_ui=False)
    yield 0.3
    watcher.prepare()
    yield from look("loaded")
    *_, space = watcher.view
    space.region_3d.view_perspective = "ORTHO"
    yield from look("orthographic")
    scene = bpy.context.scene
    camera = bpy.data.cameras.new("shifted")
    camera.shift_x, camera.lens = 0.15, 40
    scene.camera = bpy.data.objects.new("shifted", camera)
    scene.collection.objects.link(scene.camera)
    scene.camera.location, scene.camera.rotation_euler = (0.3, -4, 0.4), (1.5, 0.1, 0.05)
    space.region_3d.view_perspective = "CAMERA"
    yield from look("camera")
    group = bpy.data.collections.new("group")
    red = bpy.data.objects["red"]
    group.objects.link(red)
    scene.collection.objects.unlink(red)
    empty = bpy.data.objects.new("instance", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    empty.location.z = 0.6
    scene.collection.objects.link(empty)
    space.region_3d.view_perspective = "PERSP"
    yield from look("instanced")
    (folder / "findings.json").write_text(
        json.dumps(findings | {"blocks": sorted(viewport.state().atlas.blocks)})
    )
    yield 0.1


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewport")
    in_window(folder, "tests.blender.test_splat_viewport:session", SIZE)
    return Seen(folder)


class Seen:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.views = json.loads((folder / "views.json").read_text())

    def picture(self, name: str) -> np.ndarray:
        x, y, width, height = self.views[name]["rect"]
        screen = read_png(self.folder / f"{name}.png")[..., :3]
        return screen[SIZE[1] - y - height : SIZE[1] - y, x : x + width]

    def color(self, name: str, point: tuple[float, float, float]) -> str:
        """What is seen where this point of the world is."""
        view = self.views[name]
        clip = np.array(view["projection"]) @ np.array(view["view"]) @ (*point, 1)
        picture = self.picture(name)
        height, width = picture.shape[:2]
        x, y = (0.5 + 0.5 * clip[0] / clip[3]) * width, (0.5 - 0.5 * clip[1] / clip[3]) * height
        rgb = picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean(axis=(0, 1))
        known = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.9, 0.1), "blue": (0.1, 0.1, 0.9)}
        for word, expected in known.items():
            if np.abs(rgb - expected).max() < 0.06:
                return word
        return "nothing" if np.ptp(rgb) < 0.02 and rgb.max() < 0.45 else f"other {rgb.round(2)}"


@pytest.mark.parametrize(
    ("view", "at_red", "at_blue", "on_top"),
    [
        ("both", "red", "blue", "nothing"),
        ("hidden", "nothing", "blue", "nothing"),
        ("copied", "red", "blue", "red"),
        ("recoloured", "green", "blue", "nothing"),
        ("deleted", "green", "nothing", "nothing"),
        ("undone", "green", "blue", "nothing"),
        ("loaded", "green", "blue", "nothing"),
        ("orthographic", "green", "blue", "nothing"),
        ("camera", "green", "blue", "nothing"),
        ("instanced", "nothing", "blue", "green"),
    ],
)
def test_the_view_shows_the_gaussians_that_are_there(seen, view, at_red, at_blue, on_top):
    found = [seen.color(view, point) for point in (RED, BLUE, TOP)]
    assert found == [at_red, at_blue, on_top]


def test_a_mesh_in_front_hides_gaussians(seen):
    assert seen.color("behind a cube", RED) == "red"
    assert seen.color("behind a cube", BLUE).startswith("other")  # the cube's grey


def test_ellipsoids_of_the_nodes_replace_the_drawing(seen):
    assert seen.color("ellipsoids", BLUE) != "blue"
    assert seen.color("ellipsoids", RED) == "green"


def test_copies_share_the_rows_of_their_data(seen):
    findings = json.loads((seen.folder / "findings.json").read_text())
    assert findings["blocks"] == ["blue", "red"]


@pytest.mark.parametrize("shading", ["solid", "wireframe"])
def test_blender_itself_draws_nothing_of_gaussians(seen, shading):
    picture = seen.picture(f"bare {shading}")[30:-30, 30:-30]
    assert np.ptp(picture, axis=(0, 1)).max() < 0.02


def test_bounds_framing_and_selection_are_those_of_the_gaussians(seen):
    findings = json.loads((seen.folder / "findings.json").read_text())
    np.testing.assert_allclose(findings["dimensions"], (0.4, 0.4, 0.4), atol=0.005)
    assert findings["boxed"] == ["red"]
    *location, distance = findings["framed"]
    np.testing.assert_allclose(location, RED, atol=0.01)
    assert 0.3 < distance < 1.0


def test_the_view_looks_like_the_reference(seen):
    view = seen.views["both"]
    splats = read_splats(seen.folder / "red.ply")
    matrix = np.eye(4)
    matrix[:3, 3] = RED
    picture = seen.picture("both")
    height, width = picture.shape[:2]
    expected = ewa.picture(
        [(splats, matrix)], np.array(view["view"]), np.array(view["projection"]), width, height
    )
    # Blender mixes what is drawn over a view in linear light, and shows the view with a power of 1/2.2.
    alpha = expected[..., 3:]
    assert (alpha > 0.9).mean() > 0.003
    straight = (expected[..., :3] / np.maximum(alpha, 1e-6)) ** 2.2
    mixed = (alpha * straight + (1 - alpha) * np.array(BACKGROUND)) ** (1 / 2.2)
    # The ball and a little around it: neither the other ball nor the window's corners.
    rows, columns = np.nonzero(alpha[..., 0] > 0.004)
    ball = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    assert ewa.psnr(picture[ball], mixed[ball]) > 40
