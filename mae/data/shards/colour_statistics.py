"""Colour statistics of the images in shards, for `input.mean` and `input.std`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from mae.data.decode import UndecodableImage, pixels
from mae.data.shards.split import ShardError, Split
from mae.progress import Progress

SAMPLE = 4096  # images; the mean is then known to about 0.003
_THREADS = 4
_SHARES = np.arange(256) / 255


def measure_colours(split: Split, log: Callable[[str], None], *, most: int = SAMPLE) -> dict[str, Any]:
    """Measure mean and std of red, green and blue in 0..1, and the number of images that were read.

    Up to `most` images are taken evenly out of the shuffled shards, so that equal shards give equal numbers.
    Each image counts alike, whatever its size; rounded to 4 digits.
    Raises: ShardError where no image decodes, or where a channel has one value in all of them.
    """
    rows = np.linspace(0, len(split) - 1, min(most, len(split))).astype(np.int64).tolist()
    progress = Progress(len(rows), log, verb="measured the colours of")
    found: list[np.ndarray] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for moments in pool.map(lambda row: _moments(split, row), rows):
            progress.add(1)
            if moments is not None:
                found.append(moments)
    if not found:
        raise ShardError(f"{split.directory}: no image of {split.name} decodes, so none shows a colour")
    mean, square = np.mean(found, axis=0)
    std = np.sqrt(np.maximum(0, square - mean**2)).round(4)
    if not std.all():
        raise ShardError(
            f"{split.directory}: a colour has one value in all images of {split.name}, its deviation is 0: "
            "set input.mean and input.std to numbers"
        )
    return {"images": len(found), "mean": mean.round(4).tolist(), "std": std.tolist()}


def _moments(split: Split, row: int) -> np.ndarray | None:
    """Return means and mean squares (2, 3) of an image's colours; None where it does not decode."""
    try:
        image = Image.fromarray(pixels(split.read(row)))
    except UndecodableImage:
        return None
    shares = np.array(image.histogram(), dtype=np.float64).reshape(3, 256) / (image.width * image.height)
    return np.stack([shares @ _SHARES, shares @ _SHARES**2])
