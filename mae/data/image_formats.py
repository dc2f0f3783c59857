"""Formats of image files: the signatures, the colour mode, and the formats that shards store as PNG."""

from __future__ import annotations

import io
import warnings

import simplejpeg
from PIL import Image

from mae.data.decode import Checked, UndecodableImage, check, extension_of, kind_of, open_image, pixels

LONGEST_SIGNATURE = 16  # bytes
_OTHER = (b"\0\0\0\x0cjP  ", b"\xff\x0a", b"\xff\x4f\xff\x51", b"8BPS")  # JPEG 2000, JPEG XL, Photoshop
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # of ISO media files
_REDUCED, _SUB_IMAGES, _DNG = 254, 330, 50706  # TIFF tags
_MODES = {
    "1": "black and white",
    "L": "grey",
    "Gray": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "PA": "palette with alpha",
    "YCbCr": "RGB",
    "RGBA": "RGB with alpha",
    "YCCK": "CMYK",
    "F": "floating point",
}


def is_image_content(data: bytes) -> bool:
    """Tell whether a file that begins with these bytes, LONGEST_SIGNATURE or more, is an image."""
    return (
        extension_of(data) is not None
        or reencoded_format(data) is not None
        or data.startswith(_OTHER)
        or (data[4:8] == b"ftyp" and data[8:12] in _BRANDS)
    )


def reencoded_format(data: bytes) -> str | None:
    """Name the format, where it is one that `decode` reads and shards store as PNG; None for any other."""
    return kind_of(data) if extension_of(data) is None else None


def as_png(data: bytes, bits: int | None = None) -> tuple[bytes, Checked]:
    """Decode an image as `decode` does, and encode the upright RGB pixels as PNG.

    bits: that are in use in 16-bit values (see `pixels`); None: all. Of several frames or pages the first is
    taken, and the complaint says so.
    Raises: UndecodableImage; also for a camera's raw file, whose TIFF holds a preview.
    """
    complaint = _first_frame(data) if reencoded_format(data) is not None else None
    buffer = io.BytesIO()
    Image.fromarray(pixels(data, bits or 16)).save(buffer, "PNG")
    body = buffer.getvalue()
    # Values that were scaled by their bits are dim no more.
    checked = check(data if bits is None else body)
    return body, checked._replace(complaint=complaint or checked.complaint)


def _first_frame(data: bytes) -> str | None:
    """Say that there are more frames than the first; raise UndecodableImage where the first is a preview."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(data) as image:
                tags, frames = getattr(image, "tag_v2", {}), getattr(image, "n_frames", 1)
                preview = tags.get(_REDUCED, 0) & 1 or _SUB_IMAGES in tags or _DNG in tags
    except Exception:  # a damaged image is named where it is decoded
        return None
    if preview or data[8:10] == b"CR":
        raise UndecodableImage("content is a camera's raw file (a TIFF); develop it to jpg or png")
    return f"holds {frames} frames or pages; the first one is taken" if frames > 1 else None


def colour_mode(data: bytes) -> str:
    """Name the colour mode of a decodable image, from its header alone."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            mode = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with open_image(data) as image:
                    mode = image.mode
    except Exception:  # PIL's plugins raise nearly anything, and no image is lost for the name of its mode
        return "unknown"
    return "16-bit grey" if mode.startswith("I") else _MODES.get(mode, mode)
