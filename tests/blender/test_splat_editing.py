"""Gaussians edited, imported and exported by the operators that the buttons press."""

import math
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from blender_addon import splats  # noqa: E402
from blender_addon.splats import layout, nodes  # noqa: E402
from blender_addon.splats.columns import open_file, read_columns  # noqa: E402
from blender_addon.splats.importing import import_splats, import_steps  # noqa: E402
from blender_addon.splats.transform import transformed  # noqa: E402
from blender_addon.splats.viewport import instance_of  # noqa: E402
from shared_protocol.errors import InvalidInput  # noqa: E402
from shared_protocol.splats.antialiased import declared_antialiased  # noqa: E402
from shared_protocol.splats.arrays import activate  # noqa: E402
from shared_protocol.splats.files import encode_stored, read_stored  # noqa: E402
from tests.blender.test_splat_drawing import lens, looking, turned, wild_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support import ewa  # noqa: E402

pytestmark = pytest.mark.blender


@pytest.fixture(autouse=True)
def scene(blender):
    if not hasattr(bpy.types, "ORRERY_OT_splats_crop"):
        splats.register()
    return blender.context.scene


def wild(terms: int = 16, seed: int = 3, count: int = 800):
    return files.splat_ply(**wild_splats(terms, seed, count))


def add(data: bytes, name: str = "wild"):
    item = import_splats(data, name, bpy.context.scene.collection)
    choose(item)
    return item


def choose(*items, active=None):
    bpy.context.view_layer.update()
    for other in bpy.context.view_layer.objects:
        other.select_set(other in items)
    bpy.context.view_layer.objects.active = active or items[0]


def empty(location, size: float, kind: str = "CUBE"):
    item = bpy.data.objects.new("shape", None)
    item.empty_display_type, item.empty_display_size, item.location = kind, size, location
    bpy.context.scene.collection.objects.link(item)
    return item


@pytest.mark.parametrize("terms", [1, 4, 9, 16])
def test_import_and_export_leave_every_bit_in_place(tmp_path, terms):
    raw = wild_splats(terms, 5, 3000)
    raw["logits"][:4] = (-40, 40, 17, -104)
    raw["log_scales"][:3] = (0.3, -0.2, 1e-4)
    raw["rotations"][:100] *= 1e3
    (tmp_path / "in.ply").write_bytes(files.splat_ply(**raw))
    bpy.ops.orrery.import_splats(filepath=str(tmp_path / "in.ply"))
    bpy.ops.orrery.export_splats(filepath=str(tmp_path / "out.ply"))
    assert (tmp_path / "out.ply").read_bytes() == (tmp_path / "in.ply").read_bytes()


def test_every_format_of_the_world_is_imported_and_exported(tmp_path):
    stored = read_stored(wild())
    for kind in ("ply", "compressed.ply", "spz", "splat"):
        path = tmp_path / f"garden.{kind}"
        path.write_bytes(encode_stored(stored, kind))
        bpy.ops.orrery.import_splats(filepath=str(path))
        item = bpy.context.active_object
        assert (item.name.split(".")[0], layout.count(item.data)) == ("garden", 800)
        bpy.ops.orrery.export_splats(filepath=str(tmp_path / f"again.{kind}"), kind=kind)
        again = read_stored(tmp_path / f"again.{kind}")
        assert again.count == 800
        bpy.data.objects.remove(item)


@pytest.mark.parametrize("kind", ["ply", "compressed.ply", "spz"])
def test_what_a_file_says_of_its_training_is_drawn_kept_and_written(tmp_path, kind):
    path, again = tmp_path / f"mip.{kind}", tmp_path / f"again.{kind}"
    path.write_bytes(encode_stored(read_stored(wild()), kind, antialiased=True))
    bpy.ops.orrery.import_splats(filepath=str(path))
    item = bpy.context.active_object
    assert instance_of(item, np.eye(4)).filtered
    assert nodes.input_of(nodes.modifier_of(item), nodes.FILTERED)
    layout.replace(item.data, layout.read_stored(item.data))
    bpy.ops.orrery.export_splats(filepath=str(again), kind=kind)
    assert declared_antialiased(again.read_bytes())
    bpy.ops.orrery.splats_antialiased(wanted=False)
    assert not instance_of(item, np.eye(4)).filtered
    assert not nodes.input_of(nodes.modifier_of(item), nodes.FILTERED)
    bpy.ops.orrery.export_splats(filepath=str(again), kind=kind)
    assert not declared_antialiased(again.read_bytes())


def test_merging_and_exporting_both_kinds_of_training_says_that_they_differ(tmp_path):
    said = add(encode_stored(read_stored(wild()), "ply", antialiased=True), "said")
    plain = add(wild(), "plain")
    choose(said, plain, active=said)
    bpy.ops.orrery.export_splats(filepath=str(tmp_path / "both.ply"))
    assert not declared_antialiased((tmp_path / "both.ply").read_bytes())
    bpy.ops.orrery.splats_merge()
    assert not layout.antialiased(said.data)


