"""What a sample of listed images looks like in numbers, and how far two samples lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mae.data.decode import UndecodableImage, pixels
from mae.data.listing.listing_file import Listing
from mae.data.sources.base import Entry

# brightness and contrast: mean and deviation of the luma; sharpness: mean step between neighbouring pixels;
# saturation: mean; all in [0, 1]. side: root of the area, in pixels; aspect: width over height.
STATISTICS = ("brightness", "contrast", "saturation", "sharpness", "side", "aspect")
BLANK = 0.01  # of contrast: nothing is to be seen in an image below it
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Sample:
    """Images that were looked at: values (n, S) over STATISTICS of those that decode; bad: how many do not.

    thumbnails: (k, 3, side, side) in [0, 1] of the first few.
    """

    values: np.ndarray
    bad: int
    thumbnails: np.ndarray

    @property
    def undecodable(self) -> float:
        """As a share of the images looked at; 0 of none."""
        return self.bad / max(1, self.bad + len(self.values))

    @property
    def blank(self) -> float:
        """The share of blank ones among those that decode."""
        if not len(self.values):
            return 0.0
        return float((self.values[:, STATISTICS.index("contrast")] < BLANK).mean())


def measure(
    listing: Listing, rows: np.ndarray, *, most: int, seed: int, shown: int = 8, side: int = 64
) -> Sample:
    """Look at up to `most` of the rows, drawn by `seed`; the first `shown` as thumbnails of side x side."""
    drawn = np.random.default_rng(seed).permutation(rows)[:most]
    values: list[list[float]] = []
    thumbnails: list[np.ndarray] = []
    for row in drawn:
        try:
            image = pixels(_read(listing, listing[int(row)]))
        except (OSError, UndecodableImage):
            continue
        values.append(statistics(image))
        if len(thumbnails) < shown:
            small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
            thumbnails.append(np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255)
    return Sample(
        np.array(values).reshape(-1, len(STATISTICS)),
        len(drawn) - len(values),
        np.array(thumbnails).reshape(-1, 3, side, side),
    )


def statistics(image: np.ndarray) -> list[float]:
    """STATISTICS of an image (H, W, 3) uint8."""
    height, width = image.shape[:2]
    luma = image @ _LUMA / 255
    highest, lowest = image.max(axis=2).astype(np.float32), image.min(axis=2)
    saturation = (highest - lowest) / np.maximum(highest, 1)
    steps = [np.abs(np.diff(luma, axis=axis)) for axis in (0, 1)]
    count = sum(step.size for step in steps)
    return [
        float(luma.mean()),
        float(luma.std()),
        float(saturation.mean()),
        float(sum(step.sum() for step in steps) / max(1, count)),
        float(np.sqrt(height * width)),
        width / height,
    ]


def distances(one: Sample, other: Sample) -> dict[str, tuple[float, float]]:
    """Statistic -> (distance, p): two-sample Kolmogorov-Smirnov, 0 (the same) to 1 (nothing in common).

    {} where either sample is empty.
    """
    if not len(one.values) or not len(other.values):
        return {}
    from scipy.stats import ks_2samp

    found = {}
    for column, name in enumerate(STATISTICS):
        # Rounded: what a decoder does in its last digit is no difference.
        result = ks_2samp(one.values[:, column].round(6), other.values[:, column].round(6), method="asymp")
        found[name] = (float(result.statistic), float(result.pvalue))
    return found


def _read(listing: Listing, entry: Entry) -> bytes:
    with (listing.root / (entry.container or entry.path)).open("rb") as file:
        file.seek(max(0, entry.offset))
        return file.read(entry.size if entry.container else -1)
