"""Differences between two listings of a source: the images, and the shares of classes among the new ones.

Listings of a million images are compared by 64-bit hashes of their lines, in a few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mae.data.listing.listing_file import Listing

DRAWS = 1000
QUANTILE = 0.99


@dataclass(frozen=True)
class Difference:
    """Row numbers, ascending: `removed` of the earlier listing, all others of the later one.

    A path identifies an image; a changed one has another size, time, class, split or annotation. by_class:
    (2, C) numbers of images of each of `classes`, in the earlier listing and among the new or changed ones; C
    is 0 without labels.
    """

    new: np.ndarray
    changed: np.ndarray
    unchanged: np.ndarray
    removed: np.ndarray
    classes: list[str]
    by_class: np.ndarray

    @property
    def new_or_changed(self) -> np.ndarray:
        """The new or changed rows of the later listing, ascending."""
        return np.union1d(self.new, self.changed)


def compare(before: Listing, after: Listing) -> Difference:
    """Compare two listings of one source."""
    classes: dict[bytes, int] = {}
    path_before, line_before, class_before = _table(before, classes)
    path_after, line_after, class_after = _table(after, classes)
    same = np.isin(line_after, line_before)
    known = np.isin(path_after, path_before)
    arrived = class_after[~same]
    by_class = np.stack([np.bincount(part, minlength=len(classes)) for part in (class_before, arrived)])
    unlabelled = classes.get(b"")
    labelled = np.array([number != unlabelled for number in range(len(classes))], dtype=bool)
    return Difference(
        new=np.flatnonzero(~same & ~known),
        changed=np.flatnonzero(~same & known),
        unchanged=np.flatnonzero(same),
        removed=np.flatnonzero(~np.isin(path_before, path_after)),
        classes=[name.decode("utf-8", "replace") for name in classes if name],
        by_class=by_class[:, labelled],
    )


def _table(listing: Listing, classes: dict[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash each line's path (n,) and the whole line (n,), and number its class (n,) by `classes`.

    In a listing of a million lines two share a 64-bit hash with a chance of one in tens of millions.
    """
    paths, lines = (np.zeros(len(listing), dtype=np.int64) for _ in range(2))
    labels = np.zeros(len(listing), dtype=np.int64)
    for row, line in enumerate(listing.lines()):
        _, name, _, _, _, container, path, *_ = line.rstrip(b"\n").split(b"\t")
        paths[row], lines[row] = hash((container, path)), hash(line)
        labels[row] = classes.setdefault(name, len(classes))
    return paths, lines, labels


def class_shift(before: np.ndarray, arrived: np.ndarray, seed: int) -> tuple[float, float]:
    """Measure the shift between the class counts (C,) of earlier and of new images, as (shift, chance).

    shift: half the L1 distance between the shares, from 0 (equal) to 1 (no class in common). chance: the 99th
    percentile of the shift of as many images drawn from the earlier shares, since few images of many classes
    always look shifted. Both are 0 where either side has no labelled image.
    """
    if not before.sum() or not arrived.sum():
        return 0.0, 0.0
    shares = before / before.sum()
    drawn = np.random.default_rng(seed).multinomial(int(arrived.sum()), shares, size=DRAWS)
    by_chance = np.abs(drawn / arrived.sum() - shares).sum(axis=1) / 2
    shift = float(np.abs(arrived / arrived.sum() - shares).sum() / 2)
    return shift, float(np.quantile(by_chance, QUANTILE))
