import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from mae.data.decode import (
    ALPHA_ALONE,
    DIM,
    MAX_PIXELS,
    TRANSPARENT,
    UndecodableImage,
    check,
    decode,
    is_deep,
    pixels,
)


def as_pil(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def assert_close(data: bytes, tolerance: int = 3) -> None:
    got = decode(data)
    assert got.dtype == torch.uint8
    assert got.shape == as_pil(data).shape
    assert np.abs(got.numpy().astype(int) - as_pil(data).astype(int)).max() <= tolerance


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_colour_space_become_rgb_as_pil_sees_them(picture, encoded, mode):
    assert_close(encoded(picture(0).convert(mode), quality=95))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1"])
def test_pngs_of_every_mode_become_rgb(picture, encoded, mode):
    assert_close(encoded(picture(0).convert(mode), "PNG"), tolerance=0)


def test_a_palette_with_byte_transparency_decodes_without_a_warning(picture, encoded):
    palette = picture(0).convert("P")
    got = decode(encoded(palette, "PNG", transparency=bytes(range(200))))
    np.testing.assert_array_equal(got.numpy(), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, encoded, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(1), format, exif=exif)
    assert_close(data)
    checked = check(data)
    assert (3, checked.height, checked.width) == as_pil(data).shape


def test_sixteen_bits_are_scaled_not_clipped(encoded):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    got = decode(encoded(Image.fromarray(ramp), "PNG"))
    expected = torch.from_numpy(np.round(ramp / 257).astype(np.uint8)).expand(3, 16, 16)
    torch.testing.assert_close(got, expected)


def test_twelve_bits_in_sixteen_are_remarked_and_can_be_scaled(encoded):
    ramp = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    data = encoded(Image.fromarray(ramp), "PNG")
    assert check(data).remarks == (DIM,)
    assert pixels(data).max() == 16
    np.testing.assert_array_equal(pixels(data, 12)[:, :, 0], np.round(ramp / 4095 * 255))
    with pytest.raises(UndecodableImage, match=r"holds the value 4095, more than 11 bits: correct"):
        pixels(data, 11)
    assert check(encoded(Image.fromarray(ramp * 16), "PNG")).remarks == ()


def rgb16_png(value: int) -> bytes:
    """A PNG of 8x8 pixels with 16 bits a colour, which PIL reads and does not write."""
    rows = (b"\0" + struct.pack(">H", value) * 24) * 8
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    made = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_dim_sixteen_bit_colours_are_remarked_and_not_scaled():
    assert is_deep(rgb16_png(3000))
    assert check(rgb16_png(3000)).remarks == (DIM,)
    assert check(rgb16_png(30000)).remarks == ()
    with pytest.raises(UndecodableImage, match=r"16-bit colours cannot be scaled by `bits`"):
        pixels(rgb16_png(3000), 12)


def test_values_of_32_bits_are_refused_not_clipped(encoded):
    wide = Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32))
    with pytest.raises(UndecodableImage, match="no stated range; convert to 16 bits"):
        decode(encoded(wide, "TIFF"))


def drawn_in_alpha(mode: str, colour: int) -> Image.Image:
    """A square that only the alpha channel shows."""
    alpha = Image.new("L", (12, 12))
    alpha.paste(255, (3, 3, 9, 9))
    image = Image.new("L", (12, 12), colour).convert(mode[:-1])
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("colour", "ground"), [(0, 255), (255, 0)])
def test_a_picture_in_the_alpha_channel_alone_is_drawn(encoded, mode, colour, ground):
    data = encoded(drawn_in_alpha(mode, colour), "PNG")
    got = pixels(data)
    assert (got[0, 0].tolist(), got[5, 5].tolist()) == ([ground] * 3, [colour] * 3)
    assert check(data).remarks == (ALPHA_ALONE,)


def test_a_palette_whose_transparency_is_the_picture_is_drawn(encoded):
    image = Image.new("P", (12, 12))
    image.putpalette([0, 0, 0] * 256)
    image.paste(1, (3, 3, 9, 9))
    got = pixels(encoded(image, "PNG", transparency=0))
    assert (got[0, 0].tolist(), got[5, 5].tolist()) == ([255] * 3, [0] * 3)


def test_colours_under_transparent_pixels_are_kept_and_remarked(picture, encoded):
    image = picture(0).convert("RGBA")
    assert check(encoded(image, "PNG")).remarks == ()
    image.putalpha(Image.new("L", image.size, 10))
    data = encoded(image, "PNG")
    assert check(data).remarks == (TRANSPARENT,)
    np.testing.assert_array_equal(pixels(data), np.asarray(picture(0)))


