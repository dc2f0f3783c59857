"""A listed source -> WebDataset tar shards with an index: shuffled once, in parallel, whole or not at all.

Every shard is one task. Finished ones stay in the work directory until all are there; then they are moved
into place and `index.json` is written last, so an interrupted run goes on where it was and a directory with
an index is complete.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

from mae.data.files import write_json
from mae.data.index import FORMAT, REJECTED
from mae.data.listing import Listing
from mae.data.manifest import manifest_digest
from mae.data.publish import enter, finished, kept, publish
from mae.data.shard_plan import ShardTask, plan_shards
from mae.data.shard_writer import ShardWriter, Sidecar
from mae.data.sources import SPLITS

_LOG_EVERY = 5.0  # seconds


class TooManyRejected(RuntimeError):
    """More images or annotations cannot be used than `max_rejected` allows."""


class WorkerDied(RuntimeError):
    """A worker process ended without an answer."""


def write_shards(
    listing_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    work_dir: str | os.PathLike,
    *,
    max_count: int = 1250,
    max_bytes: int = 1 << 30,
    max_side: int | None = None,
    quality: int = 90,
    max_rejected: int = 0,
    seed: int = 0,
    workers: int = 1,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the shards of a listing (`manifest.write_listing`) and their index; returns the index.

    Each split is shuffled by `seed` and cut into shards of at most `max_count` images and `max_bytes` listed
    bytes (an image above that is a shard of its own), all of about one size. Equal listings, contents and
    arguments give equal bytes, whatever `workers` (processes; 0 or 1 stays in this one) and however often
    the run was interrupted. Images that do not decode, or do not fit their annotations, and single
    annotations that do not fit their image are left out and named in `rejected.json`.

    max_side, quality: see `ShardWriter`; images with annotations are never reduced. max_rejected: more
    rejected images and annotations than this are an error.
    log: is given a progress line with rate and time left every few seconds.

    Raises: SourceChanged, DiskFull, TooManyRejected, WorkerDied, EmptySplit, SourceError, ValueError.
    """
    _check_sizes(quality, max_count=max_count, max_bytes=max_bytes, max_side=max_side)
    listing = Listing(listing_dir)
    if max_side is not None and "task" in listing.manifest:
        raise ValueError(
            f"max_side is {max_side}: images with annotations keep their size, or boxes and label maps would "
            "not fit them; set max_side to null"
        )
    out, work = Path(out_dir), Path(work_dir)
    job = {
        "format": FORMAT,
        "source": manifest_digest(listing.manifest),
        "seed": seed,
        "max_count": max_count,
        "max_bytes": max_bytes,
        "max_side": max_side,
        "quality": quality if max_side else None,
    }
    done = finished(out, work, job)
    if done is not None:
        log(f"{out}: unchanged, nothing to do")
        return done
    enter(work, job)
    tasks = [task for split in SPLITS for task in plan_shards(listing, split, seed, max_count, max_bytes)]
    progress = _Progress(tasks, listing, max_rejected, work, log)
    for task in tasks:
        sidecar = kept(work, out, task)
        if sidecar is not None:
            progress.add(task, sidecar)
    progress.begin()
    waiting = [task for task in tasks if task.name not in progress.sidecars]
    with closing(_run(waiting, listing, work, max_side, quality, workers)) as written:
        for task, sidecar in written:
            progress.add(task, sidecar)
    index = publish(listing, job, tasks, progress.sidecars, work, out)
    count = sum(one["count"] for one in index["splits"].values())
    log(f"{out}: {count} images in {len(tasks)} shards, {index['rejected']['count']} rejected")
    return index


def _check_sizes(quality: int, **sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}: JPEG quality runs from 1 to 100")


class _Progress:
    """What is finished: collects sidecars, bounds the rejected, and says how fast it goes."""

    def __init__(
        self,
        tasks: list[ShardTask],
        listing: Listing,
        max_rejected: int,
        work: Path,
        log: Callable[[str], None],
    ) -> None:
        self.sidecars: dict[str, Sidecar] = {}
        self._bytes = {task.name: int(listing.sizes(task.rows).sum()) for task in tasks}
        self._images = sum(len(task.rows) for task in tasks)
        self._max_rejected, self._work, self._log = max_rejected, work, log
        self._done_images = self._done_bytes = self._kept_bytes = 0
        self._began = self._said = time.monotonic()

    def begin(self) -> None:
        """Counting of the rate starts here; what was added before is from an earlier run."""
        self._kept_bytes = self._done_bytes
        self._began = self._said = time.monotonic()
        if self.sidecars:
            self._log(f"resuming: {len(self.sidecars)} of {len(self._bytes)} shards are finished already")

    def add(self, task: ShardTask, sidecar: Sidecar) -> None:
        self.sidecars[task.name] = sidecar
        self._done_images += len(task.rows)
        self._done_bytes += self._bytes[task.name]
        self._bound()
        now = time.monotonic()
        if now - self._said >= _LOG_EVERY:
            self._said = now
            rate = (self._done_bytes - self._kept_bytes) / (now - self._began)
            left = (sum(self._bytes.values()) - self._done_bytes) / max(rate, 1.0)
            self._log(
                f"{self._done_images} of {self._images} images, "
                f"{len(self.sidecars)} of {len(self._bytes)} shards, "
                f"{rate / 1e6:.0f} MB/s, {left / 60:.1f} minutes left"
            )

    def _bound(self) -> None:
        rejected = [one for side in self.sidecars.values() for one in side.rejected]
        if len(rejected) <= self._max_rejected:
            return
        path = self._work / REJECTED
        write_json(path, {"rejected": sorted(rejected, key=lambda one: one["path"])})
        few = "; ".join(f"{one['path']}: {one['reason']}" for one in rejected[:3])
        raise TooManyRejected(
            f"{len(rejected)} images or annotations cannot be used, {self._max_rejected} are allowed "
            f"(max_rejected): {few}; all found so far: {path}"
        )


def _run(
    tasks: list[ShardTask], listing: Listing, work: Path, max_side: int | None, quality: int, workers: int
) -> Generator[tuple[ShardTask, Sidecar], None, None]:
    """Write the shards, yielding each as it is finished; few are handed out ahead, so memory stays flat."""
    settings = (listing.directory, work, max_side, quality)
    if workers <= 1 or len(tasks) <= 1:
        writer = ShardWriter(listing, work, max_side=max_side, quality=quality)
        for task in tasks:
            yield task, writer.write(task)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        # Fresh processes: this one may hold threads, which a fork would copy in the middle of anything.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=settings,
    )
    ahead = iter(tasks)
    running: dict[Future[Sidecar], ShardTask] = {}
    try:
        while True:
            for task in ahead:
                running[pool.submit(_write, task)] = task
                if len(running) >= 3 * workers:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a sharding process died (out of memory, or killed); run again: finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_writer: ShardWriter | None = None  # one per worker process, so that each reads the listing once


def _start(listing_dir: Path, work: Path, max_side: int | None, quality: int) -> None:
    global _writer
    _writer = ShardWriter(Listing(listing_dir), work, max_side=max_side, quality=quality)


def _write(task: ShardTask) -> Sidecar:
    assert _writer is not None
    return _writer.write(task)
