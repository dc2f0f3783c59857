import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae.data.label_png import UnreadableMap, label_values


def packed(values, depth):
    """A grey PNG of 1, 2, 4, 8 or 16 bits, written here bit by bit."""
    height, width = values.shape
    rows = b""
    for row in values:
        bits = "".join(format(int(value), f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_values_of_every_depth_come_out_as_stored(depth):
    values = np.random.default_rng(depth).integers(0, 2**depth, (7, 13))
    np.testing.assert_array_equal(label_values(packed(values, depth)), values)


def test_a_palette_s_indices_are_the_values(encoded):
    values = np.random.default_rng(0).integers(0, 21, (9, 5), dtype=np.uint8)
    palette = Image.new("P", (5, 9))
    palette.putdata(values.reshape(-1).tolist())
    palette.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    np.testing.assert_array_equal(label_values(encoded(palette, "PNG")), values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_map_in_colours_is_refused_as_one(mode, encoded, picture):
    with pytest.raises(UnreadableMap, match="RGB-coded"):
        label_values(encoded(picture(0).convert(mode), "PNG"))


def test_bytes_that_are_no_whole_png_are_refused_with_the_reason(encoded, picture):
    png = encoded(picture(0).convert("L"), "PNG")
    for data, message in (
        (b"", "zero bytes"),
        (encoded(picture(0)), "no PNG"),
        (png[:20], "is a PNG cut short after 20 bytes"),
        (png[:5], "is a PNG cut short after 5 bytes"),
        (png[: len(png) // 2], "cannot be decoded"),
        (png[:60] + b"\0\0\0\0" + png[64:], "cannot be decoded"),
    ):
        with pytest.raises(UnreadableMap, match=message):
            label_values(data)


def test_a_map_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("mae.data.label_png.MAX_PIXELS", 10)
    buffer = io.BytesIO()
    Image.new("L", (4, 3)).save(buffer, "PNG")
    with pytest.raises(UnreadableMap, match="more than the 10 pixels"):
        label_values(buffer.getvalue())
