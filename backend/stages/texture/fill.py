"""Colours for what no view has seen: diffusion over the surface, then bleeding around the charts."""

from collections.abc import Callable

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from backend.geometry.parallel import map_parallel
from backend.pipeline.values import Mesh
from backend.stages.texture.atlas import Texels
from backend.stages.texture.push_pull import push_pull

_NEAREST = 6
_CHUNK = 10_000
_RINGS = 2
"""Texels around a chart that repeat its border: bilinear sampling reads one, rounding another."""


def diffuse_over_surface(
    mesh: Mesh, colors: np.ndarray, weight: np.ndarray, check: Callable[[], None], iterations: int = 400
) -> np.ndarray:
    """Harmonic colours on the vertices: known ones held, the rest a smooth membrane between them.

    colors (V, 3), weight (V,) >= 0: how firmly each is held. Conjugate gradients on the uniform graph
    Laplacian, diagonal preconditioner. Returns (V, 3) float64.
    """
    count = len(mesh.vertices)
    pairs = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    ones = np.ones(len(pairs))
    adjacency = sparse.coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    adjacency = ((adjacency + adjacency.T) > 0).astype(np.float64)
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    hold = weight + 1e-7  # keeps parts without any known colour solvable: they take the mean colour
    mean = (weight[:, None] * colors).sum(axis=0) / max(weight.sum(), 1e-12)
    matrix = sparse.diags(degree + hold) - adjacency
    target = weight[:, None] * colors + 1e-7 * mean
    inverse = (1.0 / (degree + hold))[:, None]
    x = np.where(weight[:, None] > 0, colors, mean)
    residual = target - matrix @ x
    z = inverse * residual
    direction = z.copy()
    rho = (residual * z).sum(axis=0)
    for step in range(iterations):
        if step % 20 == 0:
            check()
        product = matrix @ direction
        alpha = rho / np.maximum((direction * product).sum(axis=0), 1e-30)
        x += alpha * direction
        residual -= alpha * product
        if np.abs(residual).max() < 1e-5:
            break
        z = inverse * residual
        rho, previous = (residual * z).sum(axis=0), rho
        direction = z + (rho / np.maximum(previous, 1e-30)) * direction
    return x


def fill_unseen(
    mesh: Mesh, texels: Texels, colors: np.ndarray, seen: np.ndarray, check: Callable[[], None]
) -> np.ndarray:
    """Colours (P, 3) for all texels from those with `seen` (P,) > 0.

    Beside seen surface an unseen texel takes its nearest seen texels' colours; farther away it takes
    the harmonic membrane, so that the two agree at the border and nothing is copied far.
    """
    known = seen > 0
    if known.all():
        return colors
    if not known.any():
        return np.full_like(colors, 0.5)
    check()
    corner = mesh.faces[texels.face[known]].ravel()
    weights = texels.weights[known].astype(np.float64).ravel()
    count = len(mesh.vertices)
    total = np.bincount(corner, weights, count)
    sums = np.stack(
        [np.bincount(corner, weights * np.repeat(colors[known, c], 3), count) for c in range(3)], axis=1
    )
    vertex_colors = sums / np.maximum(total, 1e-12)[:, None]
    membrane = diffuse_over_surface(mesh, vertex_colors, np.minimum(total, 4.0), check)
    unseen = np.flatnonzero(~known)
    vertex = mesh.faces[texels.face[unseen]]
    far = np.einsum("pk,pkc->pc", texels.weights[unseen], membrane[vertex])
    check()
    # Normals take part in the distance, so that a thin wall does not take its other side's colour.
    edge = np.sqrt(
        np.mean(np.sum((mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]]) ** 2, axis=1))
    )
    sites = np.flatnonzero(known)
    sites = sites[:: max(1, len(sites) // 60_000)]

    def features(rows: np.ndarray) -> np.ndarray:
        return np.hstack([texels.positions[rows], (2 * edge) * texels.normals[rows]])

    tree = cKDTree(features(sites), balanced_tree=False)
    reach = 3 * edge  # from there on the membrane has all to say
    near = np.zeros_like(far)
    mix = np.empty(len(unseen))

    def look(start: int) -> None:
        check()
        part = slice(start, start + _CHUNK)
        distance, neighbour = tree.query(
            features(unseen[part]), k=min(_NEAREST, len(sites)), distance_upper_bound=reach
        )
        distance = distance.reshape(len(distance), -1)
        neighbour = neighbour.reshape(distance.shape)
        mix[part] = np.minimum(distance[:, 0] / reach, 1)
        share = 1.0 / (distance + 0.1 * edge) ** 2  # 0 of those out of reach
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-30)
        near[part] = np.einsum("pk,pkc->pc", share, colors[sites[np.minimum(neighbour, len(sites) - 1)]])

    map_parallel(look, range(0, len(unseen), _CHUNK))
    smooth = (mix * mix * (3 - 2 * mix))[:, None]
    out = colors.copy()
    out[unseen] = near * (1 - smooth) + far * smooth
    return out


def bleed(texels: Texels, colors: np.ndarray, check: Callable[[], None]) -> np.ndarray:
    """The atlas (T, T, 3) float32, with colours carried across the gaps between charts.

    The texels next to a chart repeat its border, for bilinear sampling; the rest is filled smoothly,
    for mipmaps.
    """
    size = texels.size
    atlas = np.zeros((size, size, 3), dtype=np.float32)
    atlas.reshape(-1, 3)[texels.index] = colors
    filled = np.zeros((size, size), dtype=np.float32)
    filled.ravel()[texels.index] = 1
    for _ in range(_RINGS):
        check()
        _grow(atlas, filled)
    check()
    return push_pull(atlas, filled)


def _grow(atlas: np.ndarray, filled: np.ndarray) -> None:
    """One ring of texels more, each the mean of its filled neighbours; the others are 0 in `atlas`."""
    neighbours = cv2.boxFilter(filled, -1, (3, 3), normalize=False)
    new = (filled == 0) & (neighbours > 0.5)
    atlas[new] = cv2.boxFilter(atlas, -1, (3, 3), normalize=False)[new] / neighbours[new][:, None]
    filled[new] = 1
