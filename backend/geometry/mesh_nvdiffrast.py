"""Meshes drawn by nvdiffrast on CUDA, with the conventions of `mesh_raster` and `mesh_render`.

nvdiffrast follows OpenGL: clip space -1..1 with y up, and row 0 of pictures and textures at the bottom.
Ours have y down and row 0 at the top. Both turns cancel: with y kept pointing down, row 0 of its memory
is our top row, and nothing is flipped; a texture's v is turned once, where it is looked up.
It snaps corners to a sixteenth of a pixel, so pixels that an edge grazes may show the face next to ours.

Imports torch and nvdiffrast inside the functions: only those who ask for "cuda" need them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.mesh_raster import Fragments
from backend.geometry.mesh_render import over
from shared_protocol.errors import EngineUnavailable

if TYPE_CHECKING:
    import torch

INSTALL = "pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast"


def require_cuda() -> Any:
    """nvdiffrast.torch; EngineUnavailable, with what to install, unless it and a CUDA device are there."""
    try:
        import nvdiffrast.torch as dr
        import torch
    except ImportError as error:
        raise EngineUnavailable(
            f"meshes cannot be drawn on CUDA: {error}",
            remedy=f'Install torch with pip install "orrery[models]", nvdiffrast with {INSTALL}',
        ) from error
    if not torch.cuda.is_available():
        raise EngineUnavailable(
            "meshes cannot be drawn on CUDA: torch finds no CUDA device",
            remedy="Install the CUDA build of torch and the NVIDIA driver, or use the CPU.",
        )
    return dr


def clip_from_world(
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    width: int,
    height: int,
    near: float,
    far: float,
) -> np.ndarray:
    """(4, 4) float64: world points, metres, to clip space; w is the depth along the camera's axis.

    x and y / w run from -1 at the outer edge of the first column and row to 1 at that of the last, so the
    middle of pixel i is at (i + 0.5) / width * 2 - 1; z / w from -1 at depth `near` to 1 at `far`.
    """
    to_unit = np.array([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    image = to_unit @ np.asarray(intrinsics, dtype=np.float64)
    clip = np.zeros((4, 4))
    clip[:2, :3] = image[:2]
    clip[2, 2], clip[2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
    clip[3, 2] = 1
    return clip @ np.linalg.inv(world_from_camera)


def depth_range(vertices: np.ndarray, world_from_camera: np.ndarray) -> tuple[float, float]:
    """Near and far, metres, just around the part of a mesh that is before the camera."""
    axis = world_from_camera[:3, 2]
    depth = np.asarray(vertices, dtype=np.float64) @ axis - axis @ world_from_camera[:3, 3]
    far = max(float(depth.max()), 1e-6) * 1.01
    return max(float(depth.min()) * 0.99, 1e-3 * far), far


class Scene:
    """A mesh on a torch device, drawn from cameras by nvdiffrast's functions.

    dr      nvdiffrast.torch, or a module with its functions
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, dr: Any, device: str = "cuda") -> None:
        import torch

        self._dr, self.device = dr, device
        self._context = dr.RasterizeCudaContext(device=device)
        self._vertices = np.asarray(vertices, dtype=np.float64)
        self._faces = torch.as_tensor(np.asarray(faces, dtype=np.int32), device=device).contiguous()
        corners = np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
        self._corners = torch.as_tensor(corners, device=device)

    def rasterize(self, cameras: Cameras, view: int) -> "torch.Tensor":
        """nvdiffrast's picture (1, H, W, 4) of a camera: barycentrics of corners 0 and 1, z/w, face + 1."""
        import torch

        pose = cameras.world_from_camera[view]
        size = cameras.width, cameras.height
        clip = clip_from_world(pose, cameras.intrinsics[view], *size, *depth_range(self._vertices, pose))
        # In float64 to here: a mesh far from the world's origin keeps its detail.
        positions = self._vertices @ clip[:, :3].T + clip[:, 3]
        positions = torch.as_tensor(positions[None], dtype=torch.float32, device=self.device).contiguous()
        return self._dr.rasterize(self._context, positions, self._faces, size[::-1], grad_db=False)[0]

    def at_corners(self, values: "torch.Tensor", rast: "torch.Tensor") -> "torch.Tensor":
        """Values (F, 3, C) of the faces' corners at each pixel: (H, W, C), 0 where nothing is."""
        flat = values.reshape(1, -1, values.shape[-1]).contiguous()
        return self._dr.interpolate(flat, rast, self._corners)[0][0]

    def textured(self, texture: "torch.Tensor", uvs: "torch.Tensor", rast: "torch.Tensor") -> "torch.Tensor":
        """(H, W, 3), black where nothing is; differentiable in texture (T, T, 3); uvs (F, 3, 2), v up."""
        import torch

        places = self.at_corners(uvs, rast)
        places = torch.stack([places[..., 0], 1 - places[..., 1]], dim=-1)[None].contiguous()
        colors = self._dr.texture(texture[None], places, filter_mode="linear", boundary_mode="clamp")[0]
        return colors * (rast[0, ..., 3:] > 0)


