"""Decoding: encoded image bytes -> upright RGB pixels, or an error that names the reason.

simplejpeg (libjpeg-turbo, strict) decodes JPEG. PIL decodes all other formats, and each JPEG that simplejpeg
refuses. Torch is imported inside `decode` only: sharding decodes in many fresh processes without it.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    import torch

# Twice PIL's own warning threshold: the point at which PIL refuses an image as a decompression bomb.
MAX_PIXELS = 178_956_970

# By default PIL also tries formats that start other programs (EPS) or hold no 8-bit pictures (FITS, GRIB
# ...).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# EXIF orientation -> (swap rows and columns first, flip rows, flip columns)
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

_SIGNATURES = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # of files above 4 GB
    (b"MM\0+", "TIFF"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"%PDF", "PDF"),
)


class UndecodableImage(ValueError):
    """Bytes that give no image; the message is the reason, for a person to act on."""


DIM = (
    "16-bit values of which none reaches a quarter of their range, so nearly black in 8 bits: set shard.bits "
    "(shard_detect, shard_segment) to those that are in use, such as 12"
)
TRANSPARENT = "transparent pixels: the colours stored under them are used"
ALPHA_ALONE = "one colour under an alpha channel: the alpha channel is drawn"


class Checked(NamedTuple):
    """The result of a full decoding pass: file extension, upright size in pixels, a decoder's complaint.

    remarks: what the pixels may mean otherwise, of DIM, TRANSPARENT and ALPHA_ALONE.
    """

    extension: str
    width: int
    height: int
    complaint: str | None
    remarks: tuple[str, ...] = ()


def extension_of(data: bytes) -> str | None:
    """Tell 'jpg', 'png' or 'webp' by content, whatever the file is called; None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def decode(data: bytes) -> torch.Tensor:
    """Decode an image.

    Greyscale, palette and CMYK/YCCK become RGB; alpha is dropped, unless all pixels under it have one colour:
    then the picture is in it, and it is drawn on white, or on black where that colour is light; 16-bit
    values are scaled to 8 bits; the EXIF orientation is applied; an animation gives its first frame.

    Returns: uint8 tensor (3, H, W), RGB; channels are the fastest-moving axis in memory.
    Raises: UndecodableImage for empty, truncated, foreign or oversized (> MAX_PIXELS) data.
    """
    import torch

    # The wrapped array can be read-only (a transposed PIL buffer); nothing here writes to it in place.
    return torch.from_numpy(pixels(data)).permute(2, 0, 1)


def pixels(data: bytes, bits: int = 16) -> np.ndarray:
    """Decode an image as `decode` does, into a numpy array (H, W, 3), uint8.

    bits: of 16-bit values, so many are in use, and white is the largest number that they hold. Raises:
    UndecodableImage, also for values of more bits, and for 16-bit colours where `bits` is below 16: PIL reads
    8 of them.
    """
    if _plain_jpeg(data):
        try:
            array = simplejpeg.decode_jpeg(data, strict=True)
        except ValueError:
            return _pil_pixels(data)
        return np.ascontiguousarray(_turn(array, orientation_of(data)))
    return _pil_pixels(data, bits)


def open_image(data: bytes, formats: tuple[str, ...] = _FORMATS) -> Image.Image:
    """Open an image by PIL, which reads its header."""
    # ICC profiles and texts above PIL's 1 MB are usual; all of a file's together may have 64 MB.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    return Image.open(io.BytesIO(data), formats=formats)


