"""Gaussians as flat instances that face the camera: EWA splatting (Zwicker 2001) in geometry nodes.

A Gaussian at depth d is projected to the plane through its centre, perpendicular to the line of sight, where
it is again a Gaussian, with the covariance S = sum of p_j p_j^T over its three axes: p_j = (x, y) + z slope,
for an axis (x, y, z) in the camera's space and the slope x/d, y/d of the centre (the Jacobian's first order).
The low-pass of 0.3 square pixels is added to S. With its Cholesky factor S = L L^T, the instance is a
square that L makes the ellipse: the material needs no more than the distance from the square's middle.
All planes are parallel, so Cycles meets them in the order of the centres' depths, as a splat viewer
blends them.

The object's matrix may be any affine one: the camera's axes are carried into the object's space.
The camera's lens reaches the nodes by drivers, so the file needs no add-on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import bpy

from .node_kit import Nodes, built_material

MATERIAL = "Orrery Gaussian Flat"
BUILD = 1
REACH = "orrery_reach"
"""Half the side of the square, standard deviations: where alpha is 1/255."""
LOW_PASS = 0.3
_SIDE = "(max(w, h) if f == 0 else (w if f == 1 else h)) * p / 100"
_PIXEL = f"(2 * tan(a / 2) if t == 0 else o) / ({_SIDE})"
_LENS = {
    "a": "camera.data.angle",
    "o": "camera.data.ortho_scale",
    "t": "camera.data.type",
    "f": "camera.data.sensor_fit",
    "w": "render.resolution_x",
    "h": "render.resolution_y",
    "p": "render.resolution_percentage",
}


@dataclass(frozen=True)
class Camera:
    """Sockets: the active camera in the object's space.

    object_from_camera, camera_from_object  matrices; eye, sight (looks along it) vectors
    perspective  1 or 0 (orthographic)
    pixel        metres across a pixel, one metre away or (orthographic) anywhere
    """

    object_from_camera: bpy.types.NodeSocket
    camera_from_object: bpy.types.NodeSocket
    eye: bpy.types.NodeSocket
    sight: bpy.types.NodeSocket
    perspective: bpy.types.NodeSocket
    pixel: bpy.types.NodeSocket


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
        _driven(nodes, "Pixel", _PIXEL, tuple(_LENS)),
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


def instances(nodes: Nodes, points: bpy.types.NodeSocket) -> Iterator[None]:
    """The flat instances of `points`, which carry the layout's attributes; in slices."""
    opacity = nodes.node(
        "FunctionNodeSeparateColor", {0: nodes.attribute("radiance:base", "FLOAT_COLOR")}, mode="RGB"
    ).outputs["Alpha"]
    squared = nodes.math(
        "MULTIPLY", nodes.math("LOGARITHM", nodes.math("MULTIPLY", opacity, 255.0), 2.718281828), 2.0
    )
    reach = nodes.math("SQRT", nodes.math("MAXIMUM", squared, 0.0))
    points = nodes.store(points, REACH, "FLOAT", reach)

    square = nodes.node("GeometryNodeMeshGrid", {0: 2.0, 1: 2.0, 2: 2, 3: 2}).outputs["Mesh"]
    painted = nodes.node("GeometryNodeSetMaterial", {"Geometry": square, "Material": material()}).outputs[0]
    made = nodes.node("GeometryNodeInstanceOnPoints", {"Points": points, "Instance": painted}).outputs[0]
    yield
    matrix = yield from nodes.nested("Orrery Gaussians facing", "NodeSocketMatrix", _matrix)
    return nodes.node("GeometryNodeSetInstanceTransform", {"Instances": made, "Transform": matrix}).outputs[0]


def widened(nodes: Nodes) -> Iterator[None]:
    """The socket of scales whose squares hold the low-pass: what the solid shapes can take of it."""
    seen = camera(nodes)
    *_, away = _seen_center(nodes, nodes.node("GeometryNodeInputPosition").outputs[0], seen)
    low_pass = _low_pass(nodes, away, seen)
    everywhere = nodes.node("ShaderNodeCombineXYZ", dict.fromkeys(range(3), low_pass)).outputs[0]
    scale = nodes.attribute("scale", "FLOAT_VECTOR")
    squares = nodes.vector("MULTIPLY_ADD", scale, scale, everywhere)
    yield
    roots = [nodes.math("SQRT", value) for value in nodes.node("ShaderNodeSeparateXYZ", {0: squares}).outputs]
    return nodes.node("ShaderNodeCombineXYZ", dict(enumerate(roots))).outputs[0]


