"""Importers, from files written byte by byte: counts, values, axes, alignment, and how it looks."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from mathutils import Vector  # noqa: E402

from blender_addon.importers import place, reference, result  # noqa: E402
from blender_addon.importers.cameras import import_cameras  # noqa: E402
from blender_addon.importers.glb import read_glb  # noqa: E402
from blender_addon.importers.mesh import import_mesh  # noqa: E402
from blender_addon.importers.result import Placement, Provenance, import_result  # noqa: E402
from blender_addon.splats.importing import import_splats, prepare_scene  # noqa: E402
from shared_protocol.errors import InvalidInput  # noqa: E402
from shared_protocol.splats.files import read_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402
from tests.support.blender_render import read_png  # noqa: E402

pytestmark = pytest.mark.blender


def attribute(item, name, field, width):
    data = item.data.attributes[name].data
    values = np.empty(len(data) * width, np.float32)
    data.foreach_get(field, values)
    return values.reshape(-1, width)


@pytest.fixture
def wedge(blender, tmp_path):
    data, world = files.wedge_glb()
    (tmp_path / "mesh.glb").write_bytes(data)
    item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
    return item, world


@pytest.fixture
def job_folder(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "mesh.glb").write_bytes(files.wedge_glb()[0])
    (folder / "splats.ply").write_bytes(files.splat_ply(**files.ball_splats()))
    (folder / "cameras.json").write_bytes(files.cameras_json([(0, -3, 0), (3, 0, 0)]))
    return folder


PROVENANCE = Provenance("0123abcd", "duck", 7, {"quality": "draft"})


def test_a_mesh_arrives_welded_upright_in_blenders_axes_without_parents(wedge):
    item, world = wedge
    assert item.name == item.data.name == "wedge"
    assert item.parent is None
    assert [other.type for other in bpy.data.objects] == ["MESH"]
    vertices = np.array([item.matrix_world @ vertex.co for vertex in item.data.vertices])
    assert len(vertices) == 8
    np.testing.assert_allclose(
        np.array(sorted(vertices.round(6).tolist())), np.array(sorted(world.tolist())), atol=1e-6
    )


def test_a_mesh_is_smooth_and_its_base_colour_is_read_as_srgb_into_principled(wedge):
    item, _ = wedge
    assert all(polygon.use_smooth for polygon in item.data.polygons)
    (slot,) = item.material_slots
    (principled,) = (n for n in slot.material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
    image = principled.inputs["Base Color"].links[0].from_node.image
    assert (image.colorspace_settings.name, image.packed_file is not None) == ("sRGB", True)


def test_the_front_of_a_mesh_looks_toward_the_input_camera(wedge, render):
    front, back = render(name="front"), render(azimuth=180, name="back")
    middle = slice(40, 56)
    assert front[middle, middle, 0].mean() > 2 * front[middle, middle, 2].mean()
    assert back[middle, middle, 2].mean() > 2 * back[middle, middle, 0].mean()


def test_a_glb_without_mesh_and_a_broken_one_are_named_in_words(blender, tmp_path):
    (tmp_path / "broken.glb").write_bytes(b"glTF\2\0\0\0 not really")
    with pytest.raises(InvalidInput, match=r"broken\.glb is no GLB file"):
        import_mesh(tmp_path / "broken.glb", "x", blender.context.scene.collection)


def test_splat_values_are_kept_bit_for_bit_in_the_native_layout(blender):
    raw = files.ball_splats(count=500, terms=16)
    item = import_splats(files.splat_ply(**raw), "ball", blender.context.scene.collection)
    harmonics = raw["harmonics"].astype(np.float32)
    np.testing.assert_array_equal(
        attribute(item, "position", "vector", 3), raw["positions"].astype(np.float32)
    )
    np.testing.assert_array_equal(attribute(item, "radiance:base", "color", 4)[:, :3], harmonics[:, 0])
    for index in range(15):
        np.testing.assert_array_equal(
            attribute(item, f"radiance:sh_{index}", "vector", 3), harmonics[:, index + 1]
        )


def test_splat_scale_rotation_and_opacity_are_the_activated_ones(blender):
    raw = files.ball_splats(count=500)
    item = import_splats(files.splat_ply(**raw), "ball", blender.context.scene.collection)
    assert len(item.data.vertices) == 500
    np.testing.assert_allclose(attribute(item, "scale", "vector", 3), np.exp(raw["log_scales"]), rtol=1e-5)
    np.testing.assert_allclose(attribute(item, "rotation", "value", 4), raw["rotations"], atol=1e-6)
    np.testing.assert_allclose(
        attribute(item, "radiance:base", "color", 4)[:, 3], 1 / (1 + np.exp(-raw["logits"])), rtol=1e-6
    )


def test_a_file_that_holds_no_gaussians_is_refused_in_words(blender):
    with pytest.raises(InvalidInput, match="PLY"):
        import_splats(b"ply\nformat ascii 1.0\nend_header\n", "x", blender.context.scene.collection)


def test_splats_render_in_cycles_with_the_colours_they_were_fitted_in(blender, render):
    item = import_splats(files.splat_ply(**files.ball_splats()), "ball", blender.context.scene.collection)
    prepare_scene(blender.context.scene)
    picture = render(name="splats", samples=16)
    inside = picture[36:60, 36:60]
    assert inside[..., 3].mean() > 0.97
    np.testing.assert_allclose(inside[..., :3].mean(axis=(0, 1)), (0.8, 0.2, 0.2), atol=0.04)
    # A disc: radius 0.35 m at 3 m through a lens of 25 degrees; soft Gaussians reach a pixel beyond it.
    radius = math.tan(math.asin(0.35 / 3)) / math.tan(math.radians(12.5))
    assert (picture[..., 3] > 0.5).mean() == pytest.approx(math.pi / 4 * radius**2, rel=0.14)
    # The object's own transform moves and turns its Gaussians: half a turn shows the blue half.
    item.rotation_euler.z = math.pi
    turned = render(name="turned")
    np.testing.assert_allclose(turned[36:60, 36:60, :3].mean(axis=(0, 1)), (0.2, 0.2, 0.8), atol=0.04)


def third_degree_basis(direction):
    """(16,) the harmonics of 3D Gaussian Splatting (Kerbl 2023), `eval_sh`, written out."""
    x, y, z = direction
    xx, yy, zz = x * x, y * y, z * z
    return np.array(
        [0.28209479177387814, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
        + [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
        + [0.31539156525252005 * (2 * zz - xx - yy), -1.0925484305920792 * x * z]
        + [0.5462742152960396 * (xx - yy), -0.5900435899266435 * y * (3 * xx - yy)]
        + [2.890611442640554 * x * y * z, -0.4570457994644658 * y * (4 * zz - xx - yy)]
        + [0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)]
        + [-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)]
        + [-0.5900435899266435 * x * (xx - 3 * yy)]
    )


@pytest.mark.parametrize("terms", [4, 9, 16])
def test_harmonics_follow_the_camera_and_turn_with_the_object(blender, render, terms):
    raw = files.ball_splats(terms=terms)
    shared = np.random.default_rng(terms).normal(size=(terms, 3)) * 0.15
    raw["harmonics"][:] = shared  # all Gaussians alike: the colour depends on the direction only
    item = import_splats(files.splat_ply(**raw), "ball", blender.context.scene.collection)
    prepare_scene(blender.context.scene)
    for azimuth, turned in ((0, 0), (65, 0), (0, 50)):
        item.rotation_euler = (0.4, 0, math.radians(turned))
        blender.context.view_layer.update()
        angle = math.radians(azimuth)
        world_ray = (-math.sin(angle), math.cos(angle), 0.0)
        ray = np.array(item.matrix_world)[:3, :3].T @ world_ray
        expected = 0.5 + third_degree_basis(ray)[:terms] @ shared
        seen = render(azimuth=azimuth, size=48, name=f"{azimuth}-{turned}")[21:27, 21:27, :3]
        np.testing.assert_allclose(seen.mean(axis=(0, 1)), np.clip(expected, 0, 1), atol=0.02)


def test_cameras_become_one_camera_that_jumps_from_view_to_view(blender):
    positions = [(0, -3, 0), (3, 0, 0), (0, 3, 0)]
    item = import_cameras(
        files.cameras_json(positions, size=64, focal=150), "orbit", blender.context.scene.collection
    )
    assert item.data.angle == pytest.approx(2 * math.atan(32 / 150))
    for frame, position in enumerate(positions, start=1):
        blender.context.scene.frame_set(frame)
        np.testing.assert_allclose(item.matrix_world.translation, position, atol=1e-6)
        looks = -np.array(item.matrix_world)[:3, 2]
        np.testing.assert_allclose(looks, -np.array(position) / 3, atol=1e-6)


def test_a_result_is_one_collection_whose_parts_stand_on_the_floor_together(blender, job_folder):
    collection = import_result(
        job_folder, PROVENANCE, Placement(cameras=True, show=result.SHOW_BOTH), blender.context.scene
    )
    assert collection.name == "duck"
    blender.context.view_layer.update()
    parts = {item.type if item.type == "CAMERA" else item.name: item for item in collection.objects}
    assert set(parts) == {"duck", "duck Gaussians", "CAMERA"}
    lift = 0.4  # the wedge is 0.8 m tall and centred
    duck = parts["duck"]
    assert tuple(duck.location) == (0, 0, 0)  # it is turned and scaled about what it stands on
    heights = [(duck.matrix_world @ vertex.co).z for vertex in duck.data.vertices]
    assert (min(heights), max(heights)) == pytest.approx((0, 0.8), abs=1e-6)
    splats = parts["duck Gaussians"]
    assert tuple(splats.matrix_world.translation) == (0, 0, 0)  # no line is drawn from one to the other
    stored = read_splats(job_folder / "splats.ply").positions
    shown = [splats.matrix_world @ vertex.co for vertex in splats.data.vertices]
    np.testing.assert_allclose(shown, stored + (0, 0, lift), atol=1e-6)
    blender.context.scene.frame_set(1)
    np.testing.assert_allclose(parts["CAMERA"].matrix_world.translation, (0, -3, lift), atol=1e-6)
    assert blender.context.view_layer.objects.active is parts["duck"]
    assert (parts["duck"]["orrery_job"], parts["duck"]["orrery_seed"]) == ("0123abcd", 7)


def test_the_mesh_or_the_gaussians_or_both_are_shown(blender, job_folder):
    collection = import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
    mesh, splats = collection.objects["duck"], collection.objects["duck Gaussians"]
    assert (mesh.hide_render, splats.hide_render) == (False, True)
    result.show(collection, result.SHOW_GAUSSIANS)
    assert (mesh.hide_render, splats.hide_render) == (True, False)
    result.show(collection, result.SHOW_BOTH)
    assert (mesh.hide_render, splats.hide_render) == (False, False)


def test_what_is_shown_is_known_whoever_switched_it(blender, job_folder):
    collection = import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
    mesh, splats = collection.objects["duck"], collection.objects["duck Gaussians"]
    assert result.shown(collection) == result.SHOW_MESH
    splats.hide_viewport = False
    assert result.shown(collection) == result.SHOW_BOTH
    mesh.hide_viewport = True
    assert result.shown(collection) == result.SHOW_GAUSSIANS
    splats.hide_viewport = True
    assert not result.shown(collection)


def test_pairs_of_triangles_that_the_file_announces_become_quads_with_their_uvs(blender, tmp_path):
    data, _ = files.wedge_glb(quads=6)
    (tmp_path / "mesh.glb").write_bytes(data)
    item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
    assert [len(polygon.vertices) for polygon in item.data.polygons] == [4] * 6
    assert all(polygon.use_smooth for polygon in item.data.polygons)
    uv = np.empty(2 * len(item.data.loops), np.float32)
    item.data.uv_layers.active.data.foreach_get("uv", uv)
    columns = uv.reshape(-1, 4, 2)[..., 0]
    assert np.ptp(columns, axis=1).max() == 0 and sorted(columns[:, 0].tolist()) == pytest.approx(
        [0.125, 0.375, 0.625, 0.625, 0.875, 0.875]
    )


def test_more_quads_than_there_are_pairs_leave_the_triangles_as_they_are(blender, tmp_path):
    (tmp_path / "mesh.glb").write_bytes(files.wedge_glb(quads=7)[0])
    item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
    assert [len(polygon.vertices) for polygon in item.data.polygons] == [3] * 12


def test_a_normal_map_is_data_and_the_base_colour_is_colour(blender, tmp_path):
    flat = files.png(np.full((4, 4, 3), (128, 128, 255), np.uint8))
    (tmp_path / "mesh.glb").write_bytes(files.wedge_glb(normal_map=flat)[0])
    item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
    nodes = item.material_slots[0].material.node_tree.nodes
    (bump,) = (node for node in nodes if node.type == "NORMAL_MAP")
    assert bump.outputs["Normal"].links[0].to_node.type == "BSDF_PRINCIPLED"
    image = bump.inputs["Color"].links[0].from_node.image
    assert (image.name, image.colorspace_settings.name) == ("wedge normals", "Non-Color")
    (principled,) = (node for node in nodes if node.type == "BSDF_PRINCIPLED")
    base = principled.inputs["Base Color"].links[0].from_node.image
    assert (base.name, base.colorspace_settings.name) == ("wedge base colour", "sRGB")


def test_coarser_copies_wait_hidden_in_a_collection_of_their_own(blender, job_folder):
    for level in (1, 2):
        (job_folder / f"mesh_lod{level}.glb").write_bytes(files.wedge_glb()[0])
    collection = import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
    (below,) = collection.children
    assert (below.name, sorted(item.name for item in below.objects)) == (
        "duck LODs",
        ["duck LOD1", "duck LOD2"],
    )
    assert all(item.hide_viewport and item.hide_render for item in below.objects)
    mesh = collection.objects["duck"]
    assert all(item.parent is mesh and item.data is not mesh.data for item in below.objects)
    result.show(collection, result.SHOW_BOTH)
    assert all(item.hide_viewport for item in below.objects)
    for item in below.objects:
        item.hide_viewport = False  # what is hidden is not placed
    blender.context.view_layer.update()
    for item in below.objects:
        assert min((item.matrix_world @ v.co).z for v in item.data.vertices) == pytest.approx(0, abs=1e-6)
    assert result.result_collections(blender.context.scene) == [collection]


def test_a_broken_result_leaves_nothing_in_the_scene(blender, job_folder):
    (job_folder / "mesh_lod1.glb").write_bytes(files.wedge_glb()[0])
    (job_folder / "splats.ply").write_bytes(b"ply\n")
    with pytest.raises(InvalidInput):
        import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
    assert (len(bpy.data.objects), len(bpy.data.collections)) == (0, 0)


ELSEWHERE = """
import sys
import bpy
bpy.ops.wm.open_mainfile(filepath=sys.argv[1])
assert not hasattr(bpy.types.Scene, "orrery")
scene = bpy.context.scene
scene.render.filepath = sys.argv[2]
bpy.ops.render.render(write_still=True)
"""


@pytest.mark.parametrize("what", [result.SHOW_MESH, result.SHOW_GAUSSIANS])
def test_a_saved_result_opens_and_renders_in_a_blender_without_the_addon(
    blender, job_folder, tmp_path, render, what
):
    collection = import_result(job_folder, PROVENANCE, Placement(), bpy.context.scene)
    result.show(collection, what)
    here = render(name="here", center=(0, 0, 0.4))
    camera = bpy.data.objects.new("camera", bpy.data.cameras["test camera"])
    bpy.context.scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (0, -3, 0.4), (math.pi / 2, 0, 0)
    bpy.context.scene.camera = camera
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    (tmp_path / "resources").mkdir()
    outcome = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "scene.blend"), str(tmp_path / "there.png")],
        env={**os.environ, "BLENDER_USER_RESOURCES": str(tmp_path / "resources")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    there = read_png(tmp_path / "there.png")
    assert (there[..., 3] > 0.5).mean() > 0.02
    np.testing.assert_allclose(there, here, atol=0.05)


def test_size_place_reduced_copy_and_input_camera_are_options(blender, job_folder):
    size = 64
    (job_folder / "cutout.png").write_bytes(files.png(np.full((size, size, 4), 255, np.uint8)))
    scene = bpy.context.scene
    scene.cursor.location = (1, 2, 3)
    placement = Placement(
        at=place.CURSOR,
        size=4.0,
        decimate=0.25,
        quads=True,
        reference=reference.CAMERA,
        show=result.SHOW_BOTH,
    )
    collection = import_result(job_folder, PROVENANCE, placement, scene)
    bpy.context.view_layer.update()
    duck, splats = collection.objects["duck"], collection.objects["duck Gaussians"]
    assert max(duck.dimensions) == pytest.approx(4.0, abs=1e-5)
    corners = np.array([duck.matrix_world @ vertex.co for vertex in duck.data.vertices])
    np.testing.assert_allclose(corners.min(axis=0)[2], 3.0, atol=1e-5)
    np.testing.assert_allclose(corners.mean(axis=0)[:2], (1, 2), atol=1e-5)
    np.testing.assert_allclose(splats.matrix_world.translation, duck.matrix_world.translation, atol=1e-5)
    middle = duck.matrix_world @ Vector((0, 0, 0.4))  # of the frame
    assert tuple(splats.matrix_world.to_scale()) == pytest.approx(tuple(duck.scale))
    reduced = collection.objects["duck decimated"]
    assert (reduced.modifiers["Decimate"].ratio, reduced.hide_render) == (0.25, True)
    quads = collection.objects["duck quads"]
    quads.hide_viewport = False
    evaluated = quads.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    assert len(evaluated.polygons) > 100
    assert {len(polygon.vertices) for polygon in evaluated.polygons} == {4}
    camera = collection.objects["duck input"]
    image = camera.data.background_images[0].image
    assert image.packed_file is not None
    # Seen from that camera the mesh lies where the cut-out shows it: the middle is in the middle.
    np.testing.assert_allclose((camera.matrix_world.inverted() @ middle)[:2], (0, 0), atol=1e-5)
    apart = camera.matrix_world.translation - middle
    assert apart.length == pytest.approx(3 * duck.scale[0], abs=1e-4)


def test_the_input_as_a_picture_stands_beside_the_result_at_its_scale(blender, job_folder):
    (job_folder / "cutout.png").write_bytes(files.png(np.full((8, 8, 4), 255, np.uint8)))
    placement = Placement(reference=reference.EMPTY, floor=False)
    item = import_result(job_folder, PROVENANCE, placement, bpy.context.scene).objects["duck input"]
    width = 3 * 64 / 150  # the frame's width at the object: distance times pixels over focal length
    assert item.empty_display_size == pytest.approx(width, rel=1e-5)
    np.testing.assert_allclose(item.matrix_world.translation, (-width, 0, 0), atol=1e-5)


def test_a_result_may_keep_the_middle_of_its_views_as_origin(blender, job_folder):
    collection = import_result(job_folder, PROVENANCE, Placement(floor=False), bpy.context.scene)
    bpy.context.view_layer.update()
    heights = [vertex.co.z for vertex in collection.objects["duck"].data.vertices]
    assert (min(heights), max(heights)) == pytest.approx((-0.4, 0.4))
    assert tuple(collection.objects["duck Gaussians"].matrix_world.translation) == (0, 0, 0)


def test_faces_are_shaded_smooth_or_flat_as_asked(blender, job_folder):
    (job_folder / "mesh_lod1.glb").write_bytes(files.wedge_glb()[0])
    for smooth in (True, False):
        collection = import_result(job_folder, PROVENANCE, Placement(smooth=smooth), bpy.context.scene)
        for item in (collection.objects[0], collection.children[0].objects[0]):
            assert {polygon.use_smooth for polygon in item.data.polygons} == {smooth}


def test_a_mesh_of_many_faces_is_the_same_as_a_small_one_made_at_once(blender, tmp_path, monkeypatch):
    (tmp_path / "mesh.glb").write_bytes(files.wedge_glb(quads=5)[0])
    collection = blender.context.scene.collection
    at_once = import_mesh(tmp_path / "mesh.glb", "at once", collection).data
    monkeypatch.setattr("blender_addon.importers.mesh._FACES_AT_ONCE", 3)
    monkeypatch.setattr("blender_addon.importers.mesh._FACES_A_SLICE", 4)
    sliced = import_mesh(tmp_path / "mesh.glb", "sliced", collection).data
    assert not sliced.validate()
    assert [p.vertices[:] for p in sliced.polygons] == [p.vertices[:] for p in at_once.polygons]


def box_at(x, size=1.0):
    bpy.ops.mesh.primitive_cube_add(size=size, location=(x, 0, size / 2))
    return bpy.context.active_object


def standing(collection):
    bpy.context.view_layer.update()
    (duck,) = (item for item in collection.objects if item.name.startswith("duck") and "Gau" not in item.name)
    corners = np.array([duck.matrix_world @ Vector(corner) for corner in duck.bound_box])
    return corners.min(axis=0), corners.max(axis=0)


def test_a_result_stands_beside_what_is_at_the_origin_not_inside_it(blender, job_folder):
    box_at(0.0, size=2.0)
    bpy.ops.mesh.primitive_plane_add(size=50)  # a floor is stood on
    bpy.context.view_layer.update()
    results = [
        import_result(job_folder, PROVENANCE, Placement(at=place.BESIDE), bpy.context.scene) for _ in range(2)
    ]
    (low, high), (next_low, _) = map(standing, results)
    assert 1.0 < low[0] < 1.5
    assert high[0] < next_low[0] < high[0] + 0.5
    assert low[2] == pytest.approx(0, abs=1e-5)


def test_a_free_origin_is_taken_and_rooms_and_hidden_objects_do_not_count(blender, job_folder):
    box_at(0.0, size=40.0)  # a room
    hidden = box_at(0.0)
    hidden.hide_set(True)
    bpy.context.view_layer.update()
    placement = Placement(at=place.BESIDE)
    low, high = standing(import_result(job_folder, PROVENANCE, placement, bpy.context.scene))
    assert (low + high)[0] == pytest.approx(0, abs=1e-5)


def test_textures_larger_than_asked_for_are_halved_and_keep_their_colours(blender, job_folder):
    rng = np.random.default_rng(1)
    blocks = np.kron(rng.integers(0, 255, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    glb = read_glb(job_folder / "mesh.glb")
    (job_folder / "mesh.glb").write_bytes(
        files.glb(glb.vertices, np.array([[0, 1, 2]]), np.zeros((len(glb.vertices), 2)), files.png(blocks))
    )
    collection = import_result(job_folder, PROVENANCE, Placement(texture=16), bpy.context.scene)
    (slot,) = collection.objects["duck"].material_slots
    (image,) = (n.image for n in slot.material.node_tree.nodes if n.type == "TEX_IMAGE")
    assert tuple(image.size) == (16, 16)
    pixels = np.empty(16 * 16 * 4, np.float32)
    image.pixels.foreach_get(pixels)
    seen = np.rint(pixels.reshape(16, 16, 4)[::-1, :, :3] * 255)
    np.testing.assert_array_equal(seen, blocks[::4, ::4])
