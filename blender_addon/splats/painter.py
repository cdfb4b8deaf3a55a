"""Draws an atlas of Gaussians, placed, as one view sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import gpu
import numpy as np

from ..touched_memory import TouchedMemory
from . import shaders
from .atlas import Atlas, float_texture
from .order import Placed
from .view import View


@dataclass(frozen=True)
class Instance:
    """One object that shows the data-block `block`, through the affine `world_from_object` (4, 4).

    filtered  thin Gaussians become fainter instead of thicker (Mip-Splatting)
    opacity   factor of all its opacities
    """

    block: str
    world_from_object: np.ndarray
    filtered: bool = False
    opacity: float = 1.0


def placed(atlas: Atlas, instances: Sequence[Instance]) -> list[Placed]:
    """What is to be sorted; an instance whose data are not in the atlas has no Gaussians."""
    result = []
    for instance in instances:
        block = atlas.blocks.get(instance.block)
        positions = block.positions if block is not None else np.empty((0, 3), np.float32)
        result.append(Placed(positions, block.first if block is not None else 0, instance.world_from_object))
    return result


class PreparedOrder:
    """An order on its way to the GPU, made in any thread: that costs the main thread less."""

    def __init__(self, order: np.ndarray) -> None:
        """order: (N, 2) float32, see `far_to_near`."""
        self.count = len(order)
        self._rows = max(1, -(-len(order) // shaders.ORDER_ROW))
        self._buffer = gpu.types.Buffer("FLOAT", 2 * self._rows * shaders.ORDER_ROW)
        values = np.frombuffer(self._buffer, np.float32)
        values[: order.size] = order.reshape(-1)
        self._memory = TouchedMemory(values.nbytes)  # the texture will take as much

    def texture(self) -> gpu.types.GPUTexture:
        """Of `ORDER_ROW` texels a row; on the main thread."""
        self._memory.give_back(self._memory.size)
        return gpu.types.GPUTexture((shaders.ORDER_ROW, self._rows), format="RG32F", data=self._buffer)


def order_texture(order: np.ndarray) -> gpu.types.GPUTexture:
    """(N, 2) float32 -> a texture of `ORDER_ROW` texels a row."""
    return PreparedOrder(order).texture()


def paint(
    target: gpu.types.GPUOffScreen,
    view: View,
    atlas: Atlas,
    instances: Sequence[Instance | None],
    order: gpu.types.GPUTexture,
    count: int,
    scene_depth: gpu.types.GPUTexture | None = None,
) -> None:
    """Draw into `target` (view.width x view.height, cleared here): premultiplied, sRGB-encoded colours.

    instances    in the order that `order` was made for; None where an object is gone since
    scene_depth  window depths (0..1) of what may hide Gaussians, one texel a pixel
    """
    with target.bind():
        buffer = gpu.state.active_framebuffer_get()
        buffer.clear(color=(0.0, 0.0, 0.0, 0.0))
        if not count or not atlas.drawable:
            return
        placement = _placement(view, atlas, instances)  # a shader does not keep its textures alive
        shader = shaders.splat_shader()
        shader.bind()
        p = view.projection
        shader.uniform_float("pinhole", view.pinhole())
        shader.uniform_float(
            "frame", (view.width, view.height, float(view.perspective), float(scene_depth is not None))
        )
        shader.uniform_float("depth_terms", (p[2, 2], p[2, 3], p[3, 2], p[3, 3]))
        shader.uniform_int("count", (count,))
        shader.uniform_sampler("order", order)
        shader.uniform_sampler("placement", placement)
        for name, texture in zip(shaders.GEOMETRY, atlas.geometry, strict=True):
            shader.uniform_sampler(name, texture)
        for number, name in enumerate(shaders.COLORS):
            shader.uniform_sampler(name, atlas.colors[min(number, len(atlas.colors) - 1)])
        shader.uniform_sampler("scene_depth", scene_depth if scene_depth is not None else order)
        gpu.state.depth_test_set("NONE")
        gpu.state.depth_mask_set(False)
        gpu.state.face_culling_set("NONE")
        gpu.state.blend_set("ALPHA_PREMULT")
        try:
            shaders.splat_quads().draw_instanced(
                shader, instance_start=0, instance_count=-(-count // shaders.QUADS)
            )
        finally:
            gpu.state.blend_set("NONE")


def _placement(view: View, atlas: Atlas, instances: Sequence[Instance | None]) -> gpu.types.GPUTexture:
    ready = shaders.COLOR_TEXELS * len(atlas.colors)
    table = np.zeros((max(1, len(instances)), shaders.PLACEMENT_TEXELS, 4), np.float32)
    table[:, 4, 0] = -1
    for row, instance in zip(table, instances, strict=False):
        block = atlas.blocks.get(instance.block) if instance is not None else None
        if block is None:
            continue
        row[:3] = (view.view_from_world @ instance.world_from_object)[:3]
        row[3] = eye_in_object(view, instance.world_from_object)
        degree = min(block.degree, isqrt(ready) - 1)
        row[4] = degree, instance.filtered, instance.opacity, 0
    return float_texture(table, (shaders.PLACEMENT_TEXELS, len(table)), "RGBA32F")


def eye_in_object(view: View, world_from_object: np.ndarray) -> np.ndarray:
    """(4,) the eye in the object's own space; orthographic (w = 0): the unit direction of sight.

    Harmonics were fitted in the object's space. A scaled object is a scaled scene: the ray from the eye
    to the Gaussian is taken there.
    """
    eye = np.linalg.solve(world_from_object, view.eye())
    if eye[3] == 0:
        return eye / np.linalg.norm(eye[:3])
    return eye / eye[3]


def lay_over(picture: gpu.types.GPUTexture) -> None:
    """Blend a premultiplied picture over the bound target, which has its size."""
    shader = shaders.lay_shader()
    shader.bind()
    shader.uniform_sampler("picture", picture)
    gpu.state.depth_test_set("NONE")
    gpu.state.depth_mask_set(False)
    gpu.state.blend_set("ALPHA_PREMULT")
    try:
        shaders.whole_frame().draw(shader)
    finally:
        gpu.state.blend_set("NONE")


def read(target: gpu.types.GPUOffScreen) -> np.ndarray:
    """(height, width, 4) float32, rows from the top."""
    width, height = target.width, target.height
    with target.bind():
        buffer = gpu.state.active_framebuffer_get().read_color(0, 0, width, height, 4, 0, "FLOAT")
    buffer.dimensions = width * height * 4
    return np.array(buffer, np.float32).reshape(height, width, 4)[::-1]
