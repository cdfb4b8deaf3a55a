"""Real spherical harmonics 1 to 15 in the order and with the signs of 3D Gaussian Splatting (Kerbl 2023): as
numbers, and as geometry nodes that work out what a Gaussian looks like from the camera."""

from collections.abc import Iterator

import bpy
import numpy as np

from .camera_nodes import CameraTrees
from .node_kit import Nodes, made_tree

SH_C0 = 0.28209479177387814
C1, C2A, C2B, C2C = 0.4886025119029199, 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
C3A, C3B, C3C = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
C3D, C3E = 0.3731763325901154, 1.445305721320277
BASIS = (
    ("y", -C1),
    ("z", C1),
    ("x", -C1),
    ("xy", C2A),
    ("yz", -C2A),
    ("", (-C2B, -C2B, 2 * C2B)),
    ("xz", -C2A),
    ("", (C2C, -C2C, 0.0)),
    ("y", (-3 * C3A, C3A, 0.0)),
    ("xyz", C3B),
    ("y", (C3C, C3C, -4 * C3C)),
    ("z", (-3 * C3D, -3 * C3D, 2 * C3D)),
    ("x", (C3C, C3C, -4 * C3C)),
    ("z", (C3E, -C3E, 0.0)),
    ("x", (-C3A, 3 * C3A, 0.0)),
)
"""Polynomials of the unit direction from camera to splat: a monomial times a number, or times the sum of
x^2, y^2 and z^2 with three."""

_TOGETHER = 4
"""Harmonics in a node tree: small trees are made faster."""


def values_of(directions: np.ndarray, coefficients: int) -> np.ndarray:
    """(V, 3) unit -> (V, K) values of the harmonics."""
    directions = np.asarray(directions, np.float64)
    columns = [np.full(len(directions), SH_C0)]
    for monomial, factor in BASIS[: coefficients - 1]:
        column = directions**2 @ factor if isinstance(factor, tuple) else np.full(len(directions), factor)
        for name in monomial:
            column = column * directions[:, "xyz".index(name)]
        columns.append(column)
    return np.stack(columns, axis=1)


def color_tree(degree: int, camera: CameraTrees) -> Iterator[None]:
    """The tree of (r, g, b) as a vector, sRGB-encoded, at least 0."""
    parts = []
    count = (degree + 1) ** 2 - 1
    for start in range(0, count, _TOGETHER):
        indices = range(start, min(start + _TOGETHER, count))
        name = f"Orrery Gaussians harmonics {indices[0] + 1} to {indices[-1] + 1}"
        parts.append(
            (
                yield from made_tree(
                    name, "NodeSocketVector", lambda nodes, which=indices: _part(nodes, which, camera)
                )
            )
        )

    def build(nodes: Nodes) -> Iterator[None]:
        base = nodes.attribute("radiance:base", "FLOAT_COLOR")
        color = nodes.vector("MULTIPLY_ADD", base, (SH_C0,) * 3, (0.5,) * 3)
        for part in parts:
            color = nodes.vector("ADD", color, nodes.group(part))
        yield
        return nodes.vector("MAXIMUM", color, (0.0,) * 3)

    return (yield from made_tree(f"Orrery Gaussians colour SH{degree}", "NodeSocketVector", build))


def _part(nodes: Nodes, indices: range, camera: CameraTrees) -> Iterator[None]:
    """What some harmonics add to the colour."""
    ray = nodes.group(camera.direction)
    monomials = dict(zip("xyz", nodes.xyz(ray), strict=True))
    squares = nodes.vector("MULTIPLY", ray, ray)
    sums: dict[tuple, bpy.types.NodeSocket] = {}
    total = (0.0, 0.0, 0.0)
    for index in indices:
        monomial, factor = BASIS[index]
        if isinstance(factor, tuple):
            if factor not in sums:
                sums[factor] = nodes.vector("DOT_PRODUCT", squares, factor, output="Value")
            factor = sums[factor]
        weight = factor
        if monomial:
            weight = nodes.math("MULTIPLY", _product(nodes, monomials, monomial), factor)
        total = nodes.vector(
            "MULTIPLY_ADD", nodes.attribute(f"radiance:sh_{index}", "FLOAT_VECTOR"), weight, total
        )
        yield
    return total


def _product(nodes: Nodes, monomials: dict[str, bpy.types.NodeSocket], name: str) -> bpy.types.NodeSocket:
    """The socket of a monomial such as "xy", made once."""
    if name not in monomials:
        monomials[name] = nodes.math("MULTIPLY", _product(nodes, monomials, name[:-1]), monomials[name[-1]])
    return monomials[name]
