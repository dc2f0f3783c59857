"""Resizing of a mask inside a crop, without resizing its surroundings: an object costs its own size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mae.data.run_lengths import mask_crop


class Span(NamedTuple):
    """Pixels along one axis: [first, last) of the resized image, all that can show the object, and [low,
    high) of the original, from which they are computed; one pixel of the resized image is `step` of the
    original."""

    first: int
    last: int
    low: int
    high: int
    step: float

    @property
    def source(self) -> tuple[float, float]:
        """The extent of [first, last) in the original, counted from `low`."""
        return self.first * self.step - self.low, min(self.last * self.step, self.high) - self.low


def visible_mask(
    stated: Mapping[str, Any], resized: Sequence[int], crop: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, int, int] | None:
    """Resize a mask inside a crop: (mask (h, w) bool, top, left within the crop), None where it is invisible.

    stated: run lengths, see `run_lengths`. resized: (rows, columns) of the whole image after resizing with
    antialiased bilinear weights; a pixel belongs to the object from half on. crop: (begin, length) in those
    rows, and in the columns.
    """
    part, *corner = mask_crop(stated)
    rows, columns = (
        _span(*along) for along in zip(corner, part.shape, stated["size"], resized, crop, strict=True)
    )
    if rows.first >= rows.last or columns.first >= columns.last:
        return None
    around = np.zeros((rows.high - rows.low, columns.high - columns.low), dtype=np.uint8)
    top, left = corner[0] - rows.low, corner[1] - columns.low
    inside = part[max(0, -top) : len(around) - top, max(0, -left) : around.shape[1] - left]
    top, left = max(0, top), max(0, left)
    around[top : top + inside.shape[0], left : left + inside.shape[1]] = 255 * inside
    # PIL accepts a box off the pixel grid: the sampling grid stays that of the whole image.
    (x1, x2), (y1, y2) = columns.source, rows.source
    size = columns.last - columns.first, rows.last - rows.first
    picture = Image.fromarray(around).resize(size, Image.Resampling.BILINEAR, box=(x1, y1, x2, y2))
    return np.asarray(picture) > 127, rows.first - crop[0][0], columns.first - crop[1][0]


def _span(start: int, length: int, old: int, new: int, crop: tuple[int, int]) -> Span:
    step = old / new
    reach = max(step, 1.0)  # of the filter on each side, in pixels of the original
    first = max(crop[0], math.floor((start - reach) / step))
    last = min(sum(crop), math.ceil((start + length + reach) / step))
    low = max(0, math.floor(first * step - reach - 1))
    high = min(old, math.ceil(last * step + reach + 1))
    return Span(first, last, low, high, step)
