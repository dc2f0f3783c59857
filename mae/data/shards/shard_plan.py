"""The plan of shards: one shuffle by seed, then cuts within both bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mae.data.listing.listing_file import Listing
from mae.data.sources.base import SPLITS


class ShardTask(NamedTuple):
    """A shard to write: its number, its rows of the listing, the key of the first of them."""

    split: str
    number: int
    rows: np.ndarray
    first_key: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}.tar"


def plan_shards(
    listing: Listing,
    split: str,
    seed: int,
    max_count: int,
    max_bytes: int,
    after: Sequence[ShardTask] = (),
) -> list[ShardTask]:
    """Plan the shards of one split: rows shuffled by seed, cut within both bounds into shards of similar
    size.

    after: shards of the split that exist already. Their rows are left out; numbers and keys continue theirs.
    """
    rows = listing.rows(split)
    if after:
        rows = np.setdiff1d(rows, np.concatenate([task.rows for task in after]), assume_unique=True)
    rows = rows[np.random.default_rng([seed, SPLITS.index(split)]).permutation(len(rows))]
    ends = cut(listing.sizes(rows), max_count, max_bytes)
    starts = [0, *ends][:-1]  # a split without images has no shards
    key = max((task.first_key + len(task.rows) for task in after), default=0)
    return [
        ShardTask(split, number, rows[start:end], key + start)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True), len(after))
    ]


def cut(sizes: np.ndarray, max_count: int, max_bytes: int) -> list[int]:
    """Find the end of each shard: as few shards as the bounds allow in this order, of similar size.

    A small last shard would be drawn as often as the others wherever shards are resampled.
    """
    total = np.cumsum(sizes, dtype=np.int64)

    def greedy(count: int, size: int) -> list[int]:
        ends: list[int] = []
        start = 0
        while start < len(sizes):
            before = int(total[start - 1]) if start else 0
            fits = int(np.searchsorted(total, before + size, side="right"))
            start = max(start + 1, min(start + count, fits))
            ends.append(start)
        return ends

    ends = greedy(max_count, max_bytes)
    if not ends:
        return ends
    even_count, even_bytes = -(-len(sizes) // len(ends)), -(-int(total[-1]) // len(ends))
    for slack in (1.0, 1.02, 1.05, 1.1, 1.2, 1.4):
        tried = greedy(
            min(max_count, int(even_count * slack)), min(max_bytes, int(even_bytes * (slack + 0.2)))
        )
        if len(tried) == len(ends):
            return tried
    return ends