def check(data: bytes) -> Checked:
    """Read every byte of an image's pixel stream, and return its format and size.

    A JPEG is decoded at 1/8 scale, which still reads the whole entropy-coded stream (so truncation and bad
    codes show) in .35 of the time. An image that strict decoding refuses and PIL accepts passes, with
    `complaint` set.

    The extension is that in a shard: images that `decode` reads and shards do not hold become png.
    Raises: UndecodableImage.
    """
    extension = extension_of(data) or "png"
    if kind_of(data) is None:
        raise UndecodableImage(_foreign(data))
    complaint = None
    if _plain_jpeg(data):
        try:
            simplejpeg.decode_jpeg(data, min_height=1, min_width=1, strict=True)
        except ValueError as error:
            complaint = str(error)
        else:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            if orientation_of(data) >= 5:
                height, width = width, height
            return Checked(extension, width, height, None)
    remarks: list[str] = []
    height, width = _pil_pixels(data, remarks=remarks).shape[:2]
    return Checked(extension, width, height, complaint, tuple(remarks))


def is_deep(data: bytes) -> bool:
    """Tell whether the header announces 16-bit pixels, which `pixels` scales to 8 bits."""
    if data[:3] == b"\xff\xd8\xff":
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(data) as image:
                return _deep(image)
    except Exception:  # a damaged image is named where it is decoded
        return False


def orientation_of(data: bytes) -> int:
    """Read the EXIF orientation, 1 to 8, that `decode` applies; 1 leaves the pixels as they are."""
    # Few files carry Exif, and in a JPEG it comes first: a bounded search finds it.
    if data[:3] == b"\xff\xd8\xff" and data.find(b"Exif\0\0", 0, 65536) < 0:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(data) as image:
                return _orientation(image)
    except Exception:  # the pixels were fine: damaged Exif is no reason to lose the image
        return 1


def _plain_jpeg(data: bytes) -> bool:
    """Tell whether simplejpeg decodes these bytes correctly: a JPEG that is not CMYK. Checks the size,
    too."""
    if data[:3] != b"\xff\xd8\xff":
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: cut short before it says its colours
        return False
    _guard(width, height)
    return colours in ("YCbCr", "Gray", "RGB")


def _guard(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableImage(f"{width}x{height} pixels are more than the {MAX_PIXELS:,} allowed")


def _pil_pixels(data: bytes, bits: int = 16, remarks: list[str] | None = None) -> np.ndarray:
    """Decode by PIL; `remarks` is filled, which takes time."""
    if not data:
        raise UndecodableImage("zero bytes")
    try:
        with warnings.catch_warnings():
            # PIL warns of odd palettes, corrupt EXIF and large images; the limit below holds.
            warnings.simplefilter("ignore")
            with open_image(data) as image:
                return image_pixels(image, bits, remarks)
    except UndecodableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UndecodableImage(_unidentified(data)) from None
    except Image.DecompressionBombError:
        raise UndecodableImage(f"more than the {MAX_PIXELS:,} pixels allowed") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise nearly every built-in exception on damaged data
        raise UndecodableImage(_undecodable(data, error)) from None


def image_pixels(image: Image.Image, bits: int = 16, remarks: list[str] | None = None) -> np.ndarray:
    """Give the pixels of a PIL image, opened or loaded, as `pixels` does; raises what PIL raises, too.

    remarks: a list to fill with what the pixels may mean otherwise, which takes time.
    """
    _guard(*image.size)
    deep = _deep(image)
    image.load()
    orientation = _orientation(image)  # after loading: PIL turns a TIFF itself, and drops the tag
    array = _grey(image, bits) if image.mode.startswith("I") else _rgb(image, deep, bits)
    if remarks is not None:
        remarks += _remarks(image, array, deep)
    return np.array(_turn(array, orientation), order="C")


def _deep(image: Image.Image) -> bool:
    """Tell whether an image that is not loaded yet has 16-bit pixels; of colours PIL loads the upper 8."""
    return image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))


