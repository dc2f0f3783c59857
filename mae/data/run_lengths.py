"""COCO's run lengths: a mask as lengths of alternating runs of 0 and 1, column by column, plain or
compressed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval import mask_api_new_cpp as mask_api
from faster_coco_eval.core import mask as coco_mask


class BadRunLengths(ValueError):
    """Run lengths that describe no mask of the stated size; the message is the reason."""


def run_lengths(stated: dict[str, Any], height: int, width: int) -> list[int]:
    """Read the runs of a mask of (height, width) pixels; the first is a run of zeros, perhaps of length 0.

    stated: {"size": [height, width], "counts": numbers, or the text that COCO compresses them to}.
    Raises: BadRunLengths.
    """
    size = stated.get("size")
    if size != [height, width] or not _whole(size, max(height, width)):
        raise BadRunLengths(f"run lengths of size {size} in an image of {[height, width]}")
    counts = stated.get("counts")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not _whole(runs, height * width):
        raise BadRunLengths(f"run lengths that are no list of whole numbers from 0 to {height * width}")
    if sum(runs) != height * width:
        raise BadRunLengths(f"run lengths of {sum(runs)} pixels in an image of {height * width}")
    return list(runs)


def mask_crop(stated: Mapping[str, Any]) -> tuple[np.ndarray, int, int]:
    """Decode a valid mask inside its box: (h, w) uint8 of 0 and 1, and its top and left in the image, in
    pixels.

    stated: as for `run_lengths`. Only the columns of the box are decoded: the cost grows with the object,
    while decoding a whole photograph of 24 megapixels takes a tenth of a second.
    """
    encoded, height = dict(stated), stated["size"][0]
    if isinstance(encoded["counts"], list):
        encoded = coco_mask.frPyObjects(encoded, *encoded["size"])
    left, top, across, down = coco_mask.toBbox(encoded).astype(int).tolist()
    [runs] = mask_api.toUncompressedRLE([encoded])
    ends = np.cumsum(runs["counts"]).clip(left * height, (left + across) * height)
    columns = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=left * height))
    return columns.reshape(across, height)[:, top : top + down].T.astype(np.uint8), top, left


def _whole(numbers: list[Any], most: int) -> bool:
    """Check types, too: JSON's 3.0 and true equal whole numbers, but the mask decoder takes neither."""
    return all(type(number) is int and 0 <= number <= most for number in numbers)


def _decompressed(text: str) -> list[int]:
    """Decode COCO's text form: 5 bits a letter, low ones first; the sixth bit says that more follow. From the
    fourth number on, each is a difference from the number two before it."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadRunLengths("compressed run lengths with letters that cannot be")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative, in two's complement
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise BadRunLengths("compressed run lengths that stop within a number")
    return runs
