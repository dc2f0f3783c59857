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
from PIL import Image

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
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"<!DOC", "HTML"),
    (b"<html", "HTML"),
    (b"%PDF", "PDF"),
)


class UndecodableImage(ValueError):
    """Bytes that give no image; the message is the reason, for a person to act on."""


class Checked(NamedTuple):
    """The result of a full decoding pass: file extension, upright size in pixels, a decoder's complaint."""

    extension: str
    width: int
    height: int
    complaint: str | None


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

    Greyscale, palette and CMYK/YCCK become RGB; alpha is dropped; 16-bit values are scaled to 8 bits; the
    EXIF orientation is applied; an animation gives its first frame.

    Returns: uint8 tensor (3, H, W), RGB; channels are the fastest-moving axis in memory.
    Raises: UndecodableImage for empty, truncated, foreign or oversized (> MAX_PIXELS) data.
    """
    import torch

    # The wrapped array can be read-only (a transposed PIL buffer); nothing here writes to it in place.
    return torch.from_numpy(pixels(data)).permute(2, 0, 1)


def pixels(data: bytes) -> np.ndarray:
    """Decode an image as `decode` does, into a numpy array (H, W, 3)."""
    if _plain_jpeg(data):
        try:
            array = simplejpeg.decode_jpeg(data, strict=True)
        except ValueError:
            return _pil_pixels(data)
        return np.ascontiguousarray(_turn(array, orientation_of(data)))
    return _pil_pixels(data)


def check(data: bytes) -> Checked:
    """Read every byte of an image's pixel stream, and return its format and size.

    A JPEG is decoded at 1/8 scale, which still reads the whole entropy-coded stream (so truncation and bad
    codes show) in .35 of the time. An image that strict decoding refuses and PIL accepts passes, with
    `complaint` set.

    Raises: UndecodableImage, also for readable images that are neither JPEG, PNG nor WebP.
    """
    extension = extension_of(data)
    if extension is None:
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
    height, width = _pil_pixels(data).shape[:2]
    return Checked(extension, width, height, complaint)


def orientation_of(data: bytes) -> int:
    """Read the EXIF orientation, 1 to 8, that `decode` applies; 1 leaves the pixels as they are."""
    # Few files carry Exif, and in a JPEG it comes first: a bounded search finds it.
    if data[:3] == b"\xff\xd8\xff" and data.find(b"Exif\0\0", 0, 65536) < 0:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
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


def _pil_pixels(data: bytes) -> np.ndarray:
    if not data:
        raise UndecodableImage("zero bytes")
    try:
        with warnings.catch_warnings():
            # PIL warns of odd palettes, corrupt EXIF and large images; the limit below holds.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _guard(*image.size)
                orientation = _orientation(image)
                image.load()
                array = _eight_bit_rgb(image)
    except UndecodableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UndecodableImage(_foreign(data)) from None
    except Image.DecompressionBombError:
        raise UndecodableImage(f"more than the {MAX_PIXELS:,} pixels allowed") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise nearly every built-in exception on damaged data
        raise UndecodableImage(f"{type(error).__name__}: {error}") from None
    return np.array(_turn(array, orientation), order="C")


def _eight_bit_rgb(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I"):  # 16-bit grey (older PIL hands it out in 32 bits): scale, where PIL clips
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        grey = ((grey + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode == "F":
        raise UndecodableImage("floating-point pixels have no stated range; convert to 8 bits")
    if mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


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


def _foreign(data: bytes) -> str:
    if not data:
        return "zero bytes"
    if data[4:8] == b"ftyp":
        name = data[8:12].decode("ascii", "replace")
        return f"content is an ISO media file ({name!r}, as of HEIC or AVIF); convert it to jpg, png or webp"
    for signature, name in _SIGNATURES:
        if data.lstrip()[: len(signature)] == signature or data.startswith(signature):
            return f"content is {name}; convert it to jpg, png or webp"
    return "not an image that can be read (no JPEG, PNG or WebP signature)"
