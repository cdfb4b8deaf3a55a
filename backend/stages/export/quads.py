"""Which pairs of triangles leave as quads: those that no texture seam parts."""

import numpy as np

from backend.pipeline.values import TexturedMesh


def seamless_quads(textured: TexturedMesh) -> np.ndarray:
    """(Q, 2) pairs of faces whose UVs agree along their common edge: a quad has one UV a corner."""
    quads = textured.mesh.quads
    if quads is None:
        return np.zeros((0, 2), dtype=np.int32)
    first, second = textured.uvs[quads[:, 0]], textured.uvs[quads[:, 1]]
    return quads[(first[:, [0, 2]] == second[:, [0, 1]]).all(axis=(1, 2))]


def quads_first(textured: TexturedMesh) -> tuple[np.ndarray, int]:
    """Order (F,) of the faces that puts the quads' pairs in front, two by two; the number of quads."""
    quads = seamless_quads(textured)
    rest = np.ones(len(textured.mesh.faces), dtype=bool)
    rest[quads] = False
    return np.concatenate([quads.ravel(), np.flatnonzero(rest)]), len(quads)
