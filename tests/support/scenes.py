"""Small real scenes made by code, with exact answers."""

import numpy as np
import trimesh

from backend.geometry.cameras import Cameras, ring
from backend.geometry.mesh_raster import rasterize_mesh
from backend.pipeline.values import Views


def lopsided_figure() -> trimesh.Trimesh:
    """A watertight-parts figure without symmetry, longest side about 1, centred."""
    parts = [
        trimesh.creation.icosphere(subdivisions=3, radius=0.25),
        trimesh.creation.box((0.2, 0.5, 0.16), trimesh.transformations.translation_matrix((0.1, -0.1, 0.25))),
        trimesh.creation.cylinder(
            0.07, 0.5, transform=trimesh.transformations.translation_matrix((-0.15, 0.1, -0.25))
        ),
    ]
    mesh = trimesh.util.concatenate(parts)
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    mesh.apply_scale(1.0 / mesh.extents.max())
    return mesh


def render_views(mesh: trimesh.Trimesh, cameras: Cameras, supersample: int = 2) -> Views:
    """Pictures of a mesh coloured by position, with anti-aliased alpha."""
    big = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    pictures = []
    for pose, intrinsics in zip(big.world_from_camera, big.intrinsics, strict=True):
        fragments = rasterize_mesh(mesh.vertices, mesh.faces, pose, intrinsics, big.width, big.height)
        rgb = fragments.interpolate(np.clip(mesh.vertices * 0.8 + 0.5, 0, 1), mesh.faces)
        alpha = (fragments.face >= 0).astype(np.float32)[..., None]
        rgba = np.concatenate([rgb * alpha, alpha], axis=-1)
        size = (cameras.height, supersample, cameras.width, supersample, 4)
        rgba = rgba.reshape(size).mean(axis=(1, 3))
        rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
        pictures.append(rgba.astype(np.float32))
    return Views(np.stack(pictures), cameras)


def figure_views(views: int = 16, size: int = 128, elevation: float = 10.0) -> Views:
    """The lopsided figure on a full ring."""
    cameras = ring(views, radius=3.0, elevation_degrees=elevation, fov_degrees=25.0, size=size)
    return render_views(lopsided_figure(), cameras)