def _seen_center(
    nodes: Nodes, position: bpy.types.NodeSocket, seen: Camera
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """x, y and the depth (positive) of each point in the camera's space."""
    center = nodes.node("FunctionNodeTransformPoint", {0: position, 1: seen.camera_from_object}).outputs[0]
    x, y, z = nodes.node("ShaderNodeSeparateXYZ", {0: center}).outputs
    return x, y, nodes.math("MAXIMUM", nodes.math("MULTIPLY", z, -1.0), 1e-6)


def _low_pass(nodes: Nodes, away: bpy.types.NodeSocket, seen: Camera) -> bpy.types.NodeSocket:
    """0.3 square pixels, in square metres at this depth."""
    far = nodes.math("MULTIPLY_ADD", nodes.math("SUBTRACT", away, 1.0), seen.perspective, 1.0)
    width = nodes.math("MULTIPLY", seen.pixel, far)
    return nodes.math("MULTIPLY", nodes.math("MULTIPLY", width, width), LOW_PASS)


def _matrix(nodes: Nodes) -> Iterator[None]:
    """The socket of the matrix from the square to the object's space."""
    seen = camera(nodes)
    math, vector = nodes.math, nodes.vector
    position = nodes.node("GeometryNodeInputPosition").outputs[0]
    x, y, away = _seen_center(nodes, position, seen)
    # The slope of the line of sight; 0 where all of them are parallel.
    share = math("DIVIDE", seen.perspective, away)
    slope = nodes.node(
        "ShaderNodeCombineXYZ", {0: math("MULTIPLY", x, share), 1: math("MULTIPLY", y, share), 2: 0.0}
    ).outputs[0]
    scales = nodes.node("ShaderNodeSeparateXYZ", {0: nodes.attribute("scale", "FLOAT_VECTOR")}).outputs
    turn = nodes.attribute("rotation", "QUATERNION")
    xx = xy = yy = None
    for axis, scale in enumerate(scales):
        unit = nodes.node("ShaderNodeCombineXYZ", {axis: scale}).outputs[0]
        turned = nodes.node("FunctionNodeRotateVector", {0: unit, 1: turn}).outputs[0]
        seen_axis = nodes.node(
            "FunctionNodeTransformDirection", {0: turned, 1: seen.camera_from_object}
        ).outputs[0]
        depth = nodes.node("ShaderNodeSeparateXYZ", {0: seen_axis}).outputs["Z"]
        on_plane = vector("ADD", seen_axis, vector("SCALE", slope, depth))
        px, py, _ = nodes.node("ShaderNodeSeparateXYZ", {0: on_plane}).outputs
        if xx is None:
            low_pass = _low_pass(nodes, away, seen)
            xx, xy, yy = low_pass, 0.0, low_pass
        xx = math("MULTIPLY_ADD", px, px, xx)
        xy = math("MULTIPLY_ADD", px, py, xy)
        yy = math("MULTIPLY_ADD", py, py, yy)
        yield
    first = math("SQRT", math("MAXIMUM", xx, 1e-20))
    below = math("DIVIDE", xy, first)
    second = math("SQRT", math("MAXIMUM", math("SUBTRACT", yy, math("MULTIPLY", below, below)), 1e-20))
    reach = nodes.attribute(REACH, "FLOAT")
    columns = {}
    for number, (right, up, back) in enumerate(((first, below, 0.0), (0.0, second, 0.0), (0.0, 0.0, 1.0)), 1):
        column = nodes.node("ShaderNodeCombineXYZ", {0: right, 1: up, 2: back}).outputs[0]
        if number < 3:
            column = vector("SCALE", column, reach)
        carried = nodes.node("FunctionNodeTransformDirection", {0: column, 1: seen.object_from_camera})
        for row, value in enumerate(nodes.node("ShaderNodeSeparateXYZ", {0: carried.outputs[0]}).outputs, 1):
            columns[f"Column {number} Row {row}"] = value
        yield
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
    base = nodes.node("ShaderNodeAttribute", attribute_type="INSTANCER", attribute_name="radiance:base")
    alpha = nodes.math("MINIMUM", nodes.math("MULTIPLY", base.outputs["Alpha"], response), 0.999)
    alpha = nodes.math("MULTIPLY", alpha, nodes.math("GREATER_THAN", alpha, 1 / 255))
    color = nodes.node("ShaderNodeAttribute", attribute_type="INSTANCER", attribute_name="orrery_color")
    emission = nodes.node("ShaderNodeEmission", {"Color": color.outputs["Color"]})
    mixed = nodes.node(
        "ShaderNodeMixShader",
        {0: alpha, 1: nodes.node("ShaderNodeBsdfTransparent").outputs[0], 2: emission.outputs[0]},
    )
    nodes.node("ShaderNodeOutputMaterial", {"Surface": mixed.outputs[0]})
