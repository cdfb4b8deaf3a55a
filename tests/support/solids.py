"""Scenes with exact answers: silhouettes of balls, and meshes rendered with a solid texture."""

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_raster import rasterize_mesh
from backend.pipeline.values import Splats, Views


def ball_masks(cameras: Cameras, radius: float, centre: np.ndarray, supersample: int = 4) -> np.ndarray:
    """(N, H, W) float32: the share of each pixel that a ball covers, by exact ray tests."""
    fine = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    masks = []
    for pose, k in zip(fine.world_from_camera, fine.intrinsics, strict=True):
        x = (np.arange(fine.width) + 0.5 - k[0, 2]) / k[0, 0]
        y = (np.arange(fine.height) + 0.5 - k[1, 2]) / k[1, 1]
        ray = np.stack([*np.meshgrid(x, y), np.ones((fine.height, fine.width))], axis=-1)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        to = (np.asarray(centre) - pose[:3, 3]) @ pose[:3, :3]
        along = ray @ to
        hit = (along > 0) & (along**2 > to @ to - radius**2)
        blocks = hit.reshape(cameras.height, supersample, cameras.width, supersample)
        masks.append(blocks.mean(axis=(1, 3)))
    return np.stack(masks).astype(np.float32)


def solid_texture(points: np.ndarray) -> np.ndarray:
    """(..., 3) colours of a texture that fills space: many waves of all directions, no repeats nearby."""
    generator = np.random.default_rng(5)
    directions = generator.normal(size=(40, 3))
    directions *= (generator.uniform(15, 90, 40) / np.linalg.norm(directions, axis=1))[:, None]
    phase, tint = generator.uniform(0, 2 * np.pi, 40), generator.uniform(-1, 1, (40, 3))
    directions, phase, tint = (a.astype(np.float32) for a in (directions, phase, tint))
    waves = np.sin(np.asarray(points, np.float32) @ directions.T + phase) @ tint
    return 0.5 + 0.5 * np.tanh(np.float32(0.25) * waves)


def render_views(vertices: np.ndarray, faces: np.ndarray, cameras: Cameras, *, depth: bool = False) -> Views:
    """Views of a mesh with `solid_texture`, alpha supersampled twice."""
    fine = cameras.resized(cameras.width * 2, cameras.height * 2)
    pictures, depths = [], []
    for n in range(len(cameras)):
        seen = rasterize_mesh(
            vertices, faces, fine.world_from_camera[n], fine.intrinsics[n], fine.width, fine.height
        )
        hit = seen.face >= 0
        rgba = np.zeros((*hit.shape, 4), dtype=np.float32)
        rgba[hit, :3] = solid_texture(seen.interpolate(vertices, faces)[hit])
        rgba[..., 3] = hit
        blocks = rgba.reshape(cameras.height, 2, cameras.width, 2, 4)
        alpha = blocks[..., 3].mean(axis=(1, 3))
        colour = (blocks[..., :3] * blocks[..., 3:]).sum(axis=(1, 3)) / np.maximum(4 * alpha, 1e-6)[..., None]
        pictures.append(np.concatenate([colour, alpha[..., None]], axis=-1))
        coarse = rasterize_mesh(
            vertices,
            faces,
            cameras.world_from_camera[n],
            cameras.intrinsics[n],
            cameras.width,
            cameras.height,
        )
        depths.append(coarse.depth)
    return Views(np.stack(pictures).astype(np.float32), cameras, depth=np.stack(depths) if depth else None)


def one_splat() -> Splats:
    """For stages that take splats and do not look at them."""
    return Splats(
        np.zeros((1, 3)), np.ones((1, 3)), np.array([[1.0, 0, 0, 0]]), np.ones(1), np.zeros((1, 1, 3))
    )
