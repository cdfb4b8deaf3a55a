"""Gaussians as flat instances that face the camera: EWA splatting (Zwicker 2001) in geometry nodes.

A Gaussian at depth d is projected to the plane through its centre, perpendicular to the line of sight, where
it is again a Gaussian, with the covariance S = sum of p_j p_j^T over its three axes: p_j = (x, y) + z slope,
for an axis (x, y, z) in the camera's space and the slope x/d, y/d of the centre (the Jacobian's first order).
The low-pass of 0.3 square pixels is added to S. With its Cholesky factor S = L L^T, the instance is a
square that L makes the ellipse: the material needs no more than the distance from the square's middle.
All planes are parallel, so Cycles meets them in the order of the centres' depths, as a splat viewer
blends them. Where the file was made with Mip-Splatting's 2D filter (Yu 2024), a Gaussian that the low-pass
widens gets fainter: its opacity is multiplied with sqrt(det S before / det S after).

The object's matrix may be any affine one: the camera's axes are carried into the object's space.
The camera's lens reaches the nodes by drivers, so the file needs no add-on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import bpy

from . import mixing
from .node_kit import Nodes, built_material, value_tree

MATERIAL = "Orrery Gaussian Flat"
BUILD = 2
REACH = "orrery_reach"
"""Half the side of the square, standard deviations: where alpha is 1/255."""
OPACITY = "orrery_opacity"
LOW_PASS = 0.3
_SIDE = "(w if f == 1 or f == 0 and w * i >= h * j else h * j / i) * p / 100"
"""Pixels, as wide as one, along the side that the sensor fits."""
_PIXEL = f"(2 * tan(a / 2) if t == 0 else o) / ({_SIDE})"
_LENS = {
    "a": "camera.data.angle",
    "o": "camera.data.ortho_scale",
    "t": "camera.data.type",
    "f": "camera.data.sensor_fit",
    "w": "render.resolution_x",
    "h": "render.resolution_y",
    "p": "render.resolution_percentage",
    "i": "render.pixel_aspect_x",
    "j": "render.pixel_aspect_y",
}


@dataclass(frozen=True)
class Camera:
    """Sockets: the active camera in the object's space.

    object_from_camera, camera_from_object  matrices; eye, sight (looks along it) vectors
    perspective  1 or 0 (orthographic)
    """

    object_from_camera: bpy.types.NodeSocket
    camera_from_object: bpy.types.NodeSocket
    eye: bpy.types.NodeSocket
    sight: bpy.types.NodeSocket
    perspective: bpy.types.NodeSocket


def camera(nodes: Nodes) -> Camera:
    """Nodes that follow the active camera of the scene."""
    active = nodes.node("GeometryNodeInputActiveCamera").outputs[0]
    info = nodes.node("GeometryNodeObjectInfo", {"Object": active}, transform_space="RELATIVE").outputs
    matrix = info["Transform"]
    sight = nodes.node("FunctionNodeTransformDirection", {0: (0.0, 0.0, -1.0), 1: matrix}).outputs[0]
    return Camera(
        matrix,
        nodes.node("FunctionNodeInvertMatrix", {0: matrix}).outputs[0],
        info["Location"],
        sight,
        _driven(nodes, "Perspective", "1 if t == 0 else 0", ("t",)),
    )


def _driven(nodes: Nodes, name: str, expression: str, names: tuple[str, ...]) -> bpy.types.NodeSocket:
    """A number that follows the camera and the size of the render of the scene that is evaluated."""
    node = nodes.node("ShaderNodeValue", name=name, label=name)
    driver = node.outputs[0].driver_add("default_value").driver
    for short in names:
        variable = driver.variables.new()
        variable.name, variable.type = short, "CONTEXT_PROP"
        variable.targets[0].context_property = "ACTIVE_SCENE"
        variable.targets[0].data_path = _LENS[short]
    driver.expression = expression
    return node.outputs[0]


@dataclass(frozen=True)
class Seen:
    """Node trees of one vector each, xx, xy and yy on the plane, square metres.

    ellipse   S of each Gaussian, as it is
    low_pass  what the low-pass adds to it
    """

    ellipse: bpy.types.NodeTree
    low_pass: bpy.types.NodeTree


def seen_trees() -> Iterator[None]:
    """Make `Seen`, in slices."""
    ellipse = yield from value_tree("Orrery Gaussians ellipse", "NodeSocketVector", _ellipse)
    low_pass = yield from value_tree("Orrery Gaussians low-pass", "NodeSocketVector", _low_pass)
    return Seen(ellipse, low_pass)


def instances(
    nodes: Nodes, points: bpy.types.NodeSocket, seen: Seen, filtered: bpy.types.NodeSocket
) -> Iterator[None]:
    """The flat instances of `points`, which carry the layout's attributes; in slices.

    filtered  a switch: Mip-Splatting's filter
    """
    fainter = yield from nodes.nested(
        "Orrery Gaussians filter", "NodeSocketFloat", lambda inner: _fainter(inner, seen)
    )
    opacity = nodes.node(
        "FunctionNodeSeparateColor", {0: nodes.attribute("radiance:base", "FLOAT_COLOR")}, mode="RGB"
    ).outputs["Alpha"]
    factor = nodes.node(
        "GeometryNodeSwitch", {"Switch": filtered, "False": 1.0, "True": fainter}, input_type="FLOAT"
    ).outputs[0]
    opacity = nodes.math("MULTIPLY", opacity, factor)
    points = nodes.store(points, OPACITY, "FLOAT", opacity)
    squared = nodes.math(
        "MULTIPLY", nodes.math("LOGARITHM", nodes.math("MULTIPLY", opacity, 255.0), 2.718281828), 2.0
    )
    reach = nodes.math("SQRT", nodes.math("MAXIMUM", squared, 0.0))
    points = nodes.store(points, REACH, "FLOAT", reach)

    square = nodes.node("GeometryNodeMeshGrid", {0: 2.0, 1: 2.0, 2: 2, 3: 2}).outputs["Mesh"]
    painted = nodes.node("GeometryNodeSetMaterial", {"Geometry": square, "Material": material()}).outputs[0]
    made = nodes.node("GeometryNodeInstanceOnPoints", {"Points": points, "Instance": painted}).outputs[0]
    yield
    matrix = yield from nodes.nested(
        "Orrery Gaussians facing", "NodeSocketMatrix", lambda inner: _matrix(inner, seen)
    )
    return nodes.node("GeometryNodeSetInstanceTransform", {"Instances": made, "Transform": matrix}).outputs[0]


def widened(nodes: Nodes, seen: Seen) -> Iterator[None]:
    """The socket of scales whose squares hold the low-pass: what the solid shapes can take of it."""
    low_pass, _, _ = nodes.node("ShaderNodeSeparateXYZ", {0: nodes.group(seen.low_pass)}).outputs
    everywhere = nodes.node("ShaderNodeCombineXYZ", dict.fromkeys(range(3), low_pass)).outputs[0]
    scale = nodes.attribute("scale", "FLOAT_VECTOR")
    squares = nodes.vector("MULTIPLY_ADD", scale, scale, everywhere)
    yield
    roots = [nodes.math("SQRT", value) for value in nodes.node("ShaderNodeSeparateXYZ", {0: squares}).outputs]
    return nodes.node("ShaderNodeCombineXYZ", dict(enumerate(roots))).outputs[0]


def _seen_center(
    nodes: Nodes, view: Camera
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """x, y and the depth (positive) of each point in the camera's space."""
    position = nodes.node("GeometryNodeInputPosition").outputs[0]
    center = nodes.node("FunctionNodeTransformPoint", {0: position, 1: view.camera_from_object}).outputs[0]
    x, y, z = nodes.node("ShaderNodeSeparateXYZ", {0: center}).outputs
    return x, y, nodes.math("MAXIMUM", nodes.math("MULTIPLY", z, -1.0), 1e-6)


