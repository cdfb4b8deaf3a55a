"""Reading a user's picture: every format upright and scaled right, every bad file one clear sentence."""

import io
import os
import resource
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from backend.inputs import picture as reader
from backend.inputs.picture import decode_picture, load_picture, load_picture_bytes, read_picture
from shared_protocol.errors import AccessDenied, InvalidInput, LimitExceeded


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(mode: str, left: object, right: object, size: int = 64) -> Image.Image:
    image = Image.new(mode, (size, size), left)
    image.paste(right, (size // 2, 0, size, size))
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(pixels: np.ndarray) -> bytes:
    """A 16-bit PNG written by hand: (H, W, C) uint16, C = 1 grey, 3 RGB, 4 RGBA."""
    height, width, channels = pixels.shape
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def test_rgba_png_comes_back_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    rgba = read_picture(path).rgba
    assert rgba.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.rint(rgba * 255))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "TGA", "PPM"])
def test_common_formats_are_read(kind):
    rgba = decode_picture(encoded(halves("RGB", (250, 0, 0), (0, 0, 250)), kind)).rgba
    assert rgba.shape == (64, 64, 4)
    np.testing.assert_allclose([0.98, 0, 0, 1], rgba[30, 5], atol=0.03)
    np.testing.assert_allclose([0, 0, 0.98, 1], rgba[30, 60], atol=0.03)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_png_is_scaled_not_clipped(channels):
    pixels = np.full((48, 48, channels), 0x8000, dtype=np.uint16)
    pixels[:, 24:] = 0xFFFF
    rgba = decode_picture(deep_png(pixels)).rgba
    np.testing.assert_allclose(0.5, rgba[10, 10, :3], atol=0.004)
    np.testing.assert_allclose(1.0, rgba[10, 40, :3], atol=1e-6)


def test_float_tiff_is_scaled_to_its_brightest_pixel():
    values = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    rgba = decode_picture(encoded(Image.fromarray(values), "TIFF")).rgba
    np.testing.assert_allclose(values, rgba[..., 0], atol=0.003)


def test_cmyk_jpeg_becomes_rgb():
    rgba = decode_picture(encoded(halves("CMYK", (0, 255, 255, 0), (255, 0, 0, 0)), "JPEG", quality=95)).rgba
    red, cyan = rgba[30, 5], rgba[30, 60]
    assert red[0] > 0.9 and red[1] < 0.1 and red[3] == 1
    assert cyan[0] < 0.1 and cyan[1] > 0.9


def test_embedded_icc_profile_is_applied():
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert linear  # a profile that does not fit RGB is passed over, not fatal
    plain = decode_picture(encoded(halves("RGB", (200, 100, 50), (0, 0, 0)), icc_profile=linear)).rgba
    np.testing.assert_allclose(np.array([200, 100, 50]) / 255, plain[5, 5, :3], atol=0.003)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decode_picture(encoded(halves("RGB", (200, 100, 50), (0, 0, 0)), icc_profile=srgb)).rgba
    np.testing.assert_allclose(plain, same, atol=0.008)


def test_palette_with_transparency_keeps_it():
    image = halves("RGB", (255, 0, 0), (0, 255, 0)).quantize(2)
    rgba = decode_picture(encoded(image, transparency=image.getpixel((0, 0)))).rgba
    assert rgba[5, 5, 3] == 0
    np.testing.assert_allclose([0, 1, 0, 1], rgba[5, 60], atol=0.01)


def test_grey_with_alpha_keeps_both():
    rgba = decode_picture(encoded(halves("LA", (128, 255), (255, 0)))).rgba
    np.testing.assert_allclose([128 / 255] * 3 + [1], rgba[5, 5], atol=1e-6)
    assert rgba[5, 60, 3] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = halves("RGB", (255, 0, 0), (0, 0, 255), 64).resize((64, 48))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that gives the stored pixels
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgba = decode_picture(encoded(stored, "PNG", exif=exif)).rgba
    assert rgba.shape[:2] == (48, 64)
    assert rgba[24, 5, 0] > 0.9 and rgba[24, 60, 2] > 0.9


def test_animation_gives_its_first_frame_and_says_so():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    loaded = load_picture_bytes(data, "film.gif")
    assert loaded.picture.rgba[5, 5, 0] > 0.9
    assert loaded.warnings == ("film.gif is animated; its first frame is used.",)


def test_large_picture_is_averaged_down_without_dark_edges():
    image = Image.new("RGBA", (4000, 100), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 2001, 100))
    rgba = decode_picture(encoded(image)).rgba
    assert rgba.shape[1] == reader.WORKING_SIDE
    visible = rgba[..., 3] > 0.05
    np.testing.assert_allclose(1.0, rgba[visible][:, :3], atol=0.01)


def bomb(side: int = 30_000) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data)


def test_decompression_bomb_is_refused_from_its_header():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LimitExceeded, match=r"900 megapixels.*at most 33 megapixels"):
        decode_picture(bomb())
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 64 * 2**20


@pytest.mark.parametrize("side", [6000, 11_000])
def test_picture_above_8k_is_refused_with_its_numbers(side):
    with pytest.raises(LimitExceeded, match=rf"{side} x {side}.*at most 33 megapixels"):
        decode_picture(bomb(side))


def test_file_above_the_byte_limit_is_refused_before_reading(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as stream:
        stream.truncate(reader.MAX_FILE_BYTES + 1)
    with pytest.raises(LimitExceeded, match="at most 32 MiB"):
        read_picture(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_file_is_refused(kind):
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InvalidInput, match=r"damaged|not a picture"):
        decode_picture(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"hello, this is text" * 20, b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.4\n%%EOF"]
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(InvalidInput, match="expected a PNG, JPEG"):
        decode_picture(data, "note.txt")


def test_missing_file_folder_and_nul_name_are_refused(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path, "a\0b.png", tmp_path / "file" / "x.png"):
        with pytest.raises(InvalidInput):
            read_picture(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the super-user reads every file")
def test_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(halves("RGB", "red", "blue")))
    path.chmod(0)
    with pytest.raises(AccessDenied, match="cannot be read"):
        read_picture(path)


def test_permission_error_of_the_system_becomes_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(halves("RGB", "red", "blue")))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(AccessDenied, match="cannot be read"):
        read_picture(path)


def test_one_pixel_picture_is_refused():
    with pytest.raises(InvalidInput, match="1 x 1 pixels; expected at least 32 x 32"):
        decode_picture(encoded(Image.new("RGB", (1, 1))))


def test_fully_transparent_picture_is_refused():
    with pytest.raises(InvalidInput, match="is fully transparent"):
        decode_picture(encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0))))


def test_warnings_travel_with_the_picture(tmp_path):
    path = tmp_path / "still.png"
    path.write_bytes(encoded(halves("RGB", "red", "blue")))
    assert load_picture(path).warnings == ()
