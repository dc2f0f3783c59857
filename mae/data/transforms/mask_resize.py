"""What a window of a resized mask shows, without resizing what surrounds it: an object costs its own size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mae.data.run_lengths import mask_crop


class Span(NamedTuple):
    """Along one axis: pixels [first, last) of a resized image, all that can show the object, and the pixels
    [low, high) of the original that they are made of, one of them being `step` of those."""

    first: int
    last: int
    low: int
    high: int
    step: float

    @property
    def source(self) -> tuple[float, float]:
        """What [first, last) covers, counted from `low`."""
        return self.first * self.step - self.low, min(self.last * self.step, self.high) - self.low


def visible_mask(
    stated: Mapping[str, Any], resized: Sequence[int], window: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, int, int] | None:
    """(mask (h, w) bool, top, left within the window), None where nothing of the mask can be seen.

    stated: run lengths, see `run_lengths`. resized: the whole image's (rows, columns), to which it is resized
    with antialiased bilinear weights; a pixel is the object's from half on. window: (begin, length) in those
    rows, and in the columns.
    """
    part, *corner = mask_crop(stated)
    rows, columns = (
        _span(*along) for along in zip(corner, part.shape, stated["size"], resized, window, strict=True)
    )
    if rows.first >= rows.last or columns.first >= columns.last:
        return None
    around = np.zeros((rows.high - rows.low, columns.high - columns.low), dtype=np.uint8)
    top, left = corner[0] - rows.low, corner[1] - columns.low
    inside = part[max(0, -top) : len(around) - top, max(0, -left) : around.shape[1] - left]
    top, left = max(0, top), max(0, left)
    around[top : top + inside.shape[0], left : left + inside.shape[1]] = 255 * inside
    # PIL, as it takes a box that need not lie on whole pixels: the grid stays the whole image's.
    (x1, x2), (y1, y2) = columns.source, rows.source
    size = columns.last - columns.first, rows.last - rows.first
    picture = Image.fromarray(around).resize(size, Image.Resampling.BILINEAR, box=(x1, y1, x2, y2))
    return np.asarray(picture) > 127, rows.first - window[0][0], columns.first - window[1][0]


def _span(start: int, length: int, old: int, new: int, window: tuple[int, int]) -> Span:
    step = old / new
    reach = max(step, 1.0)  # of the filter on each side, in pixels of the original
    first = max(window[0], math.floor((start - reach) / step))
    last = min(sum(window), math.ceil((start + length + reach) / step))
    low = max(0, math.floor(first * step - reach - 1))
    high = min(old, math.ceil(last * step + reach + 1))
    return Span(first, last, low, high, step)
