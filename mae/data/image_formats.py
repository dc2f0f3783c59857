"""Formats of image files: the signatures, the colour mode, and the formats that shards store as PNG."""

from __future__ import annotations

import io
import warnings

import simplejpeg
from PIL import Image

from mae.data.decode import Checked, UndecodableImage, extension_of, pixels

LONGEST_SIGNATURE = 16  # bytes
# `decode` reads these; a WebDataset's readers need not. TIFF's plus sign is that of files above 4 GB.
_REENCODED = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
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
        or (reencoded_format(data) is not None and (data[:2] != b"BM" or data[6:10] == bytes(4)))
        or data.startswith(_OTHER)
        or (data[4:8] == b"ftyp" and data[8:12] in _BRANDS)
    )


def reencoded_format(data: bytes) -> str | None:
    """Name the format, where it is one that shards store as PNG; None for any other."""
    return next((name for signature, name in _REENCODED if data.startswith(signature)), None)


def as_png(data: bytes) -> tuple[bytes, Checked]:
    """Decode a TIFF, BMP or GIF as `decode` does, and encode the upright RGB pixels as PNG.

    Of several frames or pages the first is taken, and the complaint says so.
    Raises: UndecodableImage; also for a camera's raw file, whose TIFF holds a preview.
    """
    array = pixels(data)
    complaint = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=("GIF", "BMP", "TIFF")) as image:
            tags = getattr(image, "tag_v2", {})
            if tags.get(_REDUCED, 0) & 1 or _SUB_IMAGES in tags or _DNG in tags or data[8:10] == b"CR":
                raise UndecodableImage("content is a camera's raw file (a TIFF); develop it to jpg or png")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                complaint = f"holds {frames} frames or pages; the first one is taken"
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue(), Checked("png", array.shape[1], array.shape[0], complaint)


def colour_mode(data: bytes) -> str:
    """Name the colour mode of a decodable image, from its header alone."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            mode = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data)) as image:
                    mode = image.mode
    except Exception:  # PIL's plugins raise nearly anything, and no image is lost for the name of its mode
        return "unknown"
    return "16-bit grey" if mode.startswith("I") else _MODES.get(mode, mode)
