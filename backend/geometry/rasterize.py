"""Pictures of 3D Gaussians with gradients, on the CPU or a GPU: one function, one set of conventions.

    drawn = rasterize(splats, cameras, depth=True)
    drawn.color, drawn.alpha, drawn.depth, drawn.normals
    gradients = drawn.backward(color=..., depth=..., cameras=True)

Image formation and modes are GSplat's (1.5). On the CPU our Numba kernels draw (`splat_raster.py`), on
"cuda" GSplat (`splat_gsplat.py`); a fit that wants one camera's planes and nothing copied calls
`splat_raster.render_gaussians`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from backend.geometry.cameras import Cameras
from backend.geometry.depth_normals import normals_from_depth, normals_from_depth_back
from backend.geometry.splat_raster import Gaussians, Rendering, render_gaussians
from shared_protocol.errors import InvalidInput

DEVICES = ("cpu", "cuda")


class SplatArrays(Protocol):
    """`Splats`, `Gaussians` or the like: activated arrays, shapes as in `Gaussians`."""

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacities: np.ndarray
    harmonics: np.ndarray


@dataclass(frozen=True)
class SplatGradients:
    """dL/d everything that was drawn, summed over the cameras in their order.

    splats      the arrays of the Gaussians, same shapes
    tangents    (N, 6) float64 a small motion of each camera (rotation, translation) in its own axes, see
                `CameraGradient`; None unless asked for
    intrinsics  (N, 4) float64 fx, fy, cx, cy; None unless asked for, and None on "cuda"
    """

    splats: Gaussians
    tangents: np.ndarray | None
    intrinsics: np.ndarray | None


Backward = Callable[[np.ndarray, bool], SplatGradients]
"""dL/d planes, whether the cameras' gradients are wanted -> gradients."""


@dataclass(frozen=True)
class Rasterization:
    """What N cameras see.

    planes        (N, 4, H, W) float32: R, G, B over the background, alpha; with depth (N, 5, H, W), plane 4
                  the sum of weight times depth along the axis, metres
    median_depth  (N, H, W) float32 metres: where the transmittance falls to a half; inf where it does not.
                  Has no gradient. None unless asked for
    """

    planes: np.ndarray
    cameras: Cameras
    median_depth: np.ndarray | None
    _backward: Backward | None = field(repr=False)

    @cached_property
    def color(self) -> np.ndarray:
        """(N, H, W, 3) float32 over the background, sRGB-encoded as fitted, not clipped at 1."""
        return np.ascontiguousarray(self.planes[:, :3].transpose(0, 2, 3, 1))

    @property
    def alpha(self) -> np.ndarray:
        """(N, H, W) float32."""
        return self.planes[:, 3]

    @property
    def accumulated_depth(self) -> np.ndarray:
        """(N, H, W) float32: expected depth times alpha, metres."""
        if self.planes.shape[1] < 5:
            raise InvalidInput("these Gaussians were drawn without depth", "rasterize(..., depth=True)")
        return self.planes[:, 4]

    @cached_property
    def depth(self) -> np.ndarray:
        """(N, H, W) float32 expected depth, metres along the camera axis; inf where alpha is 0."""
        accumulated, alpha = self.accumulated_depth, self.alpha
        depth = np.full_like(alpha, np.inf)
        np.divide(accumulated, alpha, out=depth, where=alpha > 0)
        return depth

    @cached_property
    def normals(self) -> np.ndarray:
        """(N, H, W, 3) float32 unit normals of the expected depth, in the world; 0 where there is none."""
        return np.stack([normals_from_depth(*self._surface(i)) for i in range(len(self.cameras))])

    def _surface(self, view: int) -> tuple[np.ndarray, ...]:
        cameras = self.cameras
        return (
            self.depth[view], self.alpha[view], cameras.world_from_camera[view], cameras.intrinsics[view]
        )  # fmt: skip

    def backward(
        self,
        *,
        color: np.ndarray | None = None,
        alpha: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        normals: np.ndarray | None = None,
        cameras: bool = False,
    ) -> SplatGradients:
        """dL/d of what the loss reads, each of its result's shape -> gradients of the Gaussians.

        cameras adds those of poses and intrinsics. A gradient of depth where alpha is 0, or of normals
        where there is none, counts as 0.
        """
        if self._backward is None:
            raise InvalidInput("these Gaussians were drawn without gradients", "differentiable=True")
        upstream = np.zeros_like(self.planes)
        if color is not None:
            upstream[:, :3] = np.transpose(color, (0, 3, 1, 2))
        if alpha is not None:
            upstream[:, 3] = alpha
        extra = []
        if depth is not None or normals is not None:
            seen = self.alpha > 0
            expected = np.where(seen, self.depth, 0)
            to_depth = np.zeros(expected.shape)
            if depth is not None:
                to_depth += depth
            for i in range(len(self.cameras) if normals is not None else 0):
                extra.append(normals_from_depth_back(normals[i], *self._surface(i)))
                to_depth[i] += extra[i].depth
            # depth = accumulated / alpha
            np.divide(to_depth, self.alpha, out=upstream[:, 4], where=seen, casting="same_kind")
            upstream[:, 3] -= upstream[:, 4] * expected
        result = self._backward(upstream, cameras)
        if cameras and extra:
            result.tangents[:] += [one.tangent for one in extra]
            if result.intrinsics is not None:
                result.intrinsics[:] += [one.intrinsics for one in extra]
        return result


