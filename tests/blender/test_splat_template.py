"""Node trees are made once and appended to later files: what is appended is what would be made."""

import pytest

bpy = pytest.importorskip("bpy", reason="the bpy module has a virtual environment of its own")

from blender_addon.splats import billboards, nodes, template  # noqa: E402
from blender_addon.splats.importing import import_splats  # noqa: E402
from tests.support import blender_files as files  # noqa: E402

pytestmark = pytest.mark.blender


@pytest.fixture(autouse=True)
def session(blender):
    template.forget()
    yield
    template.forget()


def import_ball(terms: int = 16):
    data = files.splat_ply(**files.ball_splats(count=50, terms=terms))
    return import_splats(data, "ball", bpy.context.scene.collection)


def next_file() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)


def described(tree: bpy.types.NodeTree) -> dict:
    """Everything that the tree computes, as plain values; groups within it by their own description."""
    found = (
        {"inputs": [(s.name, s.bl_socket_idname) for s in tree.interface.items_tree]}
        if tree.interface
        else {}
    )
    found["nodes"] = [
        (node.bl_idname, node.name, settings_of(node), [value_of(socket) for socket in node.inputs])
        for node in tree.nodes
    ]
    found["links"] = [
        (link.from_node.name, link.from_socket.identifier, link.to_node.name, link.to_socket.identifier)
        for link in tree.links
    ]
    animation = tree.animation_data
    found["drivers"] = [
        (
            curve.data_path,
            curve.driver.expression,
            [(v.name, v.type, v.targets[0].data_path) for v in curve.driver.variables],
        )
        for curve in (animation.drivers if animation else ())
    ]
    return found


def settings_of(node: bpy.types.Node) -> list:
    kinds = ("ENUM", "BOOLEAN", "STRING", "INT", "FLOAT")
    found = []
    for prop in node.bl_rna.properties:
        value = getattr(node, prop.identifier)
        if prop.identifier == "node_tree":
            found.append(described(value))
        elif prop.type in kinds and not prop.is_readonly:
            found.append((prop.identifier, tuple(value) if getattr(prop, "is_array", False) else value))
    return found


def value_of(socket: bpy.types.NodeSocket) -> object:
    value = getattr(socket, "default_value", None)
    if isinstance(value, bpy.types.Material):
        return described(value.node_tree)
    return tuple(value) if hasattr(value, "__len__") and not isinstance(value, str) else value


@pytest.mark.parametrize("terms", [1, 16])
def test_an_appended_tree_is_the_one_that_would_be_made(terms):
    made = described(nodes.modifier_of(import_ball(terms)).node_group)
    next_file()
    appended = nodes.modifier_of(import_ball(terms)).node_group
    assert appended.library_weak_reference is not None  # it was appended
    assert described(appended) == made
    assert (appended["orrery_build"], appended.is_modifier) == (nodes.BUILD, True)
    assert not bpy.data.libraries


def test_trees_of_several_degrees_share_the_materials():
    import_ball(16)
    next_file()
    import_ball(1)
    import_ball(16)
    import_ball(4)
    assert sorted(m.name for m in bpy.data.materials) == sorted([billboards.MATERIAL, nodes.MATERIAL])
    assert all(m.users >= 3 for m in bpy.data.materials)
    next_file()
    for terms in (16, 1, 4, 16, 1):
        import_ball(terms)
    assert len(bpy.data.materials) == 2
    assert sum("orrery_build" in tree for tree in bpy.data.node_groups) == 3
    assert not bpy.data.libraries


def test_beside_trees_of_an_older_build_one_new_tree_is_enough():
    old = nodes.modifier_of(import_ball()).node_group
    old["orrery_build"] = 1
    for material in bpy.data.materials:
        material["orrery_build"] = 1
    one, two = (nodes.modifier_of(import_ball()).node_group for _ in range(2))
    assert one is two and one is not old
    assert len(bpy.data.materials) == 4


def test_a_damaged_copy_is_made_anew():
    import_ball()
    next_file()
    path = template._path(f"{nodes.GROUP} SH3")
    path.write_bytes(path.read_bytes()[:5000])
    assert nodes.modifier_of(import_ball()).node_group["orrery_build"] == nodes.BUILD
    next_file()
    assert nodes.modifier_of(import_ball()).node_group.library_weak_reference is not None


def test_a_copy_without_the_tree_is_made_anew(tmp_path):
    import_ball()
    path = template._path(f"{nodes.GROUP} SH3")
    bpy.data.libraries.write(str(path), {bpy.data.materials[0]})
    next_file()
    assert nodes.modifier_of(import_ball()).node_group["orrery_build"] == nodes.BUILD
    assert not bpy.data.libraries
    next_file()
    assert nodes.modifier_of(import_ball()).node_group.library_weak_reference is not None


def test_nothing_stays_on_the_disk_without_an_extension():
    import_ball()
    folder = template._folder()
    assert list(folder.iterdir())
    template.forget()
    assert not folder.exists()


def test_an_extensions_copy_outlives_the_session_but_not_a_change_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(
        bpy.utils, "extension_path_user", lambda package, path="", create=False: str(tmp_path)
    )
    import_ball()
    template.forget()
    next_file()
    assert nodes.modifier_of(import_ball()).node_group.library_weak_reference is not None
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(template, "_digest", lambda: "changed")
    next_file()
    assert nodes.modifier_of(import_ball()).node_group.library_weak_reference is None
    (now,) = tmp_path.iterdir()
    assert kept != now and "changed" in now.name