def _grey(image: Image.Image, bits: int) -> np.ndarray:
    """Scale grey values of up to 16 bits to 8, where PIL clips them (older PIL hands them out in 32 bits)."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise UndecodableImage("values of 32 bits or with a sign have no stated range; convert to 16 bits")
    most = 2**bits - 1
    if grey.max() > most:
        raise UndecodableImage(
            f"holds the value {grey.max()}, more than {bits} bits: correct `bits` of the section"
        )
    return np.repeat(((grey * 255 + most // 2) // most).astype(np.uint8)[:, :, None], 3, axis=2)


def _rgb(image: Image.Image, deep: bool, bits: int) -> np.ndarray:
    if image.mode == "F":
        raise UndecodableImage("floating-point pixels have no stated range; convert to 8 bits")
    if deep and bits < 16:
        raise UndecodableImage("16-bit colours cannot be scaled by `bits`; convert to 8 bits")
    array = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if not _is_alpha_alone(image, array):
        return array
    white, black = (255, 255, 255, 255), (0, 0, 0, 255)
    ground = Image.new("RGBA", image.size, white if array[0, 0].mean() < 128 else black)
    return np.asarray(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))


def _is_alpha_alone(image: Image.Image, array: np.ndarray) -> bool:
    """Tell whether a transparent image shows nothing without its alpha channel, as black text does."""
    return image.has_transparency_data and _is_flat(array) and not _is_flat(_alpha(image))


def _is_flat(array: np.ndarray) -> bool:
    return bool((array == array[:1, :1]).all())


def _alpha(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _remarks(image: Image.Image, array: np.ndarray, deep: bool) -> list[str]:
    """List what the decoded pixels may mean otherwise."""
    if deep:
        return [DIM] if array.max() < 64 else []
    if not image.has_transparency_data or (alpha := _alpha(image)).min() == 255:
        return []
    flat = _is_flat(np.asarray(image.convert("RGB"))) and not _is_flat(alpha)
    return [ALPHA_ALONE if flat else TRANSPARENT]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # as above
        return 1
    return value if value in _UPRIGHT else 1


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return array
    swap, rows, columns = _UPRIGHT[orientation]
    if swap:
        array = array.swapaxes(0, 1)
    return array[:: -1 if rows else 1, :: -1 if columns else 1]


def _unidentified(data: bytes) -> str:
    """Say why PIL knows no format: a signature that is there is not denied."""
    kind = kind_of(data)
    if kind is not None:
        return f"content begins as {kind}, but ends or is damaged in its header ({len(data):,} bytes)"
    return _foreign(data)


def _undecodable(data: bytes, error: Exception) -> str:
    kind = kind_of(data) or "image"
    if "MAX_TEXT" in str(error) or "text chunks" in str(error):
        return f"its ICC profile or its texts have more than 64 MB: remove them ({error})"
    if isinstance(error, OSError | EOFError | SyntaxError):
        return f"{kind} is truncated or damaged ({len(data):,} bytes; {error})"
    return f"{kind} cannot be decoded ({type(error).__name__}: {error})"


def kind_of(data: bytes) -> str | None:
    """Name the format of `_FORMATS` whose signature is there; None for any other."""
    if data.startswith(b"BM") and data[6:10] != bytes(4):  # a text; the reserved bytes of a bitmap are zeros
        return None
    named = {"jpg": "JPEG", "png": "PNG", "webp": "WebP"}.get(extension_of(data) or "")
    others = (name for signature, name in _SIGNATURES if name in _FORMATS and data.startswith(signature))
    return named or next(others, None)


def _foreign(data: bytes) -> str:
    """Name the format of bytes that are none of those that are read."""
    if not data:
        return "zero bytes"
    start = data.lstrip()[:24].lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image itself; get the images with `git lfs pull`"
    if start.startswith((b"<!doc", b"<html")):
        return "content is HTML, as a failed download leaves it; fetch the image again"
    if data[4:8] == b"ftyp":
        name = data[8:12].decode("ascii", "replace")
        return f"content is an ISO media file ({name!r}, as of HEIC or AVIF); convert it to jpg, png or webp"
    for signature, name in _SIGNATURES:
        if data.lstrip()[: len(signature)] == signature or data.startswith(signature):
            return f"content is {name}; convert it to jpg, png or webp"
    if len(data) < 12:  # too few for any signature
        return f"not an image that can be read ({len(data)} bytes)"
    return "not an image that can be read (no JPEG, PNG or WebP signature)"
