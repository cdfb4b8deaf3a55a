"""Gaussians as flat instances that face the camera: EWA splatting (Zwicker 2001) in geometry nodes.

A Gaussian at depth d is projected to the plane through its centre, perpendicular to the line of sight, where
it is again a Gaussian, with the covariance S = sum of p_j p_j^T over its three axes: p_j = (x, y) + z slope,
for an axis (x, y, z) in the camera's space and the slope x/d, y/d of the centre (the Jacobian's first order).
The low-pass of 0.3 square pixels is added to S. With its Cholesky factor S = L L^T, the instance is a
square that L makes the ellipse: the material needs no more than the distance from the square's middle.
All planes are parallel, so Cycles meets them in the order of the centres' depths, as a splat viewer
blends them. Where the file was made with Mip-Splatting's 2D filter (Yu 2024), a Gaussian that the low-pass
widens gets fainter: its opacity is multiplied with sqrt(det S before / det S after).
"""

from collections.abc import Iterator

import bpy

from . import mixing
from .camera_nodes import CameraTrees, camera_matrix
from .node_kit import Nodes, built_material, made_tree

MATERIAL = "Orrery Gaussian Flat"
BUILD = 4
REACH = "orrery_reach"
"""Half the side of the square, standard deviations: where alpha is 1/255."""
OPACITY = "orrery_opacity"


def flat_tree(camera: CameraTrees) -> Iterator[None]:
    """The tree from points, which carry the layout's attributes and those of `mixing`, to flat instances.

    Its second input is a switch: Mip-Splatting's filter.
    """
    vector = "NodeSocketVector"
    axis = yield from made_tree(
        "Orrery Gaussians axis", vector, lambda nodes, along: _axis(nodes, along, camera), (("Axis", vector),)
    )
    ellipse = yield from made_tree("Orrery Gaussians ellipse", vector, lambda nodes: _ellipse(nodes, axis))
    fainter = yield from made_tree(
        "Orrery Gaussians filter", "NodeSocketFloat", lambda nodes: _fainter(nodes, ellipse, camera)
    )
    matrix = yield from made_tree(
        "Orrery Gaussians facing", "NodeSocketMatrix", lambda nodes: _matrix(nodes, ellipse, camera)
    )

    def build(nodes: Nodes, points: bpy.types.NodeSocket, filtered: bpy.types.NodeSocket) -> Iterator[None]:
        factor = nodes.node(
            "GeometryNodeSwitch",
            {"Switch": filtered, "False": 1.0, "True": nodes.group(fainter)},
            input_type="FLOAT",
        ).outputs[0]
        opacity = nodes.math("MULTIPLY", mixing.opacity(nodes), factor)
        points = nodes.store(points, OPACITY, "FLOAT", opacity)
        power = nodes.math("LOGARITHM", nodes.math("MULTIPLY", opacity, 255.0), 2.718281828)
        reach = nodes.math("SQRT", nodes.math("MULTIPLY", nodes.math("MAXIMUM", power, 0.0), 2.0))
        points = nodes.store(points, REACH, "FLOAT", reach)
        yield
        square = nodes.node("GeometryNodeMeshGrid", {0: 2.0, 1: 2.0, 2: 2, 3: 2}).outputs["Mesh"]
        painted = nodes.node("GeometryNodeSetMaterial", {"Geometry": square, "Material": material()}).outputs[
            0
        ]
        made = nodes.node("GeometryNodeInstanceOnPoints", {"Points": points, "Instance": painted}).outputs[0]
        return nodes.node(
            "GeometryNodeSetInstanceTransform", {"Instances": made, "Transform": nodes.group(matrix)}
        ).outputs[0]

    return (
        yield from made_tree(
            "Orrery Gaussians flat",
            "NodeSocketGeometry",
            build,
            (("Points", "NodeSocketGeometry"), ("Antialiased", "NodeSocketBool")),
        )
    )


def _axis(nodes: Nodes, axis: bpy.types.NodeSocket, camera: CameraTrees) -> Iterator[None]:
    """xx, xy and yy of p p^T, for one axis of the Gaussian (in its own frame) seen on the plane."""
    turned = nodes.node("FunctionNodeRotateVector", {0: axis, 1: nodes.attribute("rotation", "QUATERNION")})
    inverse = nodes.node("FunctionNodeInvertMatrix", {0: camera_matrix(nodes)[0]}).outputs[0]
    seen = nodes.node("FunctionNodeTransformDirection", {0: turned.outputs[0], 1: inverse}).outputs[0]
    _, _, z = nodes.xyz(seen)
    yield
    px, py, _ = nodes.xyz(nodes.vector("ADD", seen, nodes.vector("SCALE", nodes.group(camera.slope), z)))
    return nodes.vector("MULTIPLY", nodes.joined(px, px, py), nodes.joined(px, py, py))


def _ellipse(nodes: Nodes, axis: bpy.types.NodeTree) -> Iterator[None]:
    """xx, xy and yy of S without low-pass."""
    x, y, z = nodes.xyz(nodes.attribute("scale", "FLOAT_VECTOR"))
    parts = [
        nodes.group(axis, nodes.joined(*along)) for along in ((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, z))
    ]
    yield
    return nodes.vector("ADD", nodes.vector("ADD", parts[0], parts[1]), parts[2])


def _determinant(nodes: Nodes, ellipse: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    xx, xy, yy = nodes.xyz(ellipse)
    return nodes.math("SUBTRACT", nodes.math("MULTIPLY", xx, yy), nodes.math("MULTIPLY", xy, xy))


def _fainter(nodes: Nodes, ellipse: bpy.types.NodeTree, camera: CameraTrees) -> Iterator[None]:
    """sqrt(det S before / det S after the low-pass)."""
    seen = nodes.group(ellipse)
    before = nodes.math("MAXIMUM", _determinant(nodes, seen), 0.0)
    yield
    after = _determinant(nodes, nodes.vector("ADD", seen, nodes.group(camera.low_pass)))
    return nodes.math("SQRT", nodes.math("DIVIDE", before, after))


def _matrix(nodes: Nodes, ellipse: bpy.types.NodeTree, camera: CameraTrees) -> Iterator[None]:
    """The matrix from the square to the object's space, by way of the camera's."""
    math = nodes.math
    xx, xy, yy = nodes.xyz(nodes.vector("ADD", nodes.group(ellipse), nodes.group(camera.low_pass)))
    first = math("SQRT", math("MAXIMUM", xx, 1e-20))
    below = math("DIVIDE", xy, first)
    second = math("SQRT", math("MAXIMUM", math("SUBTRACT", yy, math("MULTIPLY", below, below)), 1e-20))
    yield
    reach = nodes.attribute(REACH, "FLOAT")
    x, y, away = nodes.xyz(nodes.group(camera.center))
    in_camera = nodes.node(
        "FunctionNodeCombineMatrix",
        {
            "Column 1 Row 1": math("MULTIPLY", first, reach),
            "Column 1 Row 2": math("MULTIPLY", below, reach),
            "Column 2 Row 2": math("MULTIPLY", second, reach),
            "Column 4 Row 1": x,
            "Column 4 Row 2": y,
            "Column 4 Row 3": math("MULTIPLY", away, -1.0),
        },
    ).outputs[0]
    matrix, _ = camera_matrix(nodes)
    return nodes.node("FunctionNodeMatrixMultiply", {0: matrix, 1: in_camera}).outputs[0]


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
