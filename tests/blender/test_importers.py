"""Importers, from files written byte by byte: counts, values, axes, alignment, and how it looks."""

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from blender_addon.importers import result  # noqa: E402
from blender_addon.importers.cameras import import_cameras  # noqa: E402
from blender_addon.importers.mesh import import_mesh  # noqa: E402
from blender_addon.importers.result import Placement, Provenance, import_result  # noqa: E402
from blender_addon.splats.importing import import_splats, prepare_scene  # noqa: E402
from shared_protocol.errors import InvalidInput  # noqa: E402
from tests.support import blender_files as files  # noqa: E402

pytestmark = pytest.mark.blender


def attribute(item, name, field, width):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.data = item.data.attributes[name].data
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.values = np.empty(len(data) * width, np.float32)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.data.foreach_get(field, values)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.return values.reshape(-1, width)


@pytest.fixture
def wedge(blender, tmp_path):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.data, world = files.wedge_glb()
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(tmp_path / "mesh.glb").write_bytes(data)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.return item, world


@pytest.fixture
def job_folder(tmp_path):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.folder = tmp_path / "job"
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.folder.mkdir()
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(folder / "mesh.glb").write_bytes(files.wedge_glb()[0])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(folder / "splats.ply").write_bytes(files.splat_ply(**files.ball_splats()))
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(folder / "cameras.json").write_bytes(files.cameras_json([(0, -3, 0), (3, 0, 0)]))
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.return folder


PROVENANCE = Provenance("0123abcd", "duck", 7, {"quality": "draft"})


def test_a_mesh_arrives_welded_upright_in_blenders_axes_without_parents(wedge):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item, world = wedge
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert item.name == item.data.name == "wedge"
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert item.parent is None
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert [other.type for other in bpy.data.objects] == ["MESH"]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.vertices = np.array([item.matrix_world @ vertex.co for vertex in item.data.vertices])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert len(vertices) == 8
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    np.array(sorted(vertices.round(6).tolist())), np.array(sorted(world.tolist())), atol=1e-6
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)


