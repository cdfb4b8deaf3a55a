"""Geometry nodes that follow the active camera, in the space of the object they are on.

The object's matrix may be any affine one: the camera's axes are carried into the object's space. The
camera's lens reaches the nodes by drivers, so the file needs no add-on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import bpy

from .node_kit import Nodes, made_tree

LOW_PASS = 0.3
"""Square pixels."""
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
class CameraTrees:
    """Node trees, each of one value a point.

    direction  unit vector from the eye to it; orthographic: the direction of sight
    center     x, y and the depth (positive) in the camera's space
    slope      x and y over the depth, the Jacobian's; 0 where all lines of sight are parallel
    low_pass   what is added to the covariance on the screen: xx, 0 and yy at this depth, square metres
    """

    direction: bpy.types.NodeTree
    center: bpy.types.NodeTree
    slope: bpy.types.NodeTree
    low_pass: bpy.types.NodeTree


def camera_trees() -> Iterator[None]:
    """Make `CameraTrees`, in slices."""
    vector = "NodeSocketVector"
    direction = yield from made_tree("Orrery Gaussians direction", vector, _direction)
    center = yield from made_tree("Orrery Gaussians centre", vector, _center)
    slope = yield from made_tree("Orrery Gaussians slope", vector, lambda nodes: _slope(nodes, center))
    low_pass = yield from made_tree(
        "Orrery Gaussians low-pass", vector, lambda nodes: _low_pass(nodes, center)
    )
    return CameraTrees(direction, center, slope, low_pass)


def camera_matrix(nodes: Nodes) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """Object from camera: the matrix and its location."""
    active = nodes.node("GeometryNodeInputActiveCamera").outputs[0]
    info = nodes.node("GeometryNodeObjectInfo", {"Object": active}, transform_space="RELATIVE").outputs
    return info["Transform"], info["Location"]


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


def _perspective(nodes: Nodes) -> bpy.types.NodeSocket:
    """1, or 0 for an orthographic camera."""
    return _driven(nodes, "Perspective", "1 if t == 0 else 0", ("t",))


def _direction(nodes: Nodes) -> Iterator[None]:
    matrix, eye = camera_matrix(nodes)
    sight = nodes.node("FunctionNodeTransformDirection", {0: (0.0, 0.0, -1.0), 1: matrix}).outputs[0]
    from_eye = nodes.vector("SUBTRACT", nodes.node("GeometryNodeInputPosition").outputs[0], eye)
    yield
    chosen = nodes.node(
        "GeometryNodeSwitch",
        {"Switch": _perspective(nodes), "False": sight, "True": from_eye},
        input_type="VECTOR",
    ).outputs[0]
    return nodes.vector("NORMALIZE", chosen)


def _center(nodes: Nodes) -> Iterator[None]:
    matrix, _ = camera_matrix(nodes)
    inverse = nodes.node("FunctionNodeInvertMatrix", {0: matrix}).outputs[0]
    position = nodes.node("GeometryNodeInputPosition").outputs[0]
    seen = nodes.node("FunctionNodeTransformPoint", {0: position, 1: inverse}).outputs[0]
    yield
    turned = nodes.vector("MULTIPLY", seen, (1.0, 1.0, -1.0))
    return nodes.vector("MAXIMUM", turned, (-1e30, -1e30, 1e-6))


def _slope(nodes: Nodes, center: bpy.types.NodeTree) -> Iterator[None]:
    x, y, away = nodes.xyz(nodes.group(center))
    share = nodes.math("DIVIDE", _perspective(nodes), away)
    yield
    return nodes.vector("SCALE", nodes.joined(x, y, 0.0), share)


def _low_pass(nodes: Nodes, center: bpy.types.NodeTree) -> Iterator[None]:
    _, _, away = nodes.xyz(nodes.group(center))
    far = nodes.math("MULTIPLY_ADD", nodes.math("SUBTRACT", away, 1.0), _perspective(nodes), 1.0)
    yield
    wide = nodes.math("MULTIPLY", _driven(nodes, "Pixel", _PIXEL, tuple(_LENS)), far)
    tall = nodes.math("MULTIPLY", _driven(nodes, "Tall", "j / i", ("i", "j")), wide)
    side = nodes.joined(wide, 0.0, tall)
    return nodes.vector("SCALE", nodes.vector("MULTIPLY", side, side), LOW_PASS)
