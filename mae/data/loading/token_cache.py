"""Visual tokens of a split, computed once and kept: an .npy file for each shard, read by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from mae.data.shards.split import Split
from mae.files import atomic_write

_OPEN = 32  # shards whose tokens stay mapped; a plan goes through few at a time


class CachedTokens:
    """The tokens of a split's rows, from `folder`, where `cache_tokens` wrote them.

    Raises FileNotFoundError for a shard without tokens, when it is first asked for.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self._shard, self._place = split.shard_of, _places(split.shard_of)
        self._names = split.shards
        self._folder = folder
        self._read = lru_cache(_OPEN)(self._mapped)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n,) of the split -> codes (n, L) int64."""
        places = zip(self._shard[rows].tolist(), self._place[rows].tolist(), strict=True)
        return np.stack([self._read(shard)[place] for shard, place in places]).astype(np.int64)

    def _mapped(self, shard: int) -> np.ndarray:
        return np.load(self._folder / file_name(self._names[shard]), mmap_mode="r", allow_pickle=False)


def file_name(shard: str) -> str:
    """Of a shard's tokens: train-000001.tar -> train-000001.npy."""
    return f"{Path(shard).stem}.npy"


def missing(folder: Path, split: Split, rank: int = 0, world: int = 1) -> np.ndarray:
    """This rank's rows of the split, ascending, in shards whose tokens are not kept yet."""
    there = [(folder / file_name(name)).is_file() for name in split.shards]
    mine = np.array([not kept and at % world == rank for at, kept in enumerate(there)], dtype=bool)
    return np.flatnonzero(mine[split.shard_of])


def cache_tokens(folder: Path, split: Split, found: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[str]:
    """Write the tokens of whole shards; yields each one's name once it is written, whole or not at all.

    found: (rows (n,), codes (n, L)) with the rows of `missing`, in order; rows that could not be decoded are
    left out, and have zeros, which nobody asks for.
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
        for shard in sorted(open_)[:-1]:  # the last may go on in the next batch
            yield _write(folder, split.shards[shard], open_.pop(shard))
    for shard, array in sorted(open_.items()):
        yield _write(folder, split.shards[shard], array)


def _write(folder: Path, shard: str, array: np.ndarray) -> str:
    with atomic_write(folder / file_name(shard)) as file:
        np.save(file, array)
    return shard


def _places(shard_of: np.ndarray) -> np.ndarray:
    """Each row's place among the rows of its shard, (n,) int64."""
    order = np.argsort(shard_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(shard_of))])
    places = np.empty(len(shard_of), dtype=np.int64)
    places[order] = np.arange(len(shard_of)) - starts[shard_of[order]]
    return places