def _low_pass(nodes: Nodes) -> Iterator[None]:
    """0.3 square pixels at each point's depth; pixels may be taller than wide."""
    view = camera(nodes)
    *_, away = _seen_center(nodes, view)
    far = nodes.math("MULTIPLY_ADD", nodes.math("SUBTRACT", away, 1.0), view.perspective, 1.0)
    yield
    wide = nodes.math("MULTIPLY", _driven(nodes, "Pixel", _PIXEL, tuple(_LENS)), far)
    tall = nodes.math("MULTIPLY", _driven(nodes, "Tall", "j / i", ("i", "j")), wide)
    squares = [nodes.math("MULTIPLY", nodes.math("MULTIPLY", side, side), LOW_PASS) for side in (wide, tall)]
    return nodes.node("ShaderNodeCombineXYZ", {0: squares[0], 1: 0.0, 2: squares[1]}).outputs[0]


def _ellipse(nodes: Nodes) -> Iterator[None]:
    """xx, xy and yy of S without low-pass."""
    view = camera(nodes)
    math, vector = nodes.math, nodes.vector
    x, y, away = _seen_center(nodes, view)
    # The slope of the line of sight; 0 where all of them are parallel.
    share = math("DIVIDE", view.perspective, away)
    slope = nodes.node(
        "ShaderNodeCombineXYZ", {0: math("MULTIPLY", x, share), 1: math("MULTIPLY", y, share), 2: 0.0}
    ).outputs[0]
    scales = nodes.node("ShaderNodeSeparateXYZ", {0: nodes.attribute("scale", "FLOAT_VECTOR")}).outputs
    turn = nodes.attribute("rotation", "QUATERNION")
    total = (0.0, 0.0, 0.0)
    for axis, scale in enumerate(scales):
        unit = nodes.node("ShaderNodeCombineXYZ", {axis: scale}).outputs[0]
        turned = nodes.node("FunctionNodeRotateVector", {0: unit, 1: turn}).outputs[0]
        seen_axis = nodes.node(
            "FunctionNodeTransformDirection", {0: turned, 1: view.camera_from_object}
        ).outputs[0]
        depth = nodes.node("ShaderNodeSeparateXYZ", {0: seen_axis}).outputs["Z"]
        px, py, _ = nodes.node(
            "ShaderNodeSeparateXYZ", {0: vector("ADD", seen_axis, vector("SCALE", slope, depth))}
        ).outputs
        left = nodes.node("ShaderNodeCombineXYZ", {0: px, 1: px, 2: py}).outputs[0]
        right = nodes.node("ShaderNodeCombineXYZ", {0: px, 1: py, 2: py}).outputs[0]
        total = vector("MULTIPLY_ADD", left, right, total)
        yield
    return total


