"""Building node trees in code."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

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

    def xyz(self, vector: object) -> tuple[bpy.types.NodeSocket, ...]:
        """The three numbers of a vector."""
        return tuple(self.node("ShaderNodeSeparateXYZ", {0: vector}).outputs)

    def joined(self, x: object, y: object, z: object) -> bpy.types.NodeSocket:
        """A vector of three numbers."""
        return self.node("ShaderNodeCombineXYZ", {0: x, 1: y, 2: z}).outputs[0]

    def group(self, tree: bpy.types.NodeTree, *given: object) -> bpy.types.NodeSocket:
        """The output of a node of a tree that `made_tree` made."""
        return self.node("GeometryNodeGroup", dict(enumerate(given)), node_tree=tree).outputs[0]


def made_tree(
    name: str,
    kind: str,
    build: Callable[..., Iterator[None]],
    inputs: Sequence[tuple[str, str]] = (),
) -> Iterator[None]:
    """A geometry-nodes tree of one output, in slices: `build(nodes, *inputs)` makes and returns its socket.

    kind    of the output, such as "NodeSocketVector"
    inputs  (name, kind) each

    At each new link Blender looks through the whole tree: several small trees are made several times faster
    than a large one, and what is used twice is made once.
    """
    tree = bpy.data.node_groups.new(f".{name}", "GeometryNodeTree")
    for title, given in inputs:
        tree.interface.new_socket(title, in_out="INPUT", socket_type=given)
    tree.interface.new_socket("Value", in_out="OUTPUT", socket_type=kind)
    nodes = Nodes(tree)
    given = list(nodes.node("NodeGroupInput").outputs)[: len(inputs)] if inputs else ()
    nodes.node("NodeGroupOutput", {0: (yield from build(nodes, *given))})
    yield
    return tree


def current(items: Iterable[bpy.types.ID], name: str, build: int) -> bpy.types.ID | None:
    """The one of this name and build; beside one of an older build it has a number behind its name."""
    numbered = re.compile(re.escape(name) + r"(\.\d+)?")
    for item in items:
        if item.get("orrery_build") == build and numbered.fullmatch(item.name):
            return item
    return None


def built_material(name: str, build: int, paint: Callable[[Nodes], None]) -> bpy.types.Material:
    """The file's material of this name and build; where there is none, `paint` makes its nodes."""
    found = current(bpy.data.materials, name, build)
    if found is not None:
        return found
    made = bpy.data.materials.new(name)
    made["orrery_build"] = build
    if bpy.app.version < (5, 0, 0):
        made.use_nodes = True  # always so from 5.0 on, where the property is deprecated
    # EEVEE keeps or drops a whole surface in each sample, by chance: their mean is the mix in the order of
    # depth. Its other way sorts objects, and is slower by far.
    made.surface_render_method = "DITHERED"
    made.node_tree.nodes.clear()
    paint(Nodes(made.node_tree))
    return made