def test_a_large_colour_profile_or_text_loses_no_image(picture, encoded):
    noise = np.random.default_rng(0).integers(0, 256, 1 << 21, dtype=np.uint8).tobytes()
    text = PngInfo()
    text.add_text("notes", "x" * (1 << 21), zip=True)
    plain = encoded(picture(0), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        encoded(picture(0), "PNG", icc_profile=noise),
        encoded(picture(0), "PNG", pnginfo=text),
    ):
        assert check(data) == check(plain)
        np.testing.assert_array_equal(pixels(data), pixels(plain))
    turned = encoded(picture(0), "PNG", icc_profile=noise, exif=exif)
    assert pixels(turned).shape == (40, 32, 3)
    with pytest.raises(UndecodableImage, match="its ICC profile or its texts have more than 64 MB: remove"):
        check(encoded(picture(0), "PNG", icc_profile=bytes(70_000_000)))


@pytest.mark.parametrize("read", [pixels, check])
@pytest.mark.parametrize(("format", "name"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP")])
def test_the_reason_never_denies_a_signature_that_is_there(picture, encoded, format, name, read):
    data = encoded(picture(2, 200, 160), format)
    for keep in (12, 16, 20, 60, len(data) // 2, len(data) - 200):
        with pytest.raises(UndecodableImage, match=rf"{name}.*(truncated|damaged)"):
            read(data[:keep])


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF"])
def test_a_cut_image_of_another_format_is_not_sent_to_be_converted(picture, encoded, format):
    with pytest.raises(UndecodableImage, match=rf"{format}.*damaged"):
        pixels(encoded(picture(0), format)[:40])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(picture, encoded, format):
    frames = [picture(seed).quantize(16).convert("RGB") for seed in range(3)]
    options = {} if format == "GIF" else {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(data).numpy(), np.asarray(frames[0]).transpose(2, 0, 1))


def test_content_decides_the_extension_not_the_name(picture, encoded):
    kinds = {format: check(encoded(picture(0), format)).extension for format in ("JPEG", "PNG", "WEBP")}
    assert kinds == {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@pytest.mark.parametrize("read", [decode, check])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("keep", [0, 2, 60, 0.5, 0.95])
def test_truncated_images_are_refused(picture, encoded, format, keep, read):
    data = encoded(picture(2, 200, 160), format)
    with pytest.raises(UndecodableImage):
        read(data[: keep if isinstance(keep, int) else int(len(data) * keep)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>no", "HTML.* fetch the image again"),
        (b"<!doctype html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS.* `git lfs pull`"),
        (b"x" * 99, "not an image"),
    ],
)
@pytest.mark.parametrize("read", [decode, check])
def test_what_is_no_image_is_refused_with_a_reason(data, reason, read):
    with pytest.raises(UndecodableImage, match=reason):
        read(data)


def test_formats_that_shards_do_not_hold_are_checked_as_the_png_that_they_become(picture, encoded):
    for format in ("GIF", "BMP", "TIFF"):
        data = encoded(picture(0), format)
        assert decode(data).shape == (3, 32, 40)
        assert check(data)[:3] == ("png", 40, 32)
    with pytest.raises(UndecodableImage, match=r"JPEG 2000; convert it"):
        check(encoded(picture(0), "JPEG2000"))


def test_an_oversized_image_is_refused_before_it_is_decoded(picture, encoded):
    side = 1 + int(MAX_PIXELS**0.5)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png += struct.pack(">I", 99) + b"IDAT" + bytes(99)
    jpeg = bytearray(encoded(picture(0)))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    for data in (png, bytes(jpeg)):
        for read in (decode, check):
            with pytest.raises(UndecodableImage, match="pixels"):
                read(data)


def test_a_harmless_complaint_is_reported_and_the_image_stays(picture, encoded):
    data = encoded(picture(0, 200, 160))
    scan = data.index(b"\xff\xda")
    complained = data[:scan] + b"\0\0\0" + data[scan:]  # extraneous bytes before a marker
    assert check(data).complaint is None
    assert "extraneous" in (check(complained).complaint or "")
    torch.testing.assert_close(decode(complained), decode(data), atol=3, rtol=0)


def test_damaged_exif_does_not_lose_the_image(picture, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(0), exif=exif)
    at = data.index(b"Exif\0\0") + 6
    assert decode(data[:at] + b"\xff" * 8 + data[at + 8 :]).shape == (3, 32, 40)
