"""Gaussians in Blender's own renders below 5.3: a geometry-nodes group and materials, built in code.

Each vertex becomes an instance. Its colour, 0.5 + sum(Y_k c_k) in sRGB encoding seen from the active
camera, is worked out once a Gaussian and stored; `mixing` makes light of it (or leaves it, see ENCODED).

By default the instances are flat and face the camera (`billboards`): what a splat viewer draws, order
included. With ANY_CAMERA they are spheres of radius 3 (standard deviations), turned and scaled; in an
instance's space every Gaussian is the same unit Gaussian, and the material works out its response along
the ray: the ray passes the centre at a distance r, where the response peaks with exp(-r^2 / 2), so alpha =
opacity * exp(-r^2 / 2), on the front of the sphere only. That needs no camera: panoramas, reflections and
shadows are right.
"""

from collections.abc import Iterator

import bpy

from ..importers.steps import finished
from . import billboards, harmonics, mixing, template
from .camera_nodes import CameraTrees, camera_trees
from .node_kit import Nodes, built_material, current, made_tree

GROUP = "Orrery Gaussians"
MATERIAL = "Orrery Gaussian"
BUILD = 7
"""Raised when the nodes change: a group of an older build is replaced, not reused."""

PREVIEW, ANY_CAMERA, ENCODED, FILTERED = "Preview", "Any Camera", "Blend as Trained", "Antialiased"
DRAWN, ELLIPSOIDS = "DRAWN", "ELLIPSOIDS"
"""How the viewport shows an object: by the add-on's drawing, or by the nodes' solid ellipsoids."""

SHELL = 3.0
VIEWPORT_SHELL = 2.0
"""Outside of a render the spheres are drawn solid: one standard deviation looks like the surface."""

SHELL_SIZE = "orrery_shell"


def add_modifier(item: bpy.types.Object, degree: int = 0, *, antialiased: bool = False) -> None:
    """Show the vertices of `item`, whose harmonics are of this degree (0 to 3), as Gaussians."""
    modifier = item.modifiers.new(GROUP, "NODES")
    modifier.node_group = node_group(degree)
    if antialiased:
        set_input(modifier, FILTERED, value=True)
    if not item.data.materials:
        item.data.materials.append(material())


def modifier_of(item: bpy.types.Object) -> bpy.types.NodesModifier | None:
    """The modifier that shows this object's Gaussians."""
    for modifier in item.modifiers:
        if modifier.type == "NODES" and modifier.node_group and "orrery_build" in modifier.node_group:
            return modifier
    return None


def display(item: bpy.types.Object) -> str:
    """DRAWN or ELLIPSOIDS."""
    modifier = modifier_of(item)
    return ELLIPSOIDS if modifier is not None and input_of(modifier, PREVIEW) else DRAWN


def set_display(item: bpy.types.Object, what: str) -> None:
    """Choose how the viewport shows `item`."""
    modifier = modifier_of(item)
    if modifier is not None:
        set_input(modifier, PREVIEW, what == ELLIPSOIDS)


def input_of(modifier: bpy.types.NodesModifier, name: str) -> object:
    """The value of a modifier's input; None where its group has no such input."""
    socket = modifier.node_group.interface.items_tree.get(name)
    if socket is None:
        return None
    if hasattr(modifier, "properties"):  # from 5.2 on
        return getattr(modifier.properties.inputs, socket.identifier).value
    return modifier.get(socket.identifier, socket.default_value)


def set_input(modifier: bpy.types.NodesModifier, name: str, value: object) -> None:
    """Set a modifier's input, if its group has it."""
    socket = modifier.node_group.interface.items_tree.get(name)
    if socket is None:
        return
    if hasattr(modifier, "properties"):
        getattr(modifier.properties.inputs, socket.identifier).value = value
    else:
        modifier[socket.identifier] = value
    modifier.id_data.update_tag()


def node_group(degree: int) -> bpy.types.NodeTree:
    """The geometry-nodes group for harmonics of this degree; made once a file."""
    return finished(group_steps(degree))


def group_steps(degree: int) -> Iterator[None]:
    """The same in slices: at each new node Blender looks through the whole tree, 54 ms in all at degree 3."""
    name = GROUP if degree == 0 else f"{GROUP} SH{degree}"
    tree = current(bpy.data.node_groups, name, BUILD) or template.taken(name)
    if tree is None:
        tree = yield from _made_group(name, degree)
        template.keep(tree)
    yield
    return tree


def _made_group(name: str, degree: int) -> Iterator[None]:
    tree = bpy.data.node_groups.new(f"{name} (unfinished)", "GeometryNodeTree")
    tree.is_modifier = True
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    nodes = Nodes(tree)
    for title, words in (
        (PREVIEW, "Ellipsoids in the viewport, where the add-on does not draw the Gaussians"),
        (ANY_CAMERA, "Solid shapes instead of flat ones that face the camera: for panoramas and mirrors"),
        (ENCODED, "Mix colours in sRGB encoding, as splat viewers do; the view transform must be Raw"),
        (FILTERED, "The Gaussians were trained with Mip-Splatting's filter: those below a pixel get fainter"),
    ):
        socket = tree.interface.new_socket(title, in_out="INPUT", socket_type="NodeSocketBool")
        socket.description = words
    inputs = nodes.node("NodeGroupInput").outputs
    viewport = nodes.node("GeometryNodeIsViewport").outputs[0]
    shown = nodes.logic("AND", viewport, nodes.logic("NOT", inputs[PREVIEW]))
    bounds = nodes.group((yield from _bounds_tree()), inputs["Geometry"])

    camera = yield from camera_trees()
    encoded = yield from harmonics.color_tree(degree, camera)
    colored = yield from mixing.colored_tree(encoded)
    points = nodes.group(colored, inputs["Geometry"], inputs[ENCODED])
    flat = nodes.group((yield from billboards.flat_tree(camera)), points, inputs[FILTERED])
    solid = nodes.group((yield from _solid_tree(camera)), points, viewport)
    instances = nodes.node(
        "GeometryNodeSwitch",
        {"Switch": nodes.logic("OR", viewport, inputs[ANY_CAMERA]), "False": flat, "True": solid},
        input_type="GEOMETRY",
    ).outputs[0]
    yield
    whole = nodes.node(
        "GeometryNodeSwitch", {"Switch": shown, "False": instances, "True": bounds}, input_type="GEOMETRY"
    ).outputs[0]
    nodes.node("NodeGroupOutput", {"Geometry": whole})
    tree.name, tree["orrery_build"] = name, BUILD
    yield
    return tree


