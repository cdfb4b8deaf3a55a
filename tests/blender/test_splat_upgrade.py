"""Files of older versions: their Gaussians become today's, nothing else changes."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from blender_addon import splats  # noqa: E402
from blender_addon.splats import layout, nodes  # noqa: E402
from blender_addon.splats.importing import import_splats  # noqa: E402
from shared_protocol.splats.files import read_stored  # noqa: E402
from tests.blender.test_splat_drawing import wild_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402

pytestmark = pytest.mark.blender


@pytest.fixture(autouse=True)
def scene(blender):
    if not hasattr(bpy.types, "ORRERY_OT_splats_upgrade"):
        splats.register()
    return blender.context.scene


def first_layout(name: str = "old"):
    """An object as the first version made it: no stored numbers, a node group of an older build."""
    data = files.splat_ply(**wild_splats(16, 3, 300))
    item = import_splats(data, name, bpy.context.scene.collection)
    for attribute in [a.name for a in item.data.attributes if a.name.startswith("stored:")]:
        item.data.attributes.remove(item.data.attributes[attribute])
    nodes.modifier_of(item).node_group["orrery_build"] = 1
    item[layout.MARK] = 1
    item["orrery_job"] = "0123abcd"
    item.location = (1, 2, 3)
    return item, read_stored(data)


def test_an_object_of_the_first_version_gets_todays_nodes(scene):
    item, _ = first_layout()
    old_group = nodes.modifier_of(item).node_group
    assert bpy.ops.orrery.splats_upgrade.poll()
    bpy.ops.orrery.splats_upgrade()
    group = nodes.modifier_of(item).node_group
    assert group is not old_group and group["orrery_build"] == nodes.BUILD
    assert (item[layout.MARK], item["orrery_job"]) == (layout.LAYOUT_VERSION, "0123abcd")
    assert not bpy.ops.orrery.splats_upgrade.poll()


@pytest.mark.skipif(
    "resize" not in bpy.types.PointCloud.bl_rna.functions, reason="point clouds cannot be made here"
)
def test_meshes_become_point_clouds_in_the_native_layout_where_blender_has_them(scene, monkeypatch):
    # Blender 5.2 has everything of 5.3's layout but the property that says "these are Gaussians".
    def cloud(name, size):
        made = bpy.data.pointclouds.new(name)
        made.resize(size)
        return made

    monkeypatch.setattr(layout, "native_type", lambda: "GAUSSIAN_SPLAT")
    mesh, stored = None, None
    with monkeypatch.context() as older:
        older.setattr(layout, "native_type", lambda: "")
        mesh, stored = first_layout()
    monkeypatch.setattr(layout, "new_data", cloud)
    twin = mesh.copy()
    scene.collection.objects.link(twin)
    child = bpy.data.objects.new("child", None)
    scene.collection.objects.link(child)
    child.parent = mesh
    group = bpy.data.collections.new("group")
    scene.collection.children.link(group)
    group.objects.link(mesh)
    names = {mesh.name, twin.name}
    bpy.ops.orrery.splats_upgrade()
    made = [item for item in bpy.data.objects if item.type == "POINTCLOUD"]
    assert {item.name for item in made} == names
    assert len({item.data.name for item in made}) == 1 and not bpy.data.meshes
    new = child.parent
    assert new.type == "POINTCLOUD" and new.name in group.objects and new.name in scene.collection.objects
    assert (tuple(new.location), new["orrery_job"]) == ((1, 2, 3), "0123abcd")
    kinds = {a.name: a.data_type for a in new.data.attributes}
    assert (kinds["radiance:base"], kinds["rotation"], kinds["scale"]) == (
        "FLOAT4",
        "QUATERNION",
        "FLOAT_VECTOR",
    )
    again = layout.read_stored(new.data)
    np.testing.assert_array_equal(again.harmonics, stored.harmonics)
    np.testing.assert_array_equal(again.positions, stored.positions)
    np.testing.assert_allclose(again.log_scales, stored.log_scales, atol=1e-5)
    assert not bpy.ops.orrery.splats_upgrade.poll()
