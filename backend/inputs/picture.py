"""Reads a user's picture: any common format in, one upright RGBA `Picture` out, or one clear sentence.

The header is checked before anything is decoded, so a decompression bomb costs nothing.
"""

import errno
import io
import re
import struct
import warnings as python_warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from backend.pipeline.values import Picture
from shared_protocol.errors import AccessDenied, InvalidInput, LimitExceeded

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 7680 * 4320
"""8K UHD, 33 megapixels."""
MIN_SIDE = 32
"""Pixels; below this no object can be told from noise."""
WORKING_SIDE = 2048
"""Pixels; a longer side is averaged down to this, twice the finest cut-out (1024)."""

# Left out on purpose: formats that run other programs (EPS, PDF) or are not pictures of objects.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "TGA", "PPM", "JPEG2000", "QOI")
FORMAT_WORDS = "a PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, TGA, PPM or JPEG 2000 picture"

# What Pillow's decoders raise on damaged data, besides OSError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError,
                  OverflowError, struct.error, zlib.error, MemoryError)  # fmt: skip


@dataclass(frozen=True)
class LoadedPicture:
    """A picture and the sentences a user should read about how it was read."""

    picture: Picture
    warnings: tuple[str, ...]


def read_picture(path: str | Path) -> Picture:
    """The picture of a file; see `load_picture` for the errors."""
    return load_picture(path).picture


def decode_picture(data: bytes, name: str = "the picture") -> Picture:
    """The picture held in a file's bytes; see `load_picture_bytes` for the errors."""
    return load_picture_bytes(data, name).picture


def load_picture(path: str | Path) -> LoadedPicture:
    """Read a picture file.

    Raises InvalidInput (missing, a folder, not a picture, damaged, too small, fully transparent),
    AccessDenied (no permission), LimitExceeded (file or picture too large).
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InvalidInput(f"{path} is a folder", FORMAT_WORDS)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _too_many_bytes(str(path), size)
        data = path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist", FORMAT_WORDS) from None
    except PermissionError:
        raise AccessDenied(
            f"{path} cannot be read", "a file you may read", "Change its permissions."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL, errno.ELOOP):
            raise InvalidInput(f"{path} does not exist", FORMAT_WORDS) from None
        raise AccessDenied(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError:  # a NUL character in the path
        raise InvalidInput(f"{str(path)!r} is not a file name", FORMAT_WORDS) from None
    return load_picture_bytes(data, str(path))


def load_picture_bytes(data: bytes, name: str) -> LoadedPicture:
    """Decode a picture; `name` is what messages call it.

    Upright (EXIF), sRGB (an embedded ICC profile is applied), 16 bits scaled to 8, first frame of an
    animation, longest side at most `WORKING_SIDE`. Errors as in `load_picture`.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _too_many_bytes(name, len(data))
    if not data:
        raise InvalidInput(f"{name} is empty", FORMAT_WORDS)
    warnings: list[str] = []
    with python_warnings.catch_warnings():
        # Pillow warns of odd but readable files (and of sizes that we check ourselves).
        python_warnings.simplefilter("ignore")
        image = _open(data, name)
        _check_size(image, name)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            warnings.append(f"{name} is animated; its first frame is used.")
        try:
            # JPEG can decode at a fraction of its size.
            image.draft("RGB" if image.mode in ("RGB", "L", "YCbCr") else image.mode, (WORKING_SIDE,) * 2)
            image.load()
            image = ImageOps.exif_transpose(image)
            rgba = _to_srgb_rgba(image)
        except _DECODE_ERRORS as error:
            raise InvalidInput(
                f"{name} is damaged or cut short ({_first_line(error)})", FORMAT_WORDS, "Save it again."
            ) from error
        if max(rgba.size) > WORKING_SIDE:
            scale = WORKING_SIDE / max(rgba.size)
            size = tuple(max(1, round(side * scale)) for side in rgba.size)
            rgba = rgba.resize(size, Image.Resampling.BOX)  # Pillow premultiplies RGBA while resizing
    pixels = np.asarray(rgba, dtype=np.float32) / 255
    if pixels[..., 3].max() < 0.02:
        raise InvalidInput(f"{name} is fully transparent", "a picture that shows an object")
    return LoadedPicture(Picture(pixels), tuple(warnings))


def _open(data: bytes, name: str) -> Image.Image:
    Image.init()  # else Pillow knows only the most common formats until it has met a file
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise InvalidInput(f"{name} is not a picture that can be read", FORMAT_WORDS) from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_many_pixels(name, int(pixels[0]) if pixels else 2 * MAX_PIXELS) from None
    except _DECODE_ERRORS as error:
        raise InvalidInput(
            f"{name} is damaged ({_first_line(error)})", FORMAT_WORDS, "Save it again."
        ) from error


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name, width * height, f" ({width} x {height})")
    if min(width, height) < MIN_SIDE:
        raise InvalidInput(
            f"{name} is {width} x {height} pixels",
            f"at least {MIN_SIDE} x {MIN_SIDE}",
            "Use a larger picture.",
        )


def _too_many_pixels(name: str, pixels: int, shape: str = "") -> LimitExceeded:
    return LimitExceeded(
        f"{name} has {pixels / 1e6:.0f} megapixels{shape}",
        f"at most {MAX_PIXELS / 1e6:.0f} megapixels (8K)",
        "Make it smaller.",
        pixels=pixels,
        limit=MAX_PIXELS,
    )


def _too_many_bytes(name: str, size: int) -> LimitExceeded:
    return LimitExceeded(
        f"{name} has {size / 2**20:.0f} MiB",
        f"at most {MAX_FILE_BYTES // 2**20} MiB",
        "Make it smaller or save it as JPEG.",
        bytes=size,
        limit=MAX_FILE_BYTES,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _to_srgb_rgba(image: Image.Image) -> Image.Image:
    """Any mode -> RGBA, 8 bits, sRGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        icc = image.info.get("icc_profile")
        image = image.convert("RGBA")
        image.info["icc_profile"] = icc
    alpha = image.getchannel("A") if "A" in image.getbands() and image.mode != "LAB" else None
    if alpha is not None:
        icc = image.info.get("icc_profile")
        image = image.convert("L" if image.mode == "LA" else "RGB")
        image.info["icc_profile"] = icc
    colour = _apply_profile(image).convert("RGBA")
    if alpha is not None:
        colour.putalpha(alpha)
    return colour


def _apply_profile(image: Image.Image) -> Image.Image:
    """Convert to sRGB by the embedded profile; a missing or broken one leaves Pillow's plain conversion."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16- or 32-bit integer and float grey -> RGBA; Pillow's own conversion would clip, not scale."""
    values = np.asarray(image).astype(np.float64)
    values[~np.isfinite(values)] = 0
    top = float(values.max(initial=0.0))
    white = max(1.0, top) if image.mode == "F" else (65535.0 if top <= 65535 else float(2**32 - 1))
    grey = np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    alpha = np.full_like(grey, 255)
    if isinstance(transparent, int):
        alpha[values == transparent] = 0
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]))
