"""Label maps: PNG bytes -> pixel values as they are stored, not turned, scaled or coloured."""

from __future__ import annotations

import warnings

import numpy as np

from mae.data.decode import MAX_PIXELS, extension_of, open_image

MAX_VALUE = 65535
# PNG colour types that hold more than one number per pixel.
_COLOURED = {2: "RGB", 4: "grey with alpha", 6: "RGBA"}


class UnreadableMap(ValueError):
    """Bytes that are no label map; the message is the reason, for a person to act on."""


def label_values(data: bytes) -> np.ndarray:
    """Decode the values of a label map: a grey or palette PNG of 1 to 16 bits.

    A palette's colours are ignored: its indices are the values (as in PASCAL VOC).
    Returns: (H, W) uint8, or int32 where there are 16 bits. Raises: UnreadableMap.
    """
    if extension_of(data) != "png" or len(data) < 26:
        what = "is no PNG (another format would not keep values exactly)"
        if data[:8] == b"\x89PNG\r\n\x1a\n"[: len(data)]:
            what = f"is a PNG cut short after {len(data)} bytes" if data else "has zero bytes"
        raise UnreadableMap(f"label map {what}")
    depth, colour_type = data[24], data[25]  # of the header chunk, which comes first
    if colour_type in _COLOURED:
        raise UnreadableMap(
            f"label map is RGB-coded ({_COLOURED[colour_type]}): it holds colours where class numbers are "
            "expected; write each colour's class number into a grey PNG"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images; the limit below holds
            with open_image(data, ("PNG",)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableMap(f"label map of more than the {MAX_PIXELS:,} pixels allowed")
                values = np.array(image)
    except (UnreadableMap, MemoryError):
        raise
    except Exception as error:  # as in `decode`: damaged data raises nearly anything
        raise UnreadableMap(f"label map cannot be decoded ({type(error).__name__}: {error})") from None
    if depth == 16:
        return values.astype(np.int32)
    if colour_type == 0 and depth in (2, 4):
        values //= 255 // (2**depth - 1)  # PIL spreads fewer than 8 bits of grey over the whole range
    return values.astype(np.uint8, copy=False)
