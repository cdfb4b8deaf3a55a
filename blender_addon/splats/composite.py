"""Gaussians drawn over what Blender rendered, and the picture put where the user wants it."""

from pathlib import Path

import bpy
import gpu
import numpy as np

from shared_protocol.conventions import linear_from_srgb
from shared_protocol.errors import InvalidInput

from . import painter
from .atlas import Atlas
from .backdrop import Backdrop
from .order import far_to_near
from .painter import Instance
from .view import View

IMAGE = "Gaussians Render"
STILLS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "TARGA", "OPEN_EXR")


def depth_texture(view: View, away: np.ndarray) -> gpu.types.GPUTexture:
    """(H, W) metres along the line of sight -> window depths, as `painter.paint` wants them."""
    p = view.projection
    z = -np.minimum(away.astype(np.float64), 1e9)[::-1]
    depth = 0.5 + 0.5 * (p[2, 2] * z + p[2, 3]) / (p[3, 2] * z + p[3, 3])
    flat = np.ascontiguousarray(depth, np.float32).ravel()
    return gpu.types.GPUTexture(
        (view.width, view.height), format="R32F", data=gpu.types.Buffer("FLOAT", len(flat), flat)
    )


def draw(view: View, instances: list[Instance], backdrop: Backdrop | None, atlas: Atlas) -> np.ndarray:
    """(H, W, 4) straight, sRGB-encoded: the Gaussians over the backdrop."""
    order = far_to_near(view.view_from_world, painter.placed(atlas, instances))
    target = gpu.types.GPUOffScreen(view.width, view.height, format="RGBA16F")
    texture = painter.order_texture(order)
    depth = depth_texture(view, backdrop.away) if backdrop is not None else None
    painter.paint(target, view, atlas, instances, texture, len(order), depth)
    drawn = np.clip(painter.read(target), 0, 1)
    target.free()
    if backdrop is not None:
        behind = backdrop.color.copy()
        behind[..., :3] *= behind[..., 3:]
        drawn = drawn + (1 - drawn[..., 3:]) * behind
    drawn[..., :3] /= np.maximum(drawn[..., 3:], 1e-6)
    return np.clip(drawn, 0, 1)


def keep_picture(picture: np.ndarray, scene: bpy.types.Scene, path: Path | None) -> bpy.types.Image:
    """Put (H, W, 4) into the image `IMAGE`, and into a file of the scene's format. Raises InvalidInput."""
    height, width = picture.shape[:2]
    kind = scene.render.image_settings.file_format
    if path is not None and kind not in STILLS:
        raise InvalidInput(
            f"the output format is {kind}",
            "an image format: " + ", ".join(STILLS),
            "Choose PNG under Output; make a film of the frames afterwards.",
        )
    linear = path is not None and kind == "OPEN_EXR"
    old = bpy.data.images.get(IMAGE)
    if old is not None and (tuple(old.size) != (width, height) or old.is_float != linear):
        bpy.data.images.remove(old)
        old = None
    image = old or bpy.data.images.new(IMAGE, width, height, alpha=True, float_buffer=linear)
    values = picture.astype(np.float32)
    if linear:
        values = np.concatenate(
            [linear_from_srgb(values[..., :3]) * values[..., 3:], values[..., 3:]], axis=2
        )
    image.pixels.foreach_set(np.ascontiguousarray(values[::-1]).ravel())
    image.update()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.file_format = kind
        image.filepath_raw = str(path)
        image.save()
    return image
