"""How near a result is to the truth: shapes, pictures, masks. Each figure names its protocol.

Shapes   Chamfer distance: the mean of the two directional mean distances (un-squared, halved), 100,000
         area samples each. F-score at t: harmonic mean of the shares within t. Volume IoU: on a cubic
         grid around both. All in the units of the meshes (scale the truth to longest side 1 first).
         `sync` prefix: what SyncDreamer's eval_mesh.py measures, and Hi3D after it.
Pictures PSNR and SSIM (Wang 2004) of sRGB values 0..1. Masks: intersection over union at 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.geometry.cameras import Cameras, ring
from backend.geometry.mesh_raster import rasterize_mesh


@dataclass(frozen=True)
class ShapeScore:
    """Of a mesh against the true one.

    chamfer  mean of both directional mean distances
    fscore   threshold -> 0..1
    iou      volume intersection over union
    """

    chamfer: float
    fscore: dict[float, float]
    iou: float


def sample_surface(vertices: np.ndarray, faces: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count, 3) float64 points, uniform by area."""
    generator = np.random.default_rng(seed)
    a, b, c = (np.asarray(vertices, dtype=np.float64)[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    edges = np.cumsum(area)
    face = np.searchsorted(edges, generator.random(count) * edges[-1]).clip(max=len(faces) - 1)
    s, t = generator.random((2, count))
    over = s + t > 1
    s[over], t[over] = 1 - s[over], 1 - t[over]
    return a[face] + s[:, None] * (b[face] - a[face]) + t[:, None] * (c[face] - a[face])


def nearest_distances(from_points: np.ndarray, to_points: np.ndarray) -> np.ndarray:
    """(P,) distance of each point to the nearest of the others."""
    from scipy.spatial import cKDTree

    return cKDTree(to_points).query(from_points)[0]


def chamfer_distance(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean of both directional mean distances, un-squared, halved."""
    there, back = nearest_distances(points, truth), nearest_distances(truth, points)
    return float((there.mean() + back.mean()) / 2)


def f_score(there: np.ndarray, back: np.ndarray, threshold: float) -> float:
    """Harmonic mean of precision and recall of the two directional distances."""
    precision, recall = float((there < threshold).mean()), float((back < threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def inside_grid(
    vertices: np.ndarray, faces: np.ndarray, low: np.ndarray, high: np.ndarray, cells: int
) -> np.ndarray:
    """(cells, cells, cells) bool: centres of the cells of the box low..high inside a closed mesh.

    Parity of crossings along Z, by rasterising the mesh from below; needs no watertight mesh, but a
    column that a hole lets through is decided by the faces that are there.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    step = (high - low) / cells
    points = np.asarray(vertices, dtype=np.float64)
    # A tiny shift keeps columns off vertices and axis-parallel edges, and centres off level faces.
    shift = np.array([1.37e-4, 2.11e-4, 1.71e-4])
    x = (points[:, 0] - low[0]) / step[0] + shift[0]
    y = (points[:, 1] - low[1]) / step[1] + shift[1]
    z = (points[:, 2] - low[2]) / step[2] + shift[2]
    crossings = _column_crossings(np.column_stack([x, y, z]), np.asarray(faces), cells)
    return np.cumsum(crossings, axis=2) % 2 == 1


def _column_crossings(points: np.ndarray, faces: np.ndarray, cells: int) -> np.ndarray:
    """(cells, cells, cells) int32: crossings between a cell's centre and the centre below it."""
    count = np.zeros((cells, cells, cells + 1), dtype=np.int32)
    a, b, c = (points[faces[:, i]] for i in range(3))
    corners = np.stack([a, b, c], axis=1)
    first = np.ceil(corners[:, :, :2].min(axis=1) - 0.5).astype(int).clip(0, cells)
    last = np.floor(corners[:, :, :2].max(axis=1) - 0.5).astype(int).clip(-1, cells - 1)
    spans = (last - first + 1).clip(0)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    total = spans[:, 0] * spans[:, 1]
    total[area == 0] = 0
    face = np.repeat(np.arange(len(faces)), total)
    within = np.arange(total.sum()) - np.repeat(np.cumsum(total) - total, total)
    i = first[face, 0] + within // spans[face, 1]
    j = first[face, 1] + within % spans[face, 1]
    px, py = i + 0.5, j + 0.5
    ta, tb, tc = a[face], b[face], c[face]
    wa = ((tb[:, 0] - px) * (tc[:, 1] - py) - (tc[:, 0] - px) * (tb[:, 1] - py)) / area[face]
    wb = ((tc[:, 0] - px) * (ta[:, 1] - py) - (ta[:, 0] - px) * (tc[:, 1] - py)) / area[face]
    wc = 1 - wa - wb
    hit = (wa >= 0) & (wb >= 0) & (wc >= 0)
    z = (wa * ta[:, 2] + wb * tb[:, 2] + wc * tc[:, 2])[hit]
    level = np.ceil(z - 0.5).astype(int).clip(0, cells)
    np.add.at(count, (i[hit], j[hit], level), 1)
    return count[:, :, :cells]


def volume_iou(
    vertices: np.ndarray,
    faces: np.ndarray,
    true_vertices: np.ndarray,
    true_faces: np.ndarray,
    cells: int = 128,
) -> float:
    """Intersection over union of the solids, on cells^3 points of the cube around both."""
    both = np.concatenate([vertices, true_vertices])
    low, high = both.min(axis=0), both.max(axis=0)
    middle, half = (low + high) / 2, (high - low).max() / 2 * 1.01
    box = middle - half, middle + half
    ours = inside_grid(vertices, faces, *box, cells)
    truth = inside_grid(true_vertices, true_faces, *box, cells)
    union = np.count_nonzero(ours | truth)
    return float(np.count_nonzero(ours & truth) / union) if union else 0.0


def score_shape(
    vertices: np.ndarray,
    faces: np.ndarray,
    true_vertices: np.ndarray,
    true_faces: np.ndarray,
    *,
    thresholds: tuple[float, ...] = (0.005, 0.01, 0.02),
    samples: int = 100_000,
    cells: int = 128,
    check: Callable[[], None] = lambda: None,
) -> ShapeScore:
    """All shape figures of the module's protocol; `check` is called between the slower steps."""
    ours = sample_surface(vertices, faces, samples, seed=1)
    truth = sample_surface(true_vertices, true_faces, samples, seed=2)
    check()
    there = nearest_distances(ours, truth)
    check()
    back = nearest_distances(truth, ours)
    check()
    return ShapeScore(
        float((there.mean() + back.mean()) / 2),
        {t: f_score(there, back, t) for t in thresholds},
        volume_iou(vertices, faces, true_vertices, true_faces, cells),
    )


def thinned(points: np.ndarray, cell: float) -> np.ndarray:
    """(Q, 3) the mean of the points (P, 3) in each cell of a grid, as Open3D's voxel_down_sample."""
    index = np.floor((points - (points.min(axis=0) - cell / 2)) / cell).astype(np.int64)
    flat = np.ravel_multi_index(tuple(index.T), tuple(index.max(axis=0) + 1))
    _, group, count = np.unique(flat, return_inverse=True, return_counts=True)
    sums = [np.bincount(group, weights=points[:, axis], minlength=len(count)) for axis in range(3)]
    return np.stack(sums, axis=1) / count[:, None]


def visible_points(vertices: np.ndarray, faces: np.ndarray, cameras: Cameras) -> np.ndarray:
    """(P, 3) float64 points of the surface, one for each pixel of each camera that sees it."""
    found = []
    for pose, intrinsics in zip(cameras.world_from_camera, cameras.intrinsics, strict=True):
        depth = rasterize_mesh(vertices, faces, pose, intrinsics, cameras.width, cameras.height).depth
        row, column = np.nonzero(np.isfinite(depth))
        z = depth[row, column].astype(np.float64)
        pixel = np.stack([column + 0.5, row + 0.5, np.ones(len(z))])
        local = (np.linalg.inv(intrinsics) @ pixel).T * z[:, None]
        found.append(local @ pose[:3, :3].T + pose[:3, 3])
    return np.concatenate(found)


def sync_cameras() -> Cameras:
    """SyncDreamer's fixed rig (meta_info/camera-16.pkl): 16 views at elevation 30, focal length 280 px."""
    fov = 2 * np.degrees(np.arctan(128 / 280))
    return ring(16, radius=1.5, elevation_degrees=30.0, fov_degrees=float(fov), size=256)


def sync_chamfer(
    vertices: np.ndarray, faces: np.ndarray, true_vertices: np.ndarray, true_faces: np.ndarray
) -> float:
    """Chamfer distance between *visible* surfaces, as SyncDreamer's evaluation script measures it.

    Points of 16 depth maps of 256 px (`sync_cameras`), thinned to the mean in each cell of 0.01, distances
    un-squared and halved. The truth's longest side is to be 1, centred. Infinite where no camera sees a mesh.
    """
    cameras = sync_cameras()
    seen = [visible_points(*mesh, cameras) for mesh in ((vertices, faces), (true_vertices, true_faces))]
    if not all(len(points) for points in seen):
        return float("inf")
    return chamfer_distance(*(thinned(points, 0.01) for points in seen))


def sync_iou(
    vertices: np.ndarray, faces: np.ndarray, true_vertices: np.ndarray, true_faces: np.ndarray
) -> float:
    """Volume IoU as SyncDreamer's script measures it: signs of mesh2sdf, size 64, without its repair.

    The points are -1 + i/32 along each axis, so a centred object of longest side 1 spans 32 of them; inside
    is by parity along X. The meshes lie within -1..1.
    """
    step = 2 / 64
    low, high = np.full(3, -1 - step / 2), np.full(3, 1 - step / 2)
    ours, truth = (
        inside_grid(np.asarray(points)[:, [1, 2, 0]], triangles, low, high, 64)
        for points, triangles in ((vertices, faces), (true_vertices, true_faces))
    )
    union = np.count_nonzero(ours | truth)
    return float(np.count_nonzero(ours & truth) / union) if union else 0.0


def silhouette(
    vertices: np.ndarray, faces: np.ndarray, cameras: Cameras, view: int, supersample: int = 2
) -> np.ndarray:
    """(H, W) float32: the share of each pixel that the mesh covers, as `view` of `cameras` sees it."""
    fine = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    camera = fine.world_from_camera[view], fine.intrinsics[view], fine.width, fine.height
    hit = rasterize_mesh(vertices, faces, *camera).face >= 0
    blocks = hit.reshape(cameras.height, supersample, cameras.width, supersample)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def mask_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks at 0.5; 1 when both are empty."""
    a, b = np.asarray(mask) >= 0.5, np.asarray(truth) >= 0.5
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of pictures 0..1; infinite when equal."""
    error = float(np.mean((np.asarray(picture, np.float64) - np.asarray(truth, np.float64)) ** 2))
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang 2004: Gaussian window, sigma 1.5, 11 px) of (H, W, 3) pictures 0..1."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            np.asarray(picture, np.float64),
            np.asarray(truth, np.float64),
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
