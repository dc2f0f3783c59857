"""Publishing of shards: the content of a work directory becomes the finished directory.

The work directory holds `job.json` (the job), whole tars and a sidecar for each; after publishing only
`done.json`. Reused shards of earlier runs are linked into it and then treated like newly written ones.
The finished directory has an `index.json` exactly while everything that it names is in place.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mae.data.shards.index import FORMAT, INDEX, REBUILD, REJECTED, SUMMARY, TARS, Index
from mae.data.shards.shard_job import ShardJob
from mae.data.shards.shard_plan import ShardTask
from mae.data.shards.shard_reuse import keep
from mae.data.shards.shard_summary import lines, summarise
from mae.data.shards.shard_writer import Sidecar, read_sidecar
from mae.data.shards.split import SAMPLE, ShardError, samples_name
from mae.data.sources.base import SPLITS
from mae.files import atomic_write, move, read_json, remove_stale, sha256_of, write_json

_JOB, _DONE = "job.json", "done.json"
_ANNOTATED = ("task", "categories", "ignore")  # entries that the index copies from a manifest


class EmptySplit(RuntimeError):
    """A split without a single image that decodes."""


@contextmanager
def work_lock(work: Path, log: Callable[[str], None], *, alone: bool = True) -> Iterator[None]:
    """Lock the work directory, alone or shared; wait for other holders.

    An flock on a file, not filelock: writers of single shards share the lock, and filelock has no shared mode
    without a database.
    """
    work.mkdir(parents=True, exist_ok=True)
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with work.with_name(f"{work.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"{work}: another process writes shards here; waiting for it")
            fcntl.flock(file, how)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
                raise
        yield


def finished_index(job: ShardJob, log: Callable[[str], None] = lambda line: None) -> dict[str, Any] | None:
    """Load the index in `job.out`, if this same job made it and all files that it names are whole.

    Files that did not change since they were compared with the index (`job.stamps`) are not read again. The
    job remembers damaged ones, so that it does not reuse them.
    """
    if not (job.out / INDEX).exists():
        return None
    try:
        index = Index.open(job.out)
        # Also where another job made it, or a kill left no record: a damaged shard must not be reused.
        index.verify(job.stamps, log=log)
    except ShardError as error:  # sharding again is always right
        log(str(error).replace(REBUILD, "it is written again"))
        job.damaged = error.damaged
        return None
    # An earlier release wrote no summary.
    done = read_json(job.work / _DONE) == {"job": job.about, "index": index.digest}
    return index.about if done and (job.out / SUMMARY).is_file() else None


def is_prepared(job: ShardJob) -> bool:
    """Tell whether the work directory belongs to this planned job."""
    return read_json(job.work / _JOB) == job.identity


def prepare(job: ShardJob) -> None:
    """Prepare the work directory for this planned job: remove files of other jobs, link reused shards."""
    same = is_prepared(job)
    remove_stale(job.work)
    (job.work / _DONE).unlink(missing_ok=True)
    if not same:
        clear(job.work)
    for task, sidecar, tar, whole in job.reused:
        if not whole:
            continue
        if read_sidecar(job.work, task.name) is None:
            sidecar.write(job.work)
        if not (job.work / task.name).exists():
            os.link(tar, job.work / task.name)
    write_json(job.work / _JOB, job.identity)


def finished_sidecar(job: ShardJob, task: ShardTask) -> Sidecar | None:
    """Load the sidecar of a shard finished earlier, if its tar is still whole here or already published."""
    sidecar = read_sidecar(job.work, task.name)
    if sidecar is None:
        return None
    mine, placed = job.work / task.name, job.out / TARS / task.name
    if mine.is_file() and mine.stat().st_size == sidecar.bytes:
        return sidecar
    # After a kill between two moves the tar may be published, or its number may be an older shard's.
    if placed.is_file() and placed.stat().st_size == sidecar.bytes and sha256_of(placed) == sidecar.sha256:
        return sidecar
    return None


def repair_linked(job: ShardJob, sidecars: dict[str, Sidecar]) -> None:
    """Give damaged shards that have other names, such as links of DVC's cache, their bytes back in place.

    DVC protects the files of its cache from writing, and so trusts them: it would put a damaged one into the
    working copy again, instead of the whole one of the same digest.
    """
    for file, sha256 in job.damaged.items():
        for side in sidecars.values():
            whole, linked = job.work / side.name, file.is_symlink() or file.stat().st_nlink > 1
            if linked and side.sha256 == sha256 and whole.is_file():
                mode = file.stat().st_mode
                file.chmod(mode | stat.S_IWUSR)
                with whole.open("rb") as read, file.open("r+b") as write:
                    shutil.copyfileobj(read, write, 1 << 20)
                    write.truncate()
                    os.fsync(write.fileno())
                file.chmod(mode)
                whole.unlink()


def publish(job: ShardJob, sidecars: dict[str, Sidecar], log: Callable[[str], None]) -> dict[str, Any]:
    """Move everything into `job.out`, write its index last, keep the tars for reuse; return the index."""
    listing, out, work = job.listing, job.out, job.work
    tars = out / TARS
    tars.mkdir(parents=True, exist_ok=True)
    (out / INDEX).unlink(missing_ok=True)  # without it the directory counts as incomplete from here on
    rejected, complaints = (
        sorted(
            (one for side in sidecars.values() for one in getattr(side, what)), key=lambda one: one["path"]
        )  # stable: an image's annotations stay in their order
        for what in ("rejected", "complaints")
    )
    write_json(out / REJECTED, {"rejected": rejected, "complaints": complaints})
    if complaints:
        few = "; ".join(f"{one['path']}: {one['complaint']}" for one in complaints[:3])
        log(f"{out / REJECTED}: remarks about images that stay ({len(complaints)}): {few}")
    splits = {}
    for split in listing.manifest["splits"]:
        names = [task.name for task in job.tasks if task.split == split and sidecars[task.name].samples]
        if not names:
            raise EmptySplit(
                f"{listing.root}: no image of the split {split!r} can be decoded; see {out / REJECTED}"
            )
        splits[split] = _publish_split(split, [sidecars[name] for name in names], work, tars)
    named = {shard["name"] for one in splits.values() for shard in [*one["shards"], one["samples"]]}
    for path in tars.iterdir():
        if path.name not in named and path.name.split("-")[0].split(".")[0] in SPLITS:
            path.unlink()  # left by an earlier, different set
    index = {
        "format": FORMAT,
        "kind": listing.manifest["kind"],
        "classes": listing.manifest["classes"],
        "class_info": listing.manifest["class_info"],
        "splits": splits,
        "rejected": {"count": len(rejected), **_named(out / REJECTED)},
        "fingerprint": f"{sum(int(side.content, 16) for side in sidecars.values()) % 2**256:064x}",
        "seed": job.settings.seed,
        "resized": {
            "max_side": job.about["max_side"],
            "quality": job.about["quality"],
            "count": sum(side.resized for side in sidecars.values()),
        },
        **{name: listing.manifest[name] for name in _ANNOTATED if name in listing.manifest},
    }
    if index.get("task") == "detect":
        index["boxes_only"] = sum(side.boxes_only for side in sidecars.values())
        if index["boxes_only"]:
            log(f"{out}: {index['boxes_only']} objects have a box and no mask; the box is used as the mask")
    summary = summarise(listing.manifest, sidecars.values())
    for line in lines(summary):
        log(f"{out}: {line}")
    if rejected:
        log(f"{out / REJECTED}: names all that was left out")
    write_json(out / SUMMARY, summary)
    write_json(out / INDEX, index)
    _conclude(job, sidecars, index, log)
    return index


def _conclude(
    job: ShardJob, sidecars: dict[str, Sidecar], index: dict[str, Any], log: Callable[[str], None]
) -> None:
    """Keep the tars for the next run, record the finished job, and empty the work directory."""
    if job.reuse_dir is not None:
        parts = [(task, sidecars[task.name]) for task in job.tasks]
        reason = keep(job.reuse_dir, job.reuse_key, job.listing, parts, index, job.out)
        if reason is not None:
            log(f"{job.reuse_dir}: the next run cannot reuse these shards and writes them again ({reason})")
    digest = sha256_of(job.out / INDEX)
    write_json(job.work / _DONE, {"job": job.about, "index": digest})
    clear(job.work)


def clear(work: Path) -> None:
    """Empty a work directory of all but the record of the finished job."""
    for path in work.iterdir():
        if path.name.split("-")[0] in SPLITS or path.name in (_JOB, REJECTED):
            path.unlink()


def _publish_split(split: str, sidecars: list[Sidecar], work: Path, tars: Path) -> dict[str, Any]:
    """Move a split's tars into place, numbered without gaps, and write its sample table."""
    shards = []
    table = np.zeros(sum(len(side.samples) for side in sidecars), dtype=SAMPLE)
    at = 0
    for number, side in enumerate(sidecars):
        name = f"{split}-{number:06d}.tar"
        if (work / side.name).is_file():
            move(work / side.name, tars / name)
        rows = np.array(side.samples, dtype=np.int64)
        part = table[at : at + len(rows)]
        part["shard"] = number
        part["offset"], part["size"], part["label"] = rows.T
        at += len(rows)
        shards.append({"name": name, "count": len(rows), "bytes": side.bytes, "sha256": side.sha256})
    with atomic_write(tars / samples_name(split)) as file:
        np.save(file, table)
    return {
        "count": len(table),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        "samples": _named(tars / samples_name(split)),
    }


def _named(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
