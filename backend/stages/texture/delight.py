"""Takes the smooth part of the lighting out of the base colour, and guesses one roughness.

Neither can be known from one fixed lighting: a ball painted light above and dark below looks like a
grey one lit from above. What is assumed: the light is white and far away (Ramamoorthi and Hanrahan
2001: nine harmonics of the normal hold nearly all diffuse shading), and paint changes colour at few
places, while shading changes with the normal everywhere (Land and McCann's retinex, 1971, on the surface).
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.mesh_render import vertex_normals
from backend.pipeline.values import ROUGHNESS, Mesh, Views
from backend.stages.texture.atlas import Texels
from shared_protocol.conventions import linear_from_srgb, srgb_from_linear

_SAMPLES = 6_000
_NEIGHBOURS = 40
_SPREAD = 5
"""Every fifth neighbour: farther ones differ more by their shading, as much by noise."""
_SAME_PAINT = 0.03
"""Difference of chromaticities (shares of red, green, blue) at which two places rarely have one paint."""
_ROUNDS = 20
_RIDGE = 0.01
"""Of the mean weight of a harmonic: where the normals hardly turn, nothing is taken out."""
_STRONGEST = 4.0
"""How far shading may be from its mean, as a factor."""
_DARKEST = 0.005
"""Linear; what is darker tells nothing about the light."""
_GLOSSIEST = 0.35
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def shading_basis(normals: np.ndarray) -> np.ndarray:
    """(P, 8): harmonics of first and second order of unit normals (P, 3), without the constant."""
    x, y, z = np.asarray(normals, dtype=np.float64).T
    return np.stack([x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], axis=1)


def fit_shading(
    positions: np.ndarray,
    normals: np.ndarray,
    colors: np.ndarray,
    generator: np.random.Generator,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """(8,) coefficients of the logarithm of the shading over `shading_basis`.

    positions, normals (P, 3); colors (P, 3) linear. Neighbours of similar chromaticity should differ by
    their shading alone: least absolute deviations over such pairs, so that edges of paint count little.
    """
    bright = np.flatnonzero((colors @ _LUMINANCE > _DARKEST) & (colors.max(axis=1) < 0.98))
    if len(bright) <= _NEIGHBOURS * _SPREAD:
        return np.zeros(8)
    chosen = generator.choice(bright, size=min(_SAMPLES, len(bright)), replace=False)
    place, color = positions[chosen], colors[chosen].astype(np.float64)
    _, near = cKDTree(place).query(place, k=_NEIGHBOURS * _SPREAD + 1)
    check()
    one = np.repeat(np.arange(len(chosen)), _NEIGHBOURS)
    two = near[:, _SPREAD::_SPREAD].ravel()
    chroma = color / color.sum(axis=1, keepdims=True)
    likeness = np.exp(-((chroma[one] - chroma[two]) ** 2).sum(axis=1) / (2 * _SAME_PAINT**2))
    basis, brightness = shading_basis(normals[chosen]), np.log(color @ _LUMINANCE)
    rows, target = basis[one] - basis[two], brightness[one] - brightness[two]
    found, weight = np.zeros(8), likeness
    for _ in range(_ROUNDS):
        check()
        weighted = rows * weight[:, None]
        normal = weighted.T @ rows
        ridge = _RIDGE * max(np.trace(normal) / 8, 1e-6 * weight.sum())
        found = np.linalg.solve(normal + ridge * np.eye(8), weighted.T @ target)
        weight = likeness / np.maximum(np.abs(target - rows @ found), 0.01)
    return found


def delighted(
    texels: Texels, colors: np.ndarray, generator: np.random.Generator, check: Callable[[], None]
) -> tuple[np.ndarray, float]:
    """Colours (P, 3) sRGB of the texels without smooth shading, and the range (a factor) taken out.

    The mean brightness stays.
    """
    linear = linear_from_srgb(colors)
    found = fit_shading(texels.positions, texels.normals, linear, generator, check)
    shading = shading_basis(texels.normals) @ found
    shading = np.exp(np.clip(shading - shading.mean(), -np.log(_STRONGEST), np.log(_STRONGEST)))
    low, high = np.quantile(shading, (0.02, 0.98))
    albedo = linear / shading[:, None].astype(np.float32)
    albedo *= float((linear @ _LUMINANCE).mean() / max((albedo @ _LUMINANCE).mean(), 1e-9))
    return srgb_from_linear(np.clip(albedo, 0, 1)), float(high / low)


def guess_roughness(mesh: Mesh, views: Views, check: Callable[[], None]) -> float:
    """One roughness for the whole surface, from highlights that move over it from view to view.

    Matte paint looks alike from all sides; a highlight makes a place much brighter in a few views and never
    darker. Where views differ both ways they just disagree. A guess, on no scale: 0.9 (matte) to 0.35.
    """
    points = mesh.vertices[:: max(1, len(mesh.vertices) // 4000)]
    normals = vertex_normals(mesh.vertices, mesh.faces)[:: max(1, len(mesh.vertices) // 4000)]
    tolerance = 4e-3 * float(np.ptp(mesh.vertices, axis=0).max())
    seen = np.full((len(views), len(points)), np.nan)
    height, width = views.rgba.shape[1:3]
    for view in range(len(views)):
        check()
        camera = views.cameras.take([view])
        pixels, depth = (a[0] for a in camera.project(points))
        surface = rasterize_mesh(
            mesh.vertices, mesh.faces, camera.world_from_camera[0], camera.intrinsics[0], width, height
        )
        column, row = np.floor(pixels).astype(np.int64).T
        inside = (column >= 1) & (row >= 1) & (column < width - 1) & (row < height - 1) & (depth > 0)
        facing = ((camera.centres[0] - points) * normals).sum(axis=1)
        facing /= np.maximum(np.linalg.norm(camera.centres[0] - points, axis=1), 1e-12)
        there = np.flatnonzero(inside & (facing > 0.5))
        r, c = row[there], column[there]
        open_ = np.abs(surface.depth[r, c] - depth[there]) < tolerance
        there, r, c = there[open_], r[open_], c[open_]
        pixel = views.rgba[view, r, c]
        solid = pixel[:, 3] > 0.98
        seen[view, there[solid]] = pixel[solid, :3] @ _LUMINANCE  # encoded: differences as seen
    often = (~np.isnan(seen)).sum(axis=0) >= 4
    if not often.any():
        return ROUGHNESS
    low, middle, high = np.nanquantile(seen[:, often], (0, 0.5, 1), axis=0)
    # Brighter than usual in one view, less how much darker in another: noise has both alike.
    excess = (high - middle) - (middle - low)
    shine = float(np.quantile(excess, 0.95) + np.quantile(excess, 0.05))
    return float(np.clip(ROUGHNESS - 3 * max(shine - 0.05, 0.0), _GLOSSIEST, ROUGHNESS))