def _determinant(nodes: Nodes, ellipse: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    xx, xy, yy = nodes.node("ShaderNodeSeparateXYZ", {0: ellipse}).outputs
    return nodes.math("SUBTRACT", nodes.math("MULTIPLY", xx, yy), nodes.math("MULTIPLY", xy, xy))


def _fainter(nodes: Nodes, seen: Seen) -> Iterator[None]:
    """sqrt(det S before / det S after the low-pass)."""
    ellipse = nodes.group(seen.ellipse)
    before = nodes.math("MAXIMUM", _determinant(nodes, ellipse), 0.0)
    yield
    after = _determinant(nodes, nodes.vector("ADD", ellipse, nodes.group(seen.low_pass)))
    return nodes.math("SQRT", nodes.math("DIVIDE", before, after))


def _matrix(nodes: Nodes, seen: Seen) -> Iterator[None]:
    """The socket of the matrix from the square to the object's space."""
    view = camera(nodes)
    math, vector = nodes.math, nodes.vector
    whole = vector("ADD", nodes.group(seen.ellipse), nodes.group(seen.low_pass))
    xx, xy, yy = nodes.node("ShaderNodeSeparateXYZ", {0: whole}).outputs
    first = math("SQRT", math("MAXIMUM", xx, 1e-20))
    below = math("DIVIDE", xy, first)
    second = math("SQRT", math("MAXIMUM", math("SUBTRACT", yy, math("MULTIPLY", below, below)), 1e-20))
    yield
    reach = nodes.attribute(REACH, "FLOAT")
    columns = {}
    for number, (right, up, back) in enumerate(((first, below, 0.0), (0.0, second, 0.0), (0.0, 0.0, 1.0)), 1):
        column = nodes.node("ShaderNodeCombineXYZ", {0: right, 1: up, 2: back}).outputs[0]
        if number < 3:
            column = vector("SCALE", column, reach)
        carried = nodes.node("FunctionNodeTransformDirection", {0: column, 1: view.object_from_camera})
        for row, value in enumerate(nodes.node("ShaderNodeSeparateXYZ", {0: carried.outputs[0]}).outputs, 1):
            columns[f"Column {number} Row {row}"] = value
        yield
    position = nodes.node("GeometryNodeInputPosition").outputs[0]
    for row, value in enumerate(nodes.node("ShaderNodeSeparateXYZ", {0: position}).outputs, 1):
        columns[f"Column 4 Row {row}"] = value
    return nodes.node("FunctionNodeCombineMatrix", columns).outputs[0]


def material() -> bpy.types.Material:
    """The material of all flat Gaussians of a file."""
    return built_material(MATERIAL, BUILD, _paint)


def _paint(nodes: Nodes) -> None:
    place = nodes.node("ShaderNodeTexCoord").outputs["Object"]
    reach = nodes.node("ShaderNodeAttribute", attribute_type="INSTANCER", attribute_name=REACH)
    deviations = nodes.vector("SCALE", place, reach.outputs["Fac"])
    squared = nodes.vector("DOT_PRODUCT", deviations, deviations, output="Value")
    response = nodes.math("EXPONENT", nodes.math("MULTIPLY", squared, -0.5))
    opacity = nodes.node("ShaderNodeAttribute", attribute_type="INSTANCER", attribute_name=OPACITY)
    alpha = nodes.math("MINIMUM", nodes.math("MULTIPLY", opacity.outputs["Fac"], response), 0.999)
    alpha = nodes.math("MULTIPLY", alpha, nodes.math("GREATER_THAN", alpha, 1 / 255))
    emission = nodes.node("ShaderNodeEmission", {"Color": mixing.emitted(nodes, alpha)})
    mixed = nodes.node(
        "ShaderNodeMixShader",
        {0: alpha, 1: nodes.node("ShaderNodeBsdfTransparent").outputs[0], 2: emission.outputs[0]},
    )
    nodes.node("ShaderNodeOutputMaterial", {"Surface": mixed.outputs[0]})