def _bounds_tree() -> Iterator[None]:
    """A triangle without area at each corner of the bounding box: the viewport frames the object by them, and
    draws nothing, while it marks single points."""

    def build(nodes: Nodes, geometry: bpy.types.NodeSocket) -> Iterator[None]:
        box = nodes.node("GeometryNodeBoundBox", {"Geometry": geometry}).outputs[0]
        dot = nodes.node("GeometryNodeMeshCircle", {"Vertices": 3, "Radius": 0.0}, fill_type="NGON").outputs[
            0
        ]
        yield
        dots = nodes.node("GeometryNodeInstanceOnPoints", {"Points": box, "Instance": dot}).outputs[0]
        return nodes.node("GeometryNodeRealizeInstances", {0: dots}).outputs[0]

    kind = "NodeSocketGeometry"
    return (yield from made_tree("Orrery Gaussians bounds", kind, build, (("Geometry", kind),)))


def _solid_tree(camera: CameraTrees) -> Iterator[None]:
    """From points to spheres, turned and scaled; the second input is whether a viewport shows them."""

    def build(nodes: Nodes, points: bpy.types.NodeSocket, viewport: bpy.types.NodeSocket) -> Iterator[None]:
        shell = nodes.node(
            "GeometryNodeSwitch",
            {"Switch": viewport, "False": SHELL, "True": VIEWPORT_SHELL},
            input_type="FLOAT",
        ).outputs[0]
        points = nodes.store(points, SHELL_SIZE, "FLOAT", shell)
        sphere = nodes.node("GeometryNodeMeshIcoSphere", {"Radius": 1.0, "Subdivisions": 3}).outputs["Mesh"]
        painted = nodes.node("GeometryNodeSetMaterial", {"Geometry": sphere, "Material": material()})
        yield
        # Scales whose squares hold the low-pass: what solid shapes can take of it.
        wide, _, _ = nodes.xyz(nodes.group(camera.low_pass))
        scale = nodes.attribute("scale", "FLOAT_VECTOR")
        squares = nodes.vector("MULTIPLY_ADD", scale, scale, wide)
        size = nodes.joined(*(nodes.math("SQRT", value) for value in nodes.xyz(squares)))
        return nodes.node(
            "GeometryNodeInstanceOnPoints",
            {
                "Points": points,
                "Instance": painted.outputs["Geometry"],
                "Rotation": nodes.attribute("rotation", "QUATERNION"),
                "Scale": nodes.vector("SCALE", size, shell),
            },
        ).outputs["Instances"]

    return (
        yield from made_tree(
            "Orrery Gaussians solid",
            "NodeSocketGeometry",
            build,
            (("Points", "NodeSocketGeometry"), ("Viewport", "NodeSocketBool")),
        )
    )


def material() -> bpy.types.Material:
    """The Cycles material of all Gaussians of a file."""
    return built_material(MATERIAL, BUILD, _paint)


def _paint(nodes: Nodes) -> None:
    geometry = nodes.node("ShaderNodeNewGeometry")
    shell = nodes.node("ShaderNodeAttribute", attribute_type="INSTANCER", attribute_name=SHELL_SIZE)
    # In the instance's own space the sphere has radius 1: times the shell gives standard deviations.
    point = nodes.vector("SCALE", nodes.node("ShaderNodeTexCoord").outputs["Object"], shell.outputs["Fac"])
    turned = nodes.node(
        "ShaderNodeVectorTransform",
        {0: geometry.outputs["Incoming"]},
        vector_type="VECTOR",
        convert_from="WORLD",
        convert_to="OBJECT",
    ).outputs[0]
    along = nodes.vector("DOT_PRODUCT", point, nodes.vector("NORMALIZE", turned), output="Value")
    squared = nodes.math(
        "SUBTRACT",
        nodes.vector("DOT_PRODUCT", point, point, output="Value"),
        nodes.math("MULTIPLY", along, along),
    )  # distance of the ray from the centre, squared, in standard deviations
    response = nodes.math("EXPONENT", nodes.math("MULTIPLY", squared, -0.5))
    base = nodes.node("ShaderNodeAttribute", attribute_type="INSTANCER", attribute_name="radiance:base")
    front = nodes.math("SUBTRACT", 1.0, geometry.outputs["Backfacing"])
    alpha = nodes.math("MULTIPLY", nodes.math("MULTIPLY", base.outputs["Alpha"], response), front)

    alpha = nodes.math("MINIMUM", alpha, 0.99)
    emission = nodes.node("ShaderNodeEmission", {"Color": mixing.emitted(nodes, alpha)})
    clear = nodes.node("ShaderNodeBsdfTransparent")
    mixed = nodes.node(
        "ShaderNodeMixShader",
        {0: alpha, 1: clear.outputs[0], 2: emission.outputs[0]},
    )
    nodes.node("ShaderNodeOutputMaterial", {"Surface": mixed.outputs[0]})
