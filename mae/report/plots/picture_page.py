"""Pages of pictures with headings and a legend, as PNG files. Drawn without a screen.

H, W: pixels of a picture; `side`: its longer side on the page, px.
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mae.files import atomic_write

PAPER, INK, GREY = (255, 255, 255), (36, 41, 47), (118, 118, 118)
GAP, TEXT, STRIP = 8, 12, 18
LEGEND_ROW, LEGEND_WIDTH, LEGEND_MOST = 18, 170, 40

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]


def colour_of(label: int) -> Colour:
    """Choose the colour of a class on every picture: consecutive labels are far apart in hue."""
    hue = (
        label * 0.618034 % 1.0
    )  # eight steps of the golden ratio come near the first: so later ones are darker
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.5)[label // 16 % 2], (0.95, 0.6)[label // 8 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def readable_on(colour: Colour) -> Colour:
    """Choose the text colour, ink or paper, that contrasts with `colour`."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else PAPER


def rows_of_pixels(image: Any) -> Pixels:
    """Turn (3 or 1, H, W) uint8, tensor or array, into (H, W, 3). Raises ValueError for others."""
    pixels = torch.as_tensor(image).cpu().numpy()
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is (3 or 1, H, W) uint8, not {pixels.shape} {pixels.dtype}")
    return np.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3))


def fitted(pixels: Pixels, side: int, blocks: bool = False) -> Image.Image:
    """Resize (H, W, 3) to `side` px on its longer side.

    Enlarging does not mix pixels; with `blocks` reducing does not either.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.NEAREST if blocks or scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how)


def cell(picture: Image.Image, heading: str, side: int) -> Image.Image:
    """Put the picture under its heading, on paper of width `side`."""
    whole = Image.new("RGB", (side, picture.height + STRIP), PAPER)
    whole.paste(picture, (0, STRIP))
    ImageDraw.Draw(whole).text((0, 2), heading, font=ImageFont.load_default(TEXT), fill=INK)
    return whole


def page(rows: Sequence[Sequence[Image.Image]], across: int = 1) -> Image.Image:
    """Put rows of cells below each other, `across` of them side by side. Raises ValueError for no rows."""
    if not rows:
        raise ValueError("a page of pictures needs at least one sample")
    lines = [[cell for row in rows[n : n + across] for cell in row] for n in range(0, len(rows), across)]
    heights = [max(cell.height for cell in line) + GAP for line in lines]
    width = max(sum(cell.width + GAP for cell in line) for line in lines) + GAP
    whole = Image.new("RGB", (width, sum(heights) + GAP), PAPER)
    for number, line in enumerate(lines):
        left = GAP
        for each in line:
            whole.paste(each, (left, GAP + sum(heights[:number])))
            left += each.width + GAP
    return whole


def with_legend(above: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """Add names and their colours below the page; those past `LEGEND_MOST` are only counted."""
    more = len(entries) - LEGEND_MOST
    shown = [*entries[:LEGEND_MOST], *([(f"and {more} more", PAPER)] if more > 0 else [])]
    columns = max(1, (above.width - GAP) // LEGEND_WIDTH)
    rows = -(-len(shown) // columns)
    whole = Image.new("RGB", (above.width, above.height + rows * LEGEND_ROW + GAP), PAPER)
    whole.paste(above, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (name, colour) in enumerate(shown):
        left, top = GAP + number % columns * LEGEND_WIDTH, above.height + number // columns * LEGEND_ROW
        draw.rectangle((left, top, left + TEXT, top + TEXT), fill=colour)
        draw.text((left + TEXT + 6, top), name[:22], font=ImageFont.load_default(TEXT), fill=INK)
    return whole


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG at `path`, whole or not at all."""
    with atomic_write(path) as file:
        picture.save(file, format="PNG", optimize=True)
