"""Blender's own render as numbers: its colours as they are displayed, and the depth of each pixel."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from shared_protocol.errors import InvalidInput

from . import layout
from .exr import read_channel


@dataclass(frozen=True)
class Backdrop:
    """What Blender rendered: straight sRGB-encoded `color` (H, W, 4) and `away` (H, W), metres along the
    line of sight of the camera; rows from the top."""

    color: np.ndarray
    away: np.ndarray


@contextmanager
def without_gaussians(scene: bpy.types.Scene, view_layer: bpy.types.ViewLayer) -> Iterator[None]:
    """While Blender renders: its nodes' Gaussians hidden, the depth pass on, no file written."""
    hidden = [item for item in bpy.data.objects if layout.is_splats(item) and not item.hide_render]
    depth = view_layer.use_pass_z
    view_layer.use_pass_z = True
    for item in hidden:
        item.hide_render = True
    try:
        yield
    finally:
        view_layer.use_pass_z = depth
        for item in hidden:
            item.hide_render = False


def backdrop_of(scene: bpy.types.Scene) -> Backdrop:
    """The finished Render Result. Raises InvalidInput when it has no depth."""
    result = bpy.data.images["Render Result"]
    with tempfile.TemporaryDirectory(prefix="orrery-render-") as folder:
        depth, color = Path(folder) / "depth.exr", Path(folder) / "color.png"
        with _format(scene, "OPEN_EXR_MULTILAYER", color_depth="32", exr_codec="NONE"), _square(scene.render):
            result.save_render(str(depth), scene=scene)
        with _format(scene, "PNG", color_depth="8", color_mode="RGBA", compression=0):
            result.save_render(str(color), scene=scene)
        away = read_channel(depth.read_bytes(), ".Depth.Z")
        image = bpy.data.images.load(str(color))
        try:
            pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
            image.pixels.foreach_get(pixels)
            pixels = pixels.reshape(image.size[1], image.size[0], 4)[::-1]
        finally:
            bpy.data.images.remove(image)
    if pixels.shape[:2] != away.shape:
        raise InvalidInput(
            "picture and depth of the render differ in size", "one size", "Switch Render Region off."
        )
    return Backdrop(pixels, away)


@contextmanager
def _square(render: bpy.types.RenderSettings) -> Iterator[None]:
    """Square pixels for a moment: Blender 5.0 writes no OpenEXR of several parts with others."""
    before = render.pixel_aspect_x, render.pixel_aspect_y
    render.pixel_aspect_x = render.pixel_aspect_y = 1
    try:
        yield
    finally:
        render.pixel_aspect_x, render.pixel_aspect_y = before


@contextmanager
def _format(scene: bpy.types.Scene, kind: str, **wanted: object) -> Iterator[None]:
    """The scene's output format for a moment."""
    settings = scene.render.image_settings
    names = ("media_type", "file_format", "color_mode", *wanted)
    before = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    try:
        if hasattr(settings, "media_type"):
            settings.media_type = "MULTI_LAYER_IMAGE" if kind == "OPEN_EXR_MULTILAYER" else "IMAGE"
        settings.file_format = kind
        for name, value in wanted.items():
            setattr(settings, name, value)
        yield
    finally:
        for name, value in before.items():
            # Depths and colour modes of one format are not all known to another.
            with suppress(TypeError):
                setattr(settings, name, value)
