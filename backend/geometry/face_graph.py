"""Faces of a mesh as a graph: neighbours, region growing, and cutting regions open to discs."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from backend.geometry.jit import kernel


def face_neighbours(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Across each edge of each face (edge i runs from corner i to corner i + 1).

    faces (F, 3). Returns the neighbour (F, 3) int32 and its edge there (F, 3) int8; -1 at borders and
    where more than two faces, or two that run the same way, share the edge.
    """
    faces = np.asarray(faces, dtype=np.int64)
    count = len(faces)
    tail, tip = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    size = int(faces.max()) + 1 if count else 1
    key = np.minimum(tail, tip) * size + np.maximum(tail, tip)
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    start = np.flatnonzero(first)
    length = np.diff(np.r_[start, len(ranked)])
    pair = start[length == 2]
    one, two = order[pair], order[pair + 1]
    opposite = (tail[one] == tip[two]) & (tail[one] != tip[one]) & (one // 3 != two // 3)
    one, two = one[opposite], two[opposite]
    neighbour = np.full(3 * count, -1, dtype=np.int32)
    edge = np.full(3 * count, -1, dtype=np.int8)
    neighbour[one], neighbour[two] = two // 3, one // 3
    edge[one], edge[two] = two % 3, one % 3
    return neighbour.reshape(count, 3), edge.reshape(count, 3)


def face_groups(neighbour: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """(F,) int64: connected parts over edges (within one label, where given), numbered by first face."""
    count = len(neighbour)
    face, edge = np.nonzero(neighbour >= 0)
    other = neighbour[face, edge]
    if label is not None:
        same = label[face] == label[other]
        face, other = face[same], other[same]
    graph = coo_matrix((np.ones(len(face), dtype=np.int8), (face, other)), shape=(count, count))
    part = connected_components(graph, directed=False)[1]
    _, first, index = np.unique(part, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[index]


@kernel
def _grow(neighbour, step, normals, group, seeds, proxies, flat, label, parent, cost):
    """Dijkstra over faces from all seeds at once; label, parent, cost are -1, -1, inf at the start.

    A face costs its step (F, 3) metres times `flat` + |normal - proxy|^2. Ties go to the lower face.
    """
    capacity = 3 * neighbour.shape[0] + seeds.shape[0] + 1
    heap_cost = np.empty(capacity, np.float32)
    heap_face = np.empty(capacity, np.int32)
    heap_label = np.empty(capacity, np.int32)
    heap_from = np.empty(capacity, np.int32)
    size = 0
    for turn in range(seeds.shape[0] + neighbour.shape[0] * 4):
        # First all seeds are pushed, then the nearest face is settled until none is left.
        if turn < seeds.shape[0]:
            settled, owner, base, edges = -1, turn, np.float32(0.0), 1
        else:
            if size == 0:
                break
            base, settled, owner, source = heap_cost[0], heap_face[0], heap_label[0], heap_from[0]
            size -= 1
            c, f, l, s = heap_cost[size], heap_face[size], heap_label[size], heap_from[size]
            hole = 0
            while True:
                child = 2 * hole + 1
                if child >= size:
                    break
                if child + 1 < size and (
                    heap_cost[child + 1] < heap_cost[child]
                    or (heap_cost[child + 1] == heap_cost[child] and heap_face[child + 1] < heap_face[child])
                ):
                    child += 1
                if c < heap_cost[child] or (c == heap_cost[child] and f <= heap_face[child]):
                    break
                heap_cost[hole], heap_face[hole] = heap_cost[child], heap_face[child]
                heap_label[hole], heap_from[hole] = heap_label[child], heap_from[child]
                hole = child
            heap_cost[hole], heap_face[hole], heap_label[hole], heap_from[hole] = c, f, l, s
            if label[settled] >= 0:
                continue
            label[settled], parent[settled], edges = owner, source, 3
        for k in range(edges):
            if settled < 0:
                face, price = seeds[turn], np.float32(0.0)
            else:
                face = neighbour[settled, k]
                if face < 0 or label[face] >= 0 or group[face] != group[settled]:
                    continue
                dx = normals[face, 0] - proxies[owner, 0]
                dy = normals[face, 1] - proxies[owner, 1]
                dz = normals[face, 2] - proxies[owner, 2]
                price = base + step[settled, k] * (flat + dx * dx + dy * dy + dz * dz)
                if price >= cost[face]:
                    continue
            cost[face] = price
            place = size
            size += 1
            while place > 0:
                above = (place - 1) // 2
                if heap_cost[above] < price or (heap_cost[above] == price and heap_face[above] <= face):
                    break
                heap_cost[place], heap_face[place] = heap_cost[above], heap_face[above]
                heap_label[place], heap_from[place] = heap_label[above], heap_from[above]
                place = above
            heap_cost[place], heap_face[place] = price, face
            heap_label[place], heap_from[place] = owner, settled


@dataclass(frozen=True)
class Surface:
    """What growing regions asks of a mesh, and of each face.

    neighbour, edge (F, 3) as face_neighbours gives; step (F, 3) float32 metres between the middles of
    neighbouring faces; normals (F, 3) float32 unit; middles (F, 3) float32; areas (F,) float64
    """

    neighbour: np.ndarray
    edge: np.ndarray
    step: np.ndarray
    normals: np.ndarray
    middles: np.ndarray
    areas: np.ndarray

    @classmethod
    def of(cls, vertices: np.ndarray, faces: np.ndarray) -> "Surface":
        """vertices (V, 3), faces (F, 3)."""
        neighbour, edge = face_neighbours(faces)
        corners = np.asarray(vertices, dtype=np.float64)[faces]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(cross, axis=1)
        normals = cross / np.where(length > 0, length, 1)[:, None]
        middles = corners.mean(axis=1)
        step = np.linalg.norm(middles[np.maximum(neighbour, 0)] - middles[:, None], axis=2)
        return cls(
            neighbour,
            edge,
            step.astype(np.float32),
            normals.astype(np.float32),
            middles.astype(np.float32),
            length / 2,
        )


@dataclass(frozen=True)
class Grown:
    """label (F,) int32: which seed owns the face (-1 if none reached it); parent (F,) int32: the face it
    was reached from, -1 for seeds; cost (F,) float32: length of that way."""

    label: np.ndarray
    parent: np.ndarray
    cost: np.ndarray


def grow(
    surface: Surface, group: np.ndarray, seeds: np.ndarray, proxies: np.ndarray, *, flat: float
) -> Grown:
    """Grow regions from `seeds` (S,) faces, each within its seed's group; every region is connected.

    The nearest seed wins; ways are longer, by |normal - proxy|^2 over `flat`, where the surface turns away
    from the region's proxy normal (S, 3). group (F,).
    """
    count = len(group)
    label = np.full(count, -1, dtype=np.int32)
    parent = np.full(count, -1, dtype=np.int32)
    cost = np.full(count, np.inf, dtype=np.float32)
    _grow(
        surface.neighbour, surface.step, surface.normals, np.ascontiguousarray(group, dtype=np.int32),
        np.ascontiguousarray(seeds, dtype=np.int32), np.ascontiguousarray(proxies, dtype=np.float32),
        np.float32(flat), label, parent, cost,
    )  # fmt: skip
    return Grown(label, parent, cost)


def corner_groups(surface: Surface, joined: np.ndarray) -> np.ndarray:
    """(F, 3) int64: which point of the opened surface each corner is, numbered from 0.

    joined (F, 3) bool, the same from both sides: edges across which the surface stays connected.
    """
    count = len(joined)
    face, edge = np.nonzero(joined)
    other, across = surface.neighbour[face, edge].astype(np.int64), surface.edge[face, edge].astype(np.int64)
    # Our corner i is their corner j + 1, ours i + 1 theirs j.
    one = np.concatenate([3 * face + edge, 3 * face + (edge + 1) % 3])
    two = np.concatenate([3 * other + (across + 1) % 3, 3 * other + across])
    graph = coo_matrix((np.ones(len(one), dtype=np.int8), (one, two)), shape=(3 * count, 3 * count))
    return connected_components(graph, directed=False)[1].reshape(count, 3).astype(np.int64)


def topology(
    label: np.ndarray, corner: np.ndarray, joined: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each label's surface, which is connected: handles (count,) and border loops (count,) int64.

    A disc has no handle and one loop.
    """
    points = int(corner.max()) + 1
    owner = np.zeros(points, dtype=np.int64)
    owner[corner.ravel()] = np.repeat(label, 3)
    inner = np.bincount(np.repeat(label, 3), joined.ravel(), count) / 2
    faces = np.bincount(label, minlength=count)
    euler = np.rint(np.bincount(owner, minlength=count) - (3 * faces - inner) + faces).astype(np.int64)
    face, edge = np.nonzero(~joined)
    tail, tip = corner[face, edge], corner[face, (edge + 1) % 3]
    graph = coo_matrix((np.ones(len(tail), dtype=np.int8), (tail, tip)), shape=(points, points))
    loop = connected_components(graph, directed=False)[1][tail]
    _, first = np.unique(loop, return_index=True)
    loops = np.bincount(owner[tail[first]], minlength=count)
    return (2 - loops - euler) // 2, loops


def cut_to_discs(surface: Surface, label: np.ndarray, grown: Grown, joined: np.ndarray) -> np.ndarray:
    """Open surfaces that are not discs along the cut locus of their seeds.

    label (F,), joined (F, 3): edges within a label. `grown` spans each label by its `parent`s. Faces stay
    joined along that tree; all other edges would be cut, but those that dangle are closed again, leaf by
    leaf: what is left are the loops that topology asks for. Returns `joined` without them.
    """
    face, edge = np.nonzero(joined)
    other = surface.neighbour[face, edge]
    tree = (grown.parent[face] == other) | (grown.parent[other] == face)
    corner = corner_groups(surface, joined)
    tail, tip = corner[face, edge], corner[face, (edge + 1) % 3]
    once = ~tree & (face < other)
    face, edge, tail, tip = face[once], edge[once], tail[once], tip[once]
    border_face, border_edge = np.nonzero(~joined)
    ends = np.concatenate(
        [corner[border_face, border_edge], corner[border_face, (border_edge + 1) % 3], tail, tip]
    )
    degree = np.bincount(ends, minlength=int(corner.max()) + 1)
    while len(face):
        keep = (degree[tail] > 1) & (degree[tip] > 1)
        if keep.all():
            break
        degree -= np.bincount(np.concatenate([tail[~keep], tip[~keep]]), minlength=len(degree))
        face, edge, tail, tip = face[keep], edge[keep], tail[keep], tip[keep]
    opened = joined.copy()
    opened[face, edge] = False
    opened[surface.neighbour[face, edge], surface.edge[face, edge]] = False
    return opened
