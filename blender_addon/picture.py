"""The input picture: a file or an image datablock -> a function that gives the bytes of a picture file.

What needs bpy is done at once, on the main thread; reading and encoding are left to the client's thread.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np

from shared_protocol.conventions import srgb_from_linear
from shared_protocol.errors import AccessDenied, InvalidInput

from . import history
from .importers import png

MAX_BYTES = 32 << 20
MOST_PIXELS = 7680 * 4320
"""The backend's limits for one picture."""

_MANY = {"MOVIE": "is a film", "SEQUENCE": "is a sequence of pictures", "TILED": "has several tiles (UDIM)"}

SENT_AS_THEY_ARE = {"PNG", "JPEG", "WEBP", "BMP", "TIFF", "TARGA"}
"""Formats the backend reads; others (OpenEXR ...) are sent as PNG, as Blender has read them."""


def from_file(path_text: str) -> tuple[str, Callable[[], bytes]]:
    """(name, reader) of a picture file; `//` paths are relative to the .blend file.

    Raises InvalidInput when there is no such file.
    """
    if not path_text.strip():
        raise InvalidInput("no picture is chosen", remedy="Choose a file or an image.")
    path = Path(bpy.path.abspath(path_text)).expanduser()
    if not path.is_file():
        raise InvalidInput(
            f"there is no file {path}", "a picture (PNG, JPEG, WebP ...)", "Choose another file."
        )
    return history.own_name(path.stem), lambda: _read(path)


def file_name(path_text: str) -> str:
    """The name that the backend is told."""
    return history.own_name(Path(bpy.path.abspath(path_text)).name)


def from_image(image: bpy.types.Image | None) -> tuple[str, Callable[[], bytes]]:
    """(name, reader) of an image datablock: its file's bytes while unchanged, else its pixels as PNG.

    Raises InvalidInput when the image has no pixels, too many, or is more than one picture.
    """
    if image is None:
        raise InvalidInput("no image is chosen", remedy="Choose an image, or a file.")
    name = Path(image.name).stem or image.name
    if image.source in _MANY:
        raise InvalidInput(
            f"the image '{image.name}' {_MANY[image.source]}", "one picture",
            "Save the picture that shows the object as a file of its own, and choose that.",
        )  # fmt: skip
    if image.source == "FILE" and not image.is_dirty and image.file_format in SENT_AS_THEY_ARE:
        if image.packed_file is not None:
            data = bytes(image.packed_file.data)
            return name, lambda: data
        path = _file_of(image)
        if path.is_file():
            return name, lambda: _read(path)
    if image.type == "RENDER_RESULT":
        return name, _render_result(image)
    width, height = image.size
    if not width or not height or not image.channels:
        if image.source == "FILE" and image.packed_file is None and not _file_of(image).is_file():
            raise InvalidInput(
                f"the image '{image.name}' has lost its file {_file_of(image)}", remedy="Open it again."
            )
        raise InvalidInput(f"the image '{image.name}' has no pixels", remedy="Choose another image.")
    if width * height > MOST_PIXELS:
        raise InvalidInput(
            f"the image '{image.name}' has {width} x {height} pixels",
            f"at most {MOST_PIXELS / 1e6:.0f} megapixels",
            "Scale it down: Image > Resize in the image editor.",
        )
    channels = image.channels
    pixels = np.empty(width * height * channels, np.float32)
    image.pixels.foreach_get(pixels)
    linear = image.is_float
    return name, lambda: _png(pixels.reshape(height, width, channels)[::-1], linear)


def _file_of(image: bpy.types.Image) -> Path:
    return Path(bpy.path.abspath(image.filepath, library=image.library))


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not size:
            raise InvalidInput(f"{path.name} is empty", "a picture", "Choose another file.")
        if size > MAX_BYTES:
            raise InvalidInput(
                f"{path.name} has {size >> 20} MB", f"at most {MAX_BYTES >> 20} MB", "Save it smaller."
            )
        return path.read_bytes()
    except OSError as error:
        raise AccessDenied(
            f"{path} cannot be read ({error.strerror})", remedy="Choose a file you may read."
        ) from error


def _render_result(image: bpy.types.Image) -> Callable[[], bytes]:
    """The last render; its pixels can only be had by saving it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "render.png"
        try:
            image.save_render(str(path))
            data = path.read_bytes()
        except (RuntimeError, OSError) as error:
            raise InvalidInput("there is no render yet", remedy="Render a picture first (F12).") from error
    return lambda: data


def _png(pixels: np.ndarray, linear: bool) -> bytes:
    """(H, W, C) float, rows from the top -> PNG.

    Scene-linear pixels, whose colours Blender keeps multiplied by alpha, are divided by it and sRGB-encoded.
    """
    if pixels.shape[2] in (1, 2):  # grey, grey with alpha
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
    color = pixels[..., :3]
    if linear:
        alpha = pixels[..., 3:] if pixels.shape[2] == 4 else np.ones_like(pixels[..., :1])
        color = srgb_from_linear(color / np.where(alpha > 0, alpha, 1))
    pixels = np.concatenate([color, pixels[..., 3:]], axis=2)
    return png.encode(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
