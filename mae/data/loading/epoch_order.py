"""The order of samples: an endless, seeded stream over the rows of a split, epoch after epoch.

Step s of global batch G takes the stream positions [s * G, (s + 1) * G), and rank r of W takes [r::W] of
them. So no sample is lost or doubled, all ranks make the same steps, and training can start at any step.
"""

from __future__ import annotations

import math

import numpy as np


class EpochOrder:
    """The order of rows, made from their shards and a seed alone.

    Within an epoch shards come in random order and rows are shuffled inside windows of `shuffle_window`
    consecutive shards: nearly a full shuffle (the shards are class-mixed already), while few files are read
    at a time.

    shard_of_row: (n,) the shard that holds each row; the rows are 0..n-1.
    """

    def __init__(self, shard_of_row: np.ndarray, *, seed: int, shuffle_window: int = 8) -> None:
        if len(shard_of_row) == 0:
            raise ValueError("an epoch order needs at least one sample")
        if shuffle_window < 1:
            raise ValueError(f"shuffle_window is {shuffle_window}: it must be at least 1")
        self.seed, self.shuffle_window = seed, shuffle_window
        # Rows in shard order, and the start of each shard among them.
        self._by_shard = np.argsort(shard_of_row, kind="stable")
        shards, starts = np.unique(np.asarray(shard_of_row)[self._by_shard], return_index=True)
        self._starts = np.append(starts, len(shard_of_row))
        self._shards = len(shards)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._by_shard)

    def order(self, epoch: int) -> np.ndarray:
        """Order all rows once, (n,) int64, for that epoch; each epoch has another order."""
        rng = np.random.default_rng([self.seed, epoch])
        shards = rng.permutation(self._shards)
        parts = []
        for first in range(0, self._shards, self.shuffle_window):
            window = [
                self._by_shard[self._starts[shard] : self._starts[shard + 1]]
                for shard in shards[first : first + self.shuffle_window]
            ]
            parts.append(rng.permutation(np.concatenate(window)))
        return np.concatenate(parts)

    def rows_at(self, start: int, stop: int) -> np.ndarray:
        """Find the rows at the stream positions [start, stop), (stop - start,) int64, across epochs."""
        if not 0 <= start <= stop:
            raise ValueError(f"no stream positions [{start}, {stop})")
        positions = np.arange(start, stop)
        epochs, places = positions // len(self), positions % len(self)
        rows = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(int(epoch))[places[here]]
        return rows

    def steps(self, epochs: float, global_batch: int) -> int:
        """Count the steps that show every sample `epochs` times (rounded up: the last may begin another
        epoch)."""
        if epochs <= 0 or global_batch < 1:
            raise ValueError(f"no steps for {epochs} epochs at a global batch of {global_batch}")
        return max(1, math.ceil(epochs * len(self) / global_batch - 1e-9))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # A batch spans at most two epochs when it is smaller than the data: keep as many.
            for old in sorted(self._orders)[:-1]:
                del self._orders[old]
            self._orders[epoch] = self.order(epoch)
        return self._orders[epoch]
