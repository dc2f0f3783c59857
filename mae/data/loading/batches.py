"""Batches from local shards: samples in epoch order, decoded and augmented in worker processes.

The randomness of a sample comes from (seed, attempt, its position in the stream) alone, so batches are equal
for any number of workers and, taken over all ranks, for any number of ranks. A dict per (micro-)batch:

    images   uint8 (n, 3, h, w), or a list of those, one per view
    labels   int64 (n,), -1 where unlabelled          rows   int64 (n,), rows of the split
    noise    float32 (n, *noise_shape), uniform       skipped  int, samples here that could not be decoded
    targets  list of n, where a `target` is read; images that then differ in size are a list of (3, h, w)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mae.data.loading.epoch_order import EpochOrder
from mae.data.loading.samples import Batch, Images, Samples, SampleTransform
from mae.data.loading.workers import obey_parent_only, start_method
from mae.data.rejection_limit import RejectionLimit
from mae.data.shards.index import Split
from mae.stopping import signals_blocked

NONE_MAY_BE_SKIPPED = RejectionLimit()


class TooManySkipped(RuntimeError):
    """More undecodable samples than `max_skipped` allows."""


def training_batches(
    split: Split,
    transform: Callable[..., Any],
    *,
    global_batch: int,
    start: int,
    stop: int,
    seed: int,
    rows: np.ndarray | None = None,
    attempt: int = 0,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    views: int = 1,
    noise_shape: Sequence[int] | None = None,
    target: Callable[[Split, int], Any] | None = None,
    max_skipped: RejectionLimit = NONE_MAY_BE_SKIPPED,
    shuffle_window: int = 8,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Load the batches of the steps [start, stop): `accumulate` micro-batches a step.

    Each holds global_batch / world / accumulate samples. transform: a decoded image -> an augmented one (or a
    tuple of views that belong together); called `views` times a sample. rows: only these rows of the split.
    noise_shape: the shape of the noise that a method wants from torch.rand for every sample. target: reads
    the target of a row (boxes, a label map); the transform then maps (image, target) to (image, target).
    attempt: another value gives the same samples other draws. shuffle_window: see `EpochOrder`. The next row
    that decodes replaces a sample that does not; more than `max_skipped` of them on this rank are an error.

    Raises: ValueError for sizes that do not divide, or several views of samples with targets;
    TooManySkipped naming the sample; ShardError.
    """
    if global_batch < 1 or global_batch % (world * accumulate):
        raise ValueError(
            f"global batch {global_batch} does not divide over {world} ranks x {accumulate} micro-batches"
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}")
    chosen = np.arange(len(split)) if rows is None else np.asarray(rows, dtype=np.int64)
    order = EpochOrder(split.shard_of[chosen], seed=seed, shuffle_window=shuffle_window)
    sample_transform = SampleTransform(transform, views, noise_shape)
    samples = Samples(split, sample_transform, chosen, seed=(seed, attempt), target=target, replace=True)
    requests = _TrainingRequests(order, global_batch, accumulate, start, stop, rank, world)
    return checked_batches(samples, requests, workers, prefetch, max_skipped, len(split))


def evaluation_batches(
    split: Images,
    transform: Callable[..., Any],
    *,
    batch_size: int,
    rows: np.ndarray | None = None,
    target: Callable[[Any, int], Any] | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    max_skipped: RejectionLimit = NONE_MAY_BE_SKIPPED,
    seed: int = 0,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Load every sample once over all ranks, in order, the last batch short; without `noise`.

    Ranks take every world-th sample, so they may differ by one sample and by one batch: gather at the end,
    not per batch. Samples that do not decode are left out and counted. target and errors: as for
    `training_batches`.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(f"batch size {batch_size}, rank {rank} of {world}")
    chosen = np.arange(len(split)) if rows is None else np.asarray(rows, dtype=np.int64)
    samples = Samples(split, SampleTransform(transform), chosen, seed=(seed, 0), target=target, replace=False)
    mine = np.arange(rank, len(chosen), world)
    requests = [np.stack([mine[at : at + batch_size]] * 2, axis=1) for at in range(0, len(mine), batch_size)]
    return checked_batches(samples, requests, workers, prefetch, max_skipped, len(split))


class _TrainingRequests:
    """Requests to the dataset, one per micro-batch: (n, 2) arrays of stream position and row."""

    def __init__(
        self,
        order: EpochOrder,
        global_batch: int,
        accumulate: int,
        start: int,
        stop: int,
        rank: int,
        world: int,
    ) -> None:
        self.order, self.global_batch, self.accumulate = order, global_batch, accumulate
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[np.ndarray]:
        for step in range(self.start, self.stop):
            first = step * self.global_batch
            rows = self.order.rows_at(first, first + self.global_batch)
            positions = np.arange(first, first + self.global_batch)
            mine = np.stack([positions, rows], axis=1)[self.rank :: self.world]
            yield from np.split(mine, self.accumulate)


def checked_batches(
    samples: Any, requests: Any, workers: int, prefetch: int, max_skipped: RejectionLimit, total: int = 0
) -> Iterator[Batch]:
    """Load a dataset's batches through `workers` processes; count its undecodable samples against a bound.

    samples: a dataset, with its `sample_transform`. requests: its indices, in order; None for a stream.
    total: the number of its samples, which a bound that is a share needs.
    """
    skipped: list[str] = []
    for batch in _started(samples, requests, workers, prefetch):
        skipped += batch.pop("undecodable")
        if len(skipped) > max_skipped.count(total):
            raise TooManySkipped(
                f"{len(skipped)} samples cannot be decoded, {max_skipped.spelled(total)}; last: {skipped[-1]}"
            )
        if "images" in batch:
            yield batch


def _started(samples: Any, requests: Any, workers: int, prefetch: int) -> Iterator[Batch]:
    options: dict[str, Any] = {}
    if workers > 0:
        options = {
            "prefetch_factor": prefetch,
            "multiprocessing_context": start_method(samples, samples.sample_transform.transform),
            "worker_init_fn": partial(obey_parent_only, os.getpid()),
        }
    loader = DataLoader(
        samples,
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else the loader draws from the caller's
        **options,
    )
    with signals_blocked(), warnings.catch_warnings():
        # Python 3.12 warns of any thread at a fork; `start_method` forks only where all threads are OpenMP's.
        # Those idle, and a worker (one thread by torch's own setting) never uses them.
        warnings.filterwarnings("ignore", r".*multi-threaded, use of fork", DeprecationWarning)
        return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch
