"""The work directory of a sharding run, and how its content becomes the finished directory.

The work directory holds `job.json` (what is being made), whole tars and a sidecar for each; after publishing
only `done.json`. The finished directory has `index.json` exactly while everything that it names is in place.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from mae.data.files import move, whole, write_json
from mae.data.index import FORMAT, INDEX, REJECTED, TARS, Index, sha256_of
from mae.data.listing import Listing
from mae.data.shard_plan import ShardTask
from mae.data.shard_writer import Sidecar, read_sidecar, sidecar_path
from mae.data.sources import SPLITS
from mae.data.split import SAMPLE, ShardError, samples_name

_JOB, _DONE = "job.json", "done.json"
_ANNOTATED = ("task", "categories", "ignore")  # what the index takes over from a manifest that has it


class EmptySplit(RuntimeError):
    """Not one image of a split could be decoded."""


def finished(out: Path, work: Path, job: dict[str, Any]) -> dict[str, Any] | None:
    """The index in `out`, if this very job made it and all that it names is there."""
    try:
        done = json.loads((work / _DONE).read_bytes())
        data = (out / INDEX).read_bytes()
        if done != {"job": job, "index": hashlib.sha256(data).hexdigest()}:
            return None
        return Index.open(out).about
    except (OSError, ValueError, ShardError):
        return None


def enter(work: Path, job: dict[str, Any]) -> None:
    """Make the work directory this job's: what another job left there is removed."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        same = json.loads((work / _JOB).read_bytes()) == job
    except (OSError, ValueError):
        same = False
    for path in work.iterdir():
        ours = path.name.split("-")[0] in SPLITS or path.name in (_JOB, _DONE, REJECTED)
        if path.name.endswith(".partial") or path.name == _DONE or (ours and not same):
            path.unlink()
    write_json(work / _JOB, job)


def kept(work: Path, out: Path, task: ShardTask) -> Sidecar | None:
    """The sidecar of a shard finished earlier, if its tar is still whole here (or already in its place)."""
    sidecar = read_sidecar(work, task.name)
    if sidecar is None:
        return None
    mine, placed = work / task.name, out / TARS / task.name
    if mine.is_file() and mine.stat().st_size == sidecar.bytes:
        return sidecar
    # Killed while moving: the tar may be in its place, but under a number another shard may have had.
    if placed.is_file() and placed.stat().st_size == sidecar.bytes and sha256_of(placed) == sidecar.sha256:
        return sidecar
    return None


def publish(
    listing: Listing,
    job: dict[str, Any],
    tasks: list[ShardTask],
    sidecars: dict[str, Sidecar],
    work: Path,
    out: Path,
) -> dict[str, Any]:
    """Move everything into `out` and write its index last; returns the index."""
    tars = out / TARS
    tars.mkdir(parents=True, exist_ok=True)
    (out / INDEX).unlink(missing_ok=True)  # from here on the directory is incomplete, and says so
    rejected, complaints = (
        sorted(
            (one for side in sidecars.values() for one in getattr(side, what)), key=lambda one: one["path"]
        )  # stable: the annotations of one image stay in their order
        for what in ("rejected", "complaints")
    )
    write_json(out / REJECTED, {"rejected": rejected, "complaints": complaints})
    splits = {}
    for split in listing.manifest["splits"]:
        names = [task.name for task in tasks if task.split == split and sidecars[task.name].samples]
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
        "seed": job["seed"],
        "resized": {
            "max_side": job["max_side"],
            "quality": job["quality"],
            "count": sum(side.resized for side in sidecars.values()),
        },
        **{name: listing.manifest[name] for name in _ANNOTATED if name in listing.manifest},
    }
    write_json(out / INDEX, index)
    digest = hashlib.sha256((out / INDEX).read_bytes()).hexdigest()
    write_json(work / _DONE, {"job": job, "index": digest})
    for task in tasks:
        for path in (work / task.name, sidecar_path(work, task.name)):
            path.unlink(missing_ok=True)
    return index


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
    with whole(tars / samples_name(split)) as file:
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
