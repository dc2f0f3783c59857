"""Statistics of a sample of listed images, and distances between two samples."""

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
BLANK = 0.01  # contrast below which an image shows nothing
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class ImageSample:
    """Statistics of a sample of images.

    values (n, S): over STATISTICS, of those that decode; bad: the number that do not; thumbnails:
    (k, 3, side, side) in [0, 1] of the first few.
    """

    values: np.ndarray
    bad: int
    thumbnails: np.ndarray

    @property
    def undecodable(self) -> float:
        """The share of images that do not decode; 0 for an empty sample."""
        return self.bad / max(1, self.bad + len(self.values))

    @property
    def blank(self) -> float:
        """The share of blank images among those that decode."""
        if not len(self.values):
            return 0.0
        return float((self.values[:, STATISTICS.index("contrast")] < BLANK).mean())


def measure(
    listing: Listing, rows: np.ndarray, *, most: int, seed: int, shown: int = 8, side: int = 64
) -> ImageSample:
    """Measure up to `most` of the rows, drawn by `seed`; keep thumbnails, side x side, of the first
    `shown`."""
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
    return ImageSample(
        np.array(values).reshape(-1, len(STATISTICS)),
        len(drawn) - len(values),
        np.array(thumbnails).reshape(-1, 3, side, side),
    )


def statistics(image: np.ndarray) -> list[float]:
    """Compute STATISTICS of an image (H, W, 3) uint8."""
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


def distances(one: ImageSample, other: ImageSample) -> dict[str, tuple[float, float]]:
    """Compare two samples by Kolmogorov-Smirnov: statistic -> (distance from 0, equal, to 1, disjoint; p).

    {} where either sample is empty.
    """
    if not len(one.values) or not len(other.values):
        return {}
    from scipy.stats import ks_2samp

    found = {}
    for column, name in enumerate(STATISTICS):
        # Rounded: a decoder's last digit is no difference.
        result = ks_2samp(one.values[:, column].round(6), other.values[:, column].round(6), method="asymp")
        found[name] = (float(result.statistic), float(result.pvalue))
    return found


def _read(listing: Listing, entry: Entry) -> bytes:
    with (listing.root / (entry.container or entry.path)).open("rb") as file:
        file.seek(max(0, entry.offset))
        return file.read(entry.size if entry.container else -1)