def rasterize(
    splats: SplatArrays,
    cameras: Cameras,
    *,
    background: np.ndarray = (1.0, 1.0, 1.0),
    antialiased: bool = False,
    depth: bool = False,
    median_depth: bool = False,
    differentiable: bool = True,
    device: str = "cpu",
) -> Rasterization:
    """Draw Gaussians for every camera.

    background (3,). antialiased: Gaussians thinner than a pixel become fainter (Mip-Splatting's 2D filter,
    Yu 2024). depth: also expected depth, and normals from it. differentiable=False frees what `backward`
    needs. A Gaussian with a NaN, behind the camera or fainter than 1/255 is not drawn and gets gradient 0.
    Raises InvalidInput, LimitExceeded, and EngineUnavailable for a device that is not there.
    """
    if device not in DEVICES:
        raise InvalidInput(f"there is no device {device!r} to draw on", " or ".join(DEVICES))
    gaussians = Gaussians(
        splats.positions, splats.scales, splats.rotations, splats.opacities, splats.harmonics
    )
    if device == "cuda":
        from backend.geometry.splat_gsplat import draw_on, require_cuda

        require_cuda()
        planes, median, backward = draw_on(
            "cuda", gaussians, cameras, background, antialiased, depth, median_depth, differentiable
        )
        return Rasterization(planes, cameras, median, backward)
    renderings, planes, medians = [], [], []
    for pose, intrinsics in zip(cameras.world_from_camera, cameras.intrinsics, strict=True):
        rendering = render_gaussians(
            gaussians, pose, intrinsics, cameras.width, cameras.height, background,
            depth=depth, antialiased=antialiased,
        )  # fmt: skip
        planes.append(rendering.image)
        if median_depth:
            medians.append(rendering.median_depth())
        if differentiable:
            renderings.append(rendering)
    shape = (len(cameras), 5 if depth else 4, cameras.height, cameras.width)
    return Rasterization(
        np.asarray(planes, dtype=np.float32).reshape(shape),
        cameras,
        np.asarray(medians, dtype=np.float32).reshape(shape[0], *shape[2:]) if median_depth else None,
        (lambda upstream, moving: _back(gaussians, renderings, upstream, moving)) if differentiable else None,
    )


def _back(
    gaussians: Gaussians, renderings: list[Rendering], upstream: np.ndarray, moving: bool
) -> SplatGradients:
    total = Gaussians(*(np.zeros_like(array) for array in vars(gaussians).values()))
    tangents, intrinsics = np.zeros((len(renderings), 6)), np.zeros((len(renderings), 4))
    for i, rendering in enumerate(renderings):
        if moving:
            gradient, camera = rendering.backward_with_camera(upstream[i])
            tangents[i], intrinsics[i] = camera.tangent, camera.intrinsics
        else:
            gradient = rendering.backward(upstream[i])
        for name, array in vars(gradient).items():
            getattr(total, name)[...] += array
    return SplatGradients(total, tangents if moving else None, intrinsics if moving else None)