def rasterize_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    width: int,
    height: int,
    *,
    dr: Any = None,
    device: str = "cuda",
) -> Fragments:
    """As `mesh_raster.rasterize_mesh`; faces across the camera's plane are cut, though, not left out."""
    import torch

    scene = Scene(vertices, faces, dr or require_cuda(), device)
    rast = scene.rasterize(Cameras(world_from_camera[None], intrinsics[None], width, height), 0)
    first, second, number = (rast[0, ..., i].cpu().numpy() for i in (0, 1, 3))
    face = np.rint(number).astype(np.int32) - 1
    barycentric = np.stack([first, second, 1 - first - second], axis=-1)
    barycentric[face < 0] = 0
    barycentric = barycentric.astype(np.float32)
    axis = world_from_camera[:3, 2]
    depths = np.asarray(vertices, dtype=np.float64)[faces] @ axis - axis @ world_from_camera[:3, 3]
    corners = torch.as_tensor(depths[..., None], dtype=torch.float32, device=device)
    depth = scene.at_corners(corners, rast)[..., 0].cpu().numpy()
    return Fragments(face, np.where(face < 0, np.float32(np.inf), depth), lambda: barycentric)


def render_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    uvs: np.ndarray,
    texture: np.ndarray,
    cameras: Cameras,
    *,
    supersample: int = 2,
    background: tuple[float, float, float] | None = None,
    on_view: Callable[[int], None] = lambda view: None,
    dr: Any = None,
    device: str = "cuda",
) -> np.ndarray:
    """As `mesh_render.render_mesh`."""
    import torch

    scene = Scene(vertices, faces, dr or require_cuda(), device)
    image = torch.as_tensor(np.ascontiguousarray(texture, dtype=np.float32), device=device)
    places = torch.as_tensor(np.ascontiguousarray(uvs, dtype=np.float32), device=device)
    fine = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    out = np.zeros((len(cameras), cameras.height, cameras.width, 4), dtype=np.float32)
    for view in range(len(cameras)):
        on_view(view)
        rast = scene.rasterize(fine, view)
        planes = resolved(scene.textured(image, places, rast), rast, supersample)
        out[view, ..., :3] = (planes[..., :3] / planes[..., 3:].clamp_min(1e-6)).cpu().numpy()
        out[view, ..., 3] = planes[..., 3].cpu().numpy()
    if background is not None:
        out[..., :3] = over(out, background)
        out[..., 3] = 1
    return out


def resolved(colors: "torch.Tensor", rast: "torch.Tensor", supersample: int) -> "torch.Tensor":
    """Means over s x s samples: colours (s H, s W, 3), black where nothing is -> (H, W, 4) premultiplied."""
    import torch

    planes = torch.cat([colors, (rast[0, ..., 3:] > 0).to(colors.dtype)], dim=-1)
    height, width = planes.shape[0] // supersample, planes.shape[1] // supersample
    return planes.reshape(height, supersample, width, supersample, 4).mean(dim=(1, 3))
