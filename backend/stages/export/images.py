"""PNG bytes that depend on the pixels only: fixed compression, no time, no text chunks."""

import io

import numpy as np
from PIL import Image

from backend.pipeline.values import quantize

_COMPRESS_LEVEL = 4
"""2.5 times as fast as Pillow's 6 for 7 % more bytes."""


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 3 or 4) float 0..1 or uint8 -> PNG; colour under alpha 0 is written as black."""
    pixels = picture if picture.dtype == np.uint8 else quantize(picture)
    if pixels.shape[2] == 4:
        pixels = np.where(pixels[..., 3:] == 0, np.uint8(0), pixels)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
    return buffer.getvalue()