def test_what_is_written_after_an_edit_by_other_tools_is_the_edited(tmp_path):
    item = add(wild())
    scales = layout.values(item.data, "scale") * np.float32(2)
    layout.put(item.data, "scale", scales)
    stored = layout.read_stored(item.data)
    np.testing.assert_allclose(np.exp(stored.log_scales), scales, rtol=1e-5)
    np.testing.assert_array_equal(stored.rotations, read_stored(wild()).rotations)


def affine(turn: float, scale, shift=(0.2, -0.1, 0.3)) -> np.ndarray:
    a = math.radians(turn)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_x @ np.diag(np.broadcast_to(scale, 3))
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize(
    ("terms", "matrix"),
    [
        (16, affine(70, 1.0)),
        (16, affine(-130, 1.7)),
        (16, affine(20, -0.8)),  # mirrored
        (16, affine(20, (1, 1, -1))),
        (1, affine(40, (1.5, 0.4, 0.9))),
        (1, turned()),
    ],
)
def test_transformed_gaussians_look_as_the_object_did(terms, matrix):
    stored = read_stored(wild(terms))
    view = looking(40), lens(), 96, 96
    before = ewa.picture([(activate(stored), matrix)], *view)
    after = ewa.picture([(activate(transformed(stored, matrix)), np.eye(4))], *view)
    assert ewa.psnr(before, after) > 70


def test_apply_transform_keeps_the_picture_and_the_children(scene):
    item = add(wild())
    item.location, item.rotation_euler, item.scale = (0.1, 0.2, -0.1), (0.4, -1, 2), (1.2, 1.2, 1.2)
    child = empty((0, 0, 1), 1)
    child.parent = item
    bpy.context.view_layer.update()
    place = child.matrix_world.copy()
    view = looking(40), lens(), 96, 96
    before = ewa.picture([(layout.read_splats(item.data), np.array(item.matrix_world))], *view)
    bpy.ops.orrery.splats_apply()
    bpy.context.view_layer.update()
    after = ewa.picture([(layout.read_splats(item.data), np.eye(4))], *view)
    assert ewa.psnr(before, after) > 60
    np.testing.assert_allclose(item.matrix_world, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(child.matrix_world, place, atol=1e-5)


def test_shared_gaussians_are_not_applied_behind_the_back_of_others():
    item = add(wild())
    other = item.copy()
    bpy.context.scene.collection.objects.link(other)
    assert not bpy.ops.orrery.splats_apply.poll()


def test_crop_keeps_what_is_in_the_box_or_the_sphere_of_a_turned_object():
    for shape, expected in (
        ("BOX", lambda u: (np.abs(u) <= 1).all(1)),
        ("SPHERE", lambda u: (u**2).sum(1) <= 1),
    ):
        item = add(wild())
        item.location.x = 0.3
        target = empty((0.4, 0, 0.1), 0.25)
        target.rotation_euler.z = 0.6
        choose(item, target, active=target)
        local = layout.values(item.data, "position") + (0.3, 0, 0) - (0.4, 0, 0.1)
        c, s = math.cos(0.6), math.sin(0.6)
        unit = local @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) / 0.25
        wanted = layout.values(item.data, "position")[expected(unit)]
        assert 10 < len(wanted) < 400
        bpy.ops.orrery.splats_crop(shape=shape)
        np.testing.assert_array_equal(layout.values(item.data, "position"), wanted)
        bpy.data.objects.remove(item)


def test_a_crop_that_would_leave_nothing_is_refused():
    item = add(wild())
    target = empty((50, 0, 0), 0.1)
    choose(item, target, active=target)
    with pytest.raises(RuntimeError, match="nothing was removed"):
        bpy.ops.orrery.splats_crop()
    assert layout.count(item.data) == 800


def test_gaussians_are_selected_by_opacity_size_and_distance_and_deleted():
    item = add(wild())
    item.scale = (2, 2, 2)
    choose(item)
    opacity = layout.values(item.data, "radiance:base")[:, 3]
    bpy.ops.orrery.splats_select(by="OPACITY", low=0, high=0.3)
    np.testing.assert_array_equal(layout.selected(item.data), opacity <= np.float32(0.3))
    size = 2 * layout.values(item.data, "scale").max(axis=1)
    bpy.ops.orrery.splats_select(by="SIZE", low=0.2, high=100, extend=True)
    np.testing.assert_array_equal(layout.selected(item.data), (opacity <= np.float32(0.3)) | (size >= 0.2))
    bpy.ops.orrery.splats_select(by="DISTANCE", low=0.9, high=100)
    far = np.linalg.norm(layout.values(item.data, "position"), axis=1) >= 0.45
    np.testing.assert_array_equal(layout.selected(item.data), far)
    kept = layout.read_stored(item.data).harmonics[~far]
    bpy.ops.orrery.splats_delete()
    np.testing.assert_array_equal(layout.read_stored(item.data).harmonics, kept)
    assert "CANCELLED" in bpy.ops.orrery.splats_delete()


