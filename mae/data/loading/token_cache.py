"""The cache of a split's visual tokens: computed once, an .npy file for each shard, read by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from mae.data.shards.split import Split
from mae.files import atomic_write

_OPEN = 32  # shards whose tokens stay mapped; the epoch order reads few at a time


class CachedTokens:
    """The tokens of a split's rows, from the `folder` that `cache_tokens` filled.

    Raises FileNotFoundError at the first read of a shard without tokens.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self._shard, self._place = split.shard_of, _places(split.shard_of)
        self._names = split.shards
        self._folder = folder
        self._read = lru_cache(_OPEN)(self._mapped)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Look up the codes (n, L) int64 of rows (n,) of the split."""
        places = zip(self._shard[rows].tolist(), self._place[rows].tolist(), strict=True)
        return np.stack([self._read(shard)[place] for shard, place in places]).astype(np.int64)

    def _mapped(self, shard: int) -> np.ndarray:
        return np.load(self._folder / file_name(self._names[shard]), mmap_mode="r", allow_pickle=False)


def file_name(shard: str) -> str:
    """Name the file of a shard's tokens: train-000001.tar -> train-000001.npy."""
    return f"{Path(shard).stem}.npy"


def missing(folder: Path, split: Split, rank: int = 0, world: int = 1) -> np.ndarray:
    """List this rank's rows of the split, ascending, in shards whose tokens are not cached yet."""
    there = [(folder / file_name(name)).is_file() for name in split.shards]
    mine = np.array([not cached and at % world == rank for at, cached in enumerate(there)], dtype=bool)
    return np.flatnonzero(mine[split.shard_of])


def cache_tokens(folder: Path, split: Split, found: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[str]:
    """Write the tokens of whole shards; yield the name of each shard when its file is written.

    found: (rows (n,), codes (n, L)) with the rows of `missing`, in order; rows that could not be decoded are
    left out of it and get zeros, which are never read.
    """
    shard_of, place = split.shard_of, _places(split.shard_of)
    counts = np.bincount(shard_of, minlength=len(split.shards))
    open_: dict[int, np.ndarray] = {}
    for rows, codes in found:
        for shard in np.unique(shard_of[rows]).tolist():
            here = shard_of[rows] == shard
            if shard not in open_:
                open_[shard] = np.zeros((counts[shard], codes.shape[1]), dtype=np.uint16)
            open_[shard][place[rows[here]]] = codes[here]
        for shard in sorted(open_)[:-1]:  # the last may continue in the next batch
            yield _write(folder, split.shards[shard], open_.pop(shard))
    for shard, array in sorted(open_.items()):
        yield _write(folder, split.shards[shard], array)


def _write(folder: Path, shard: str, array: np.ndarray) -> str:
    with atomic_write(folder / file_name(shard)) as file:
        np.save(file, array)
    return shard


def _places(shard_of: np.ndarray) -> np.ndarray:
    """Number each row among the rows of its shard, (n,) int64."""
    order = np.argsort(shard_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(shard_of))])
    places = np.empty(len(shard_of), dtype=np.int64)
    places[order] = np.arange(len(shard_of)) - starts[shard_of[order]]
    return places
