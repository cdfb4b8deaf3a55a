"""Is a mesh closed, manifold, consistently oriented; which parts does it have."""

import numpy as np


def _directed_edges(faces: np.ndarray) -> np.ndarray:
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def is_watertight_manifold(faces: np.ndarray) -> bool:
    """Every edge joins exactly two faces that run along it in opposite directions; no face is degenerate.

    This implies a closed, oriented surface; False for an empty mesh.
    """
    faces = np.asarray(faces, dtype=np.int64)
    if not len(faces) or (faces == np.roll(faces, 1, axis=1)).any():
        return False
    edges = _directed_edges(faces)
    count = int(faces.max()) + 1
    forward = edges[:, 0] * count + edges[:, 1]
    backward = edges[:, 1] * count + edges[:, 0]
    unique = np.unique(forward)
    return len(unique) == len(forward) and np.array_equal(unique, np.sort(backward))


def has_manifold_vertices(faces: np.ndarray) -> bool:
    """Whether the faces around each vertex form one fan (no two cones touch in one vertex).

    faces (F, 3) of a mesh that `is_watertight_manifold`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # Corners of one vertex in two faces that share an edge at that vertex belong to one fan.
    faces = np.asarray(faces, dtype=np.int64)
    corners = np.arange(faces.size).reshape(faces.shape)
    edges = _directed_edges(faces)
    tail = np.concatenate([corners[:, 0], corners[:, 1], corners[:, 2]])
    tip = np.concatenate([corners[:, 1], corners[:, 2], corners[:, 0]])
    count = int(faces.max()) + 1
    forward = np.argsort(edges[:, 0] * count + edges[:, 1], kind="stable")
    backward = np.argsort(edges[:, 1] * count + edges[:, 0], kind="stable")
    # The face beyond the edge runs along it the other way: its tip is our tail.
    links = (tail[forward], tip[backward])
    graph = coo_matrix((np.ones(len(edges), dtype=np.int8), links), shape=(faces.size, faces.size))
    fans, _ = connected_components(graph, directed=False)
    return fans == len(np.unique(faces))


def face_components(faces: np.ndarray) -> np.ndarray:
    """(F,) int32: the connected part each face belongs to, numbered in order of first appearance."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces = np.asarray(faces)
    if not len(faces):
        return np.zeros(0, dtype=np.int32)
    edges = _directed_edges(faces)
    count = int(faces.max()) + 1
    graph = coo_matrix((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first, number = np.unique(label[faces[:, 0]], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[number.ravel()]


def component_volumes(vertices: np.ndarray, faces: np.ndarray, component: np.ndarray) -> np.ndarray:
    """(C,) float64 signed volume of each part, cubic metres; negative where a part is turned inside out.

    A closed part inside another with negative volume is a cavity.
    """
    points = np.asarray(vertices, dtype=np.float64)
    points = points - points.mean(axis=0)
    a, b, c = (points[faces[:, i]] for i in range(3))
    parts = np.einsum("fi,fi->f", a, np.cross(b, c)) / 6
    return np.bincount(component, weights=parts)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume of a closed mesh, cubic metres; > 0 for outward normals."""
    if not len(faces):
        return 0.0
    return float(component_volumes(vertices, faces, np.zeros(len(faces), dtype=np.int32))[0])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float64 unit normals, area-weighted; zero where a vertex has no area around it."""
    points = np.asarray(vertices, dtype=np.float64)
    a, b, c = (points[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.zeros_like(points)
    for axis in range(3):
        for corner in range(3):
            total[:, axis] += np.bincount(faces[:, corner], weights=normal[:, axis], minlength=len(points))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.divide(total, length, out=np.zeros_like(total), where=length > 0)