def test_merged_objects_look_as_they_did_apart():
    one, two = add(wild()), add(wild(1, 4), "other")
    one.location.x, one.rotation_euler.z = 0.2, 1.0
    two.location.y = -0.3
    bpy.context.view_layer.update()
    view = looking(40), lens(), 96, 96
    before = ewa.picture([(layout.read_splats(o.data), np.array(o.matrix_world)) for o in (one, two)], *view)
    choose(one, two, active=two)
    bpy.ops.orrery.splats_merge()
    assert [o.name for o in bpy.data.objects] == ["other"]
    assert (layout.count(two.data), layout.degree(two.data)) == (1600, 3)
    assert nodes.modifier_of(two).node_group.name.endswith("SH3")
    after = ewa.picture([(layout.read_splats(two.data), np.array(two.matrix_world))], *view)
    assert ewa.psnr(before, after) > 55


def test_colours_are_baked_to_the_mesh_that_lies_within():
    item = add(files.splat_ply(**files.ball_splats()))
    bpy.ops.mesh.primitive_uv_sphere_add(radius=0.35, segments=16, ring_count=12)
    sphere = bpy.context.active_object
    choose(item, sphere, active=sphere)
    bpy.ops.orrery.splats_bake()
    colors = np.empty(4 * len(sphere.data.vertices), np.float32)
    sphere.data.color_attributes["Gaussians"].data.foreach_get("color", colors)
    depth = np.array([vertex.co.y for vertex in sphere.data.vertices])
    linear = np.array([((c + 0.055) / 1.055) ** 2.4 for c in (0.8, 0.2)])
    for side, expected in ((depth < -0.1, linear), (depth > 0.1, linear[::-1])):
        found = colors.reshape(-1, 4)[side][:, (0, 2)]
        np.testing.assert_allclose(found, np.tile(expected, (len(found), 1)), atol=0.01)


def test_buttons_say_why_they_are_grey():
    assert not bpy.ops.orrery.splats_crop.poll()
    assert not bpy.ops.orrery.export_splats.poll()
    item = add(wild())
    assert not bpy.ops.orrery.splats_crop.poll()  # no shape
    assert not bpy.ops.orrery.splats_merge.poll()  # only one
    assert bpy.ops.orrery.splats_apply.poll()
    assert item.select_get()


def test_files_that_cannot_be_read_are_refused_in_words(tmp_path):
    (tmp_path / "no.ply").write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    (tmp_path / "none.ply").write_bytes(b"")
    for name in ("no.ply", "none.ply", "missing.ply"):
        with pytest.raises(RuntimeError, match=r"\. |: "):
            bpy.ops.orrery.import_splats(filepath=str(tmp_path / name))
    assert not bpy.data.objects and not bpy.data.meshes


def test_broken_gaussians_are_an_error_or_left_out(tmp_path):
    raw = wild_splats(16, 3, 800)
    raw["positions"][7] = np.nan
    path = tmp_path / "broken.ply"
    path.write_bytes(files.splat_ply(**raw))
    with pytest.raises(RuntimeError, match="not finite"):
        bpy.ops.orrery.import_splats(filepath=str(path))
    bpy.ops.orrery.import_splats(filepath=str(path), drop_broken=True, degree="1")
    item = bpy.context.active_object
    assert (layout.count(item.data), layout.degree(item.data)) == (799, 1)


def test_an_import_that_ends_early_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.ply").write_bytes(wild(count=200_000))
    steps = import_steps(read_columns(open_file(tmp_path / "a.ply")), "never", bpy.context.scene.collection)
    while not bpy.data.meshes:
        next(steps)
    for _ in range(5):
        next(steps)
    assert not bpy.data.objects
    steps.close()
    assert not bpy.data.meshes and not bpy.data.objects


def test_columns_of_all_kinds_of_ply_are_those_of_the_protocol(tmp_path):
    stored = read_stored(wild())
    text = wild().partition(b"end_header\n")[0].decode()
    rows = np.frombuffer(wild().partition(b"end_header\n")[2], "<f4").reshape(800, -1)
    big = text.replace("little", "big").encode() + b"end_header\n" + rows.astype(">f4").tobytes()
    cut = text.replace("property float nx\nproperty float ny\nproperty float nz\n", "").encode()
    bare = cut + b"end_header\n" + np.delete(rows, (3, 4, 5), axis=1).tobytes()
    for number, data in enumerate((wild(), big, bare)):
        Path(tmp_path / f"{number}.ply").write_bytes(data)
        *_, columns = read_columns(open_file(tmp_path / f"{number}.ply"))
        np.testing.assert_array_equal(np.stack(columns.coefficients, axis=1), stored.harmonics)
        for name in ("positions", "log_scales", "rotations", "logits"):
            np.testing.assert_array_equal(getattr(columns, name), getattr(stored, name))


def test_a_file_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "short.ply").write_bytes(wild()[:-100])
    with pytest.raises(InvalidInput, match="truncated"):
        list(read_columns(open_file(tmp_path / "short.ply")))
