"""Small lossy pictures of what a job has so far, as bytes that fit a message."""

import io

import numpy as np

LONGEST_SIDE = 384
MAX_BYTES = 256 * 1024
MEDIA_TYPE = "image/jpeg"
BACKGROUND = 0.25
"""Grey behind what is transparent, sRGB-encoded: light and dark objects both stand out."""


def encode_preview(picture: np.ndarray) -> bytes:
    """(H, W, 3 or 4) float32, sRGB-encoded 0..1, straight alpha -> JPEG of at most `MAX_BYTES`."""
    from PIL import Image

    colour = picture[..., :3]
    if picture.shape[-1] == 4:
        alpha = picture[..., 3:]
        colour = colour * alpha + BACKGROUND * (1 - alpha)
    pixels = np.rint(np.clip(np.nan_to_num(colour), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    for quality in (85, 60, 30):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
