"""Sharding: a listed source -> WebDataset tar shards with an index, shuffled once, in parallel, atomically.

Every shard is one task, for this process, its workers, or other processes that write parts. Finished shards
stay in the work directory until all are there; then they are published and `index.json` is written last. So
an interrupted run resumes, and a directory with an index is complete.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

from mae.data.listing.listing_file import Listing
from mae.data.rejection_limit import RejectionLimit
from mae.data.shards.class_counts import check_classes
from mae.data.shards.index import REJECTED
from mae.data.shards.publish import (
    clear,
    finished_index,
    finished_sidecar,
    is_prepared,
    prepare,
    publish,
    repair_linked,
    work_lock,
)
from mae.data.shards.shard_job import ShardJob, ShardSettings
from mae.data.shards.shard_plan import ShardTask
from mae.data.shards.shard_writer import ShardWriter, Sidecar
from mae.files import write_json
from mae.progress import Progress
from mae.stopping import end_with_parent, signals_blocked


class TooManyRejected(RuntimeError):
    """More unusable images or annotations than the section's `max_rejected` allows."""


class WorkerDied(RuntimeError):
    """A worker process that ended without an answer."""


def write_shards(
    listing_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    work_dir: str | os.PathLike,
    *,
    reuse_dir: str | os.PathLike | None = None,
    stamps: str | os.PathLike | None = None,
    workers: int = 1,
    log: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> dict[str, Any]:
    """Write the shards of a listing (`manifest.write_listing`) and their index; return the index.

    Each split is shuffled by the seed and cut into shards of similar size within both bounds. Equal listings,
    contents and settings give equal bytes, for any number of `workers` (processes; 0 or 1 stays in this one),
    of interruptions, and of processes that write parts. Images that do not decode, or do not fit their
    annotations, and single annotations that do not fit their image are left out and named in
    `rejected.json`.

    settings: the fields of `ShardSettings`. reuse_dir: a directory that keeps published shards for the next
    run, which reuses those whose images are all listed unchanged, byte for byte, and shards the rest after
    them; so equal bytes need equal kept shards, too. It must be on the file system of `out_dir`. A shard that
    is missing or damaged, here or there, is written again in its place. stamps: see `ShardJob`.
    log: called with progress lines.

    Raises: SourceChanged, DiskFull, TooManyRejected, WorkerDied, EmptySplit, SourceError, ValueError.
    """
    job = ShardJob(listing_dir, out_dir, work_dir, reuse_dir, ShardSettings(**settings), stamps)
    with work_lock(job.work, log):
        done = finished_index(job, log)
        if done is not None:
            clear(job.work)  # what a run left that was killed at its end
            log(f"{job.out}: unchanged, nothing to do")
            return done
        job.plan(log)
        prepare(job)
        progress = _Progress(job, log)
        for task in job.tasks:
            sidecar = finished_sidecar(job, task)
            if sidecar is not None:
                progress.add(task, sidecar)
        progress.begin()
        waiting = [task for task in job.tasks if task.name not in progress.sidecars]
        with closing(_run(waiting, job, workers)) as results:
            for task, sidecar in results:
                progress.add(task, sidecar)
        for one in job.reused:
            if progress.sidecars[one.task.name].sha256 != one.sidecar.sha256:
                log(f"{one.task.name}: written again with other bytes (another version of a library?)")
        repair_linked(job, progress.sidecars)
        manifest = job.listing.manifest
        if "task" in manifest:
            check_classes(manifest, progress.sidecars.values(), log)
        index = publish(job, progress.sidecars, log)
    count = sum(one["count"] for one in index["splits"].values())
    log(f"{job.out}: {count} images in {len(job.tasks)} shards, {index['rejected']['count']} rejected")
    return index


def list_parts(job: ShardJob, log: Callable[[str], None] = lambda line: None) -> list[str]:
    """List the shards that must still be written before `write_shards` has only to publish.

    Another process may write each (`write_parts`), on any machine that sees the same files.
    """
    with work_lock(job.work, log):
        if finished_index(job, log) is not None:
            return []
        job.plan(log)
        prepare(job)
        return [task.name for task in job.tasks if finished_sidecar(job, task) is None]


def write_parts(job: ShardJob, names: Sequence[str], log: Callable[[str], None] = lambda line: None) -> None:
    """Write these shards into the work directory, each whole or not at all; finished ones are skipped.

    Raises: SourceChanged, DiskFull, SourceError; ValueError naming shards that this job does not have.
    """
    job.plan()
    tasks = {task.name: task for task in job.tasks}
    unknown = [name for name in names if name not in tasks]
    if unknown:
        few = ", ".join(list(tasks)[:3])
        raise ValueError(f"no shard is called {', '.join(unknown)}; of {len(tasks)} the first are {few}")
    if finished_index(job) is not None:
        log(f"{job.out}: unchanged, nothing to do")
        return
    if not is_prepared(job):
        with work_lock(job.work, log):
            prepare(job)
    with work_lock(job.work, log, alone=False):
        waiting = [tasks[name] for name in names if finished_sidecar(job, tasks[name]) is None]
        for number, (task, sidecar) in enumerate(_run(waiting, job, 1), 1):
            about = f"{len(sidecar.samples)} images, {sidecar.bytes / 1e6:.1f} MB"
            log(f"{task.name}: {about} ({number} of {len(waiting)})")


class _Progress:
    """The finished shards of a run: their sidecars, a bound on rejected images, and a progress line."""

    def __init__(self, job: ShardJob, log: Callable[[str], None]) -> None:
        self.sidecars: dict[str, Sidecar] = {}
        self._job, self._log = job, log
        self._done = 0
        self._progress: Progress | None = None

    def begin(self) -> None:
        """Start to count the rate: the shards added before are from earlier runs."""
        reused = sum(one.whole for one in self._job.reused)
        finished, to_write = len(self.sidecars) - reused, len(self._job.tasks) - reused
        if finished:
            self._log(f"resuming: {finished} of {to_write} shards are finished already")
        images = sum(len(task.rows) for task in self._job.tasks)
        self._progress = Progress(images, self._log, verb="sharded", done=self._done)

    def add(self, task: ShardTask, sidecar: Sidecar) -> None:
        self.sidecars[task.name] = sidecar
        self._done += len(task.rows)
        self._check_rejected()
        if self._progress is not None:
            self._progress.add(len(task.rows))

    def _check_rejected(self) -> None:
        given, total = self._job.settings, len(self._job.listing)
        limit = RejectionLimit(given.max_rejected, f"{given.section}.max_rejected")
        rejected = [one for side in self.sidecars.values() for one in side.rejected]
        if len(rejected) <= limit.count(total):
            return
        path = self._job.work / REJECTED
        write_json(path, {"rejected": sorted(rejected, key=lambda one: one["path"])})
        few = "; ".join(f"{one['path']}: {one['reason']}" for one in rejected[:3])
        raise TooManyRejected(
            f"{len(rejected)} images or annotations cannot be used, {limit.spelled(total)}: {few}; "
            f"all so far: {path}"
        )


def _run(
    tasks: list[ShardTask], job: ShardJob, workers: int
) -> Generator[tuple[ShardTask, Sidecar], None, None]:
    """Write the shards, yielding each finished one; few are submitted ahead, so memory stays flat."""
    given = job.settings
    encoding: dict[str, Any] = {"max_side": given.max_side, "quality": given.quality, "bits": given.bits}
    if workers <= 1 or len(tasks) <= 1:
        writer = ShardWriter(job.listing, job.work, **encoding)
        for task in tasks:
            yield task, writer.write(task)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        # Fresh processes: this one may run threads, and a fork would copy their locks in any state.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(job.listing.directory, job.work, encoding),
    )
    ahead = iter(tasks)
    running: dict[Future[Sidecar], ShardTask] = {}
    try:
        while True:
            for task in ahead:
                with signals_blocked():  # a submit may start a process: Ctrl-C is for this one
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


def _start(listing_dir: Path, work: Path, encoding: dict[str, Any]) -> None:
    global _writer
    end_with_parent()
    _writer = ShardWriter(Listing(listing_dir), work, **encoding)


def _write(task: ShardTask) -> Sidecar:
    assert _writer is not None
    return _writer.write(task)
