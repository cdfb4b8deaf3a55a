"""Building node trees in code."""

from collections.abc import Callable, Iterator

import bpy


class Nodes:
    """Shorthand for building a node tree: each call adds a node, links its inputs, returns its output."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree = tree

    def node(self, kind: str, inputs: dict | None = None, **settings: object) -> bpy.types.Node:
        node = self.tree.nodes.new(kind)
        for name, value in settings.items():
            setattr(node, name, value)
        for key, value in (inputs or {}).items():
            self.put(node.inputs[key], value)
        return node

    def put(self, socket: bpy.types.NodeSocket, value: object) -> None:
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def math(self, operation: str, *values: object) -> bpy.types.NodeSocket:
        return self.node("ShaderNodeMath", dict(enumerate(values)), operation=operation).outputs[0]

    def logic(self, operation: str, *values: object) -> bpy.types.NodeSocket:
        return self.node("FunctionNodeBooleanMath", dict(enumerate(values)), operation=operation).outputs[0]

    def vector(self, operation: str, *values: object, output: str = "Vector") -> bpy.types.NodeSocket:
        node = self.node("ShaderNodeVectorMath", operation=operation)
        for index, value in enumerate(values):
            self.put(node.inputs["Scale"] if operation == "SCALE" and index else node.inputs[index], value)
        return node.outputs[output]

    def mix_vectors(self, factor: object, first: object, second: object) -> bpy.types.NodeSocket:
        """`first` where the factor is 0, `second` where it is 1."""
        return self.vector(
            "ADD",
            self.vector("SCALE", first, self.math("SUBTRACT", 1.0, factor)),
            self.vector("SCALE", second, factor),
        )

    def attribute(self, name: str, kind: str) -> bpy.types.NodeSocket:
        node = self.node("GeometryNodeInputNamedAttribute", {"Name": name}, data_type=kind)
        return next(socket for socket in node.outputs if socket.enabled and socket.name == "Attribute")

    def store(
        self, geometry: bpy.types.NodeSocket, name: str, kind: str, value: bpy.types.NodeSocket
    ) -> bpy.types.NodeSocket:
        node = self.node(
            "GeometryNodeStoreNamedAttribute", {"Geometry": geometry, "Name": name}, data_type=kind
        )
        self.put(next(socket for socket in node.inputs if socket.enabled and socket.name == "Value"), value)
        return node.outputs["Geometry"]

    def group(self, tree: bpy.types.NodeTree) -> bpy.types.NodeSocket:
        """The output of a node of a tree that `value_tree` made."""
        return self.node("GeometryNodeGroup", node_tree=tree).outputs["Value"]

    def nested(self, name: str, kind: str, build: Callable[["Nodes"], Iterator[None]]) -> Iterator[None]:
        """The same of a tree that is used but once; see `value_tree`."""
        return self.group((yield from value_tree(name, kind, build)))


def value_tree(name: str, kind: str, build: Callable[[Nodes], Iterator[None]]) -> Iterator[None]:
    """A node tree of one value, whose socket `build` makes and returns; in slices.

    At each new link Blender looks through the whole tree: several small trees are made several times faster
    than a large one.
    """
    tree = bpy.data.node_groups.new(f".{name}", "GeometryNodeTree")
    tree.interface.new_socket("Value", in_out="OUTPUT", socket_type=kind)
    nodes = Nodes(tree)
    value = yield from build(nodes)
    nodes.node("NodeGroupOutput", {"Value": value})
    return tree


def built_material(name: str, build: int, paint: Callable[[Nodes], None]) -> bpy.types.Material:
    """The file's material of this name and build; where there is none, `paint` makes its nodes."""
    found = bpy.data.materials.get(name)
    if found is not None and found.get("orrery_build") == build:
        return found
    made = bpy.data.materials.new(name)
    made["orrery_build"] = build
    if bpy.app.version < (5, 0, 0):
        made.use_nodes = True  # always so from 5.0 on, where the property is deprecated
    made.surface_render_method = "BLENDED"
    made.node_tree.nodes.clear()
    paint(Nodes(made.node_tree))
    return made