def test_a_mesh_is_smooth_and_its_base_colour_is_read_as_srgb_into_principled(wedge):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item, _ = wedge
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert all(polygon.use_smooth for polygon in item.data.polygons)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(slot,) = item.material_slots
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(principled,) = (n for n in slot.material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.image = principled.inputs["Base Color"].links[0].from_node.image
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (image.colorspace_settings.name, image.packed_file is not None) == ("sRGB", True)


def test_the_front_of_a_mesh_looks_toward_the_input_camera(wedge, render):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.front, back = render(name="front"), render(azimuth=180, name="back")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.middle = slice(40, 56)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert front[middle, middle, 0].mean() > 2 * front[middle, middle, 2].mean()
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert back[middle, middle, 2].mean() > 2 * back[middle, middle, 0].mean()


def test_a_glb_without_mesh_and_a_broken_one_are_named_in_words(blender, tmp_path):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(tmp_path / "broken.glb").write_bytes(b"glTF\2\0\0\0 not really")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.with pytest.raises(InvalidInput, match=r"broken\.glb is no GLB file"):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    import_mesh(tmp_path / "broken.glb", "x", blender.context.scene.collection)


def test_splat_values_are_kept_bit_for_bit_in_the_native_layout(blender):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.raw = files.ball_splats(count=500, terms=16)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_splats(files.splat_ply(**raw), "ball", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.harmonics = raw["harmonics"].astype(np.float32)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_array_equal(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    attribute(item, "position", "vector", 3), raw["positions"].astype(np.float32)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_array_equal(attribute(item, "radiance:base", "color", 4)[:, :3], harmonics[:, 0])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.for index in range(15):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    np.testing.assert_array_equal(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.        attribute(item, f"radiance:sh_{index}", "vector", 3), harmonics[:, index + 1]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    )


def test_splat_scale_rotation_and_opacity_are_the_activated_ones(blender):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.raw = files.ball_splats(count=500)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_splats(files.splat_ply(**raw), "ball", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert len(item.data.vertices) == 500
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(attribute(item, "scale", "vector", 3), np.exp(raw["log_scales"]), rtol=1e-5)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(attribute(item, "rotation", "value", 4), raw["rotations"], atol=1e-6)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    attribute(item, "radiance:base", "color", 4)[:, 3], 1 / (1 + np.exp(-raw["logits"])), rtol=1e-6
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)


def test_a_file_that_holds_no_gaussians_is_refused_in_words(blender):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.with pytest.raises(InvalidInput, match="PLY"):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    import_splats(b"ply\nformat ascii 1.0\nend_header\n", "x", blender.context.scene.collection)


def test_splats_render_in_cycles_with_the_colours_they_were_fitted_in(blender, render):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_splats(files.splat_ply(**files.ball_splats()), "ball", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.prepare_scene(blender.context.scene)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.picture = render(name="splats", samples=16)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.inside = picture[36:60, 36:60]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert inside[..., 3].mean() > 0.97
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(inside[..., :3].mean(axis=(0, 1)), (0.8, 0.2, 0.2), atol=0.04)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.# A disc: radius 0.35 m at 3 m through a lens of 25 degrees.
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.radius = math.tan(math.asin(0.35 / 3)) / math.tan(math.radians(12.5))
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (picture[..., 3] > 0.5).mean() == pytest.approx(math.pi / 4 * radius**2, rel=0.08)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.# The object's own transform moves and turns its Gaussians: half a turn shows the blue half.
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item.rotation_euler.z = math.pi
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.turned = render(name="turned")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(turned[36:60, 36:60, :3].mean(axis=(0, 1)), (0.2, 0.2, 0.8), atol=0.04)


def third_degree_basis(direction):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees."""(16,) the harmonics of 3D Gaussian Splatting (Kerbl 2023), `eval_sh`, written out."""
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.x, y, z = direction
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.xx, yy, zz = x * x, y * y, z * z
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.return np.array(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    [0.28209479177387814, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [0.31539156525252005 * (2 * zz - xx - yy), -1.0925484305920792 * x * z]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [0.5462742152960396 * (xx - yy), -0.5900435899266435 * y * (3 * xx - yy)]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [2.890611442640554 * x * y * z, -0.4570457994644658 * y * (4 * zz - xx - yy)]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    + [-0.5900435899266435 * x * (xx - 3 * yy)]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)


@pytest.mark.parametrize("terms", [4, 9, 16])
def test_harmonics_follow_the_camera_and_turn_with_the_object(blender, render, terms):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.raw = files.ball_splats(terms=terms)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.shared = np.random.default_rng(terms).normal(size=(terms, 3)) * 0.15
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.raw["harmonics"][:] = shared  # all Gaussians alike: the colour depends on the direction only
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_splats(files.splat_ply(**raw), "ball", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.prepare_scene(blender.context.scene)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.for azimuth, turned in ((0, 0), (65, 0), (0, 50)):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    item.rotation_euler = (0.4, 0, math.radians(turned))
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    blender.context.view_layer.update()
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    angle = math.radians(azimuth)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    world_ray = (-math.sin(angle), math.cos(angle), 0.0)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    ray = np.array(item.matrix_world)[:3, :3].T @ world_ray
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    expected = 0.5 + third_degree_basis(ray)[:terms] @ shared
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    seen = render(azimuth=azimuth, size=48, name=f"{azimuth}-{turned}")[21:27, 21:27, :3]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    np.testing.assert_allclose(seen.mean(axis=(0, 1)), np.clip(expected, 0, 1), atol=0.02)


def test_cameras_become_one_camera_that_jumps_from_view_to_view(blender):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.positions = [(0, -3, 0), (3, 0, 0), (0, 3, 0)]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_cameras(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    files.cameras_json(positions, size=64, focal=150), "orbit", blender.context.scene.collection
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert item.data.angle == pytest.approx(2 * math.atan(32 / 150))
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.for frame, position in enumerate(positions, start=1):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    blender.context.scene.frame_set(frame)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    np.testing.assert_allclose(item.matrix_world.translation, position, atol=1e-6)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    looks = -np.array(item.matrix_world)[:3, 2]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    np.testing.assert_allclose(looks, -np.array(position) / 3, atol=1e-6)


def test_a_result_is_one_collection_whose_parts_stand_on_the_floor_together(blender, job_folder):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.collection = import_result(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    job_folder, PROVENANCE, Placement(cameras=True, show=result.SHOW_BOTH), blender.context.scene
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert collection.name == "duck"
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.blender.context.view_layer.update()
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.parts = {item.type if item.type == "CAMERA" else item.name: item for item in collection.objects}
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert set(parts) == {"duck", "duck Gaussians", "CAMERA"}
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.lift = 0.4  # the wedge is 0.8 m tall and centred
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.for item in (parts["duck"], parts["duck Gaussians"]):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    np.testing.assert_allclose(item.matrix_world.translation, (0, 0, lift), atol=1e-6)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.blender.context.scene.frame_set(1)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.np.testing.assert_allclose(parts["CAMERA"].matrix_world.translation, (0, -3, lift), atol=1e-6)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert blender.context.view_layer.objects.active is parts["duck"]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (parts["duck"]["orrery_job"], parts["duck"]["orrery_seed"]) == ("0123abcd", 7)


def test_the_mesh_or_the_gaussians_or_both_are_shown(blender, job_folder):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.collection = import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.mesh, splats = collection.objects["duck"], collection.objects["duck Gaussians"]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (mesh.hide_render, splats.hide_render) == (False, True)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.result.show(collection, result.SHOW_GAUSSIANS)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (mesh.hide_render, splats.hide_render) == (True, False)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.result.show(collection, result.SHOW_BOTH)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (mesh.hide_render, splats.hide_render) == (False, False)


def test_pairs_of_triangles_that_the_file_announces_become_quads_with_their_uvs(blender, tmp_path):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.data, _ = files.wedge_glb(quads=6)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(tmp_path / "mesh.glb").write_bytes(data)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert [len(polygon.vertices) for polygon in item.data.polygons] == [4] * 6
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert all(polygon.use_smooth for polygon in item.data.polygons)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.uv = np.empty(2 * len(item.data.loops), np.float32)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item.data.uv_layers.active.data.foreach_get("uv", uv)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.columns = uv.reshape(-1, 4, 2)[..., 0]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert np.ptp(columns, axis=1).max() == 0 and sorted(columns[:, 0].tolist()) == pytest.approx(
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    [0.125, 0.375, 0.625, 0.625, 0.875, 0.875]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)


def test_more_quads_than_there_are_pairs_leave_the_triangles_as_they_are(blender, tmp_path):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(tmp_path / "mesh.glb").write_bytes(files.wedge_glb(quads=7)[0])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert [len(polygon.vertices) for polygon in item.data.polygons] == [3] * 12


def test_a_normal_map_is_data_and_the_base_colour_is_colour(blender, tmp_path):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.flat = files.png(np.full((4, 4, 3), (128, 128, 255), np.uint8))
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(tmp_path / "mesh.glb").write_bytes(files.wedge_glb(normal_map=flat)[0])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.item = import_mesh(tmp_path / "mesh.glb", "wedge", blender.context.scene.collection)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.nodes = item.material_slots[0].material.node_tree.nodes
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(bump,) = (node for node in nodes if node.type == "NORMAL_MAP")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert bump.outputs["Normal"].links[0].to_node.type == "BSDF_PRINCIPLED"
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.image = bump.inputs["Color"].links[0].from_node.image
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (image.name, image.colorspace_settings.name) == ("wedge normals", "Non-Color")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(principled,) = (node for node in nodes if node.type == "BSDF_PRINCIPLED")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.base = principled.inputs["Base Color"].links[0].from_node.image
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (base.name, base.colorspace_settings.name) == ("wedge base colour", "sRGB")


def test_coarser_copies_wait_hidden_in_a_collection_of_their_own(blender, job_folder):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.for level in (1, 2):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    (job_folder / f"mesh_lod{level}.glb").write_bytes(files.wedge_glb()[0])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.collection = import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(below,) = collection.children
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (below.name, sorted(item.name for item in below.objects)) == (
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    "duck LODs",
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    ["duck LOD1", "duck LOD2"],
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert all(item.hide_viewport and item.hide_render for item in below.objects)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.mesh = collection.objects["duck"]
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert all(item.parent is mesh and item.data is not mesh.data for item in below.objects)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.result.show(collection, result.SHOW_BOTH)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert all(item.hide_viewport for item in below.objects)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.for item in below.objects:
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    item.hide_viewport = False  # what is hidden is not placed
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.blender.context.view_layer.update()
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert all(item.matrix_world.translation.z == pytest.approx(0.4) for item in below.objects)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert result.result_collections(blender.context.scene) == [collection]


def test_a_broken_result_leaves_nothing_in_the_scene(blender, job_folder):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(job_folder / "mesh_lod1.glb").write_bytes(files.wedge_glb()[0])
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.(job_folder / "splats.ply").write_bytes(b"ply\n")
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.with pytest.raises(InvalidInput):
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.    import_result(job_folder, PROVENANCE, Placement(), blender.context.scene)
 A disc: radius 0.35 m at 3 m through a lens of 25 degrees.assert (len(bpy.data.objects), len(bpy.data.collections)) == (0, 0)
