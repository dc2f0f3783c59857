"""Reuse of shards by later runs: hard links to published tars, which need no second copy.

The directory holds a tar and a record of its images for each shard, both named by a digest of content and
origin, so that no file in it is overwritten by a different one. `kept.json` is written last and lists the
shards that count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae.data.listing.listing_file import Listing
from mae.data.shards.index import TARS
from mae.data.shards.shard_plan import ShardTask
from mae.data.shards.shard_writer import Sidecar
from mae.files import atomic_write, read_json, sha256_of, write_json

_KEPT = "kept.json"


class ReusedShard(NamedTuple):
    """A shard of an earlier run: its task in the new plan, its sidecar, the path of its tar.

    whole: False where the tar is missing or damaged; then the task writes it again in its place.
    """

    task: ShardTask
    sidecar: Sidecar
    tar: Path
    whole: bool


def reusable(
    directory: Path,
    reuse_key: dict[str, Any],
    listing: Listing,
    log: Callable[[str], None],
    damaged: Iterable[Path] = (),
) -> list[ReusedShard]:
    """Find kept shards of the same settings whose images are all listed unchanged, in their old order.

    reuse_key: all settings that decide a shard's content, without the images. A tar counts as whole if its
    size, modification time and inode are those recorded, or else its sha256. One that is not keeps its
    number and its images, so that it is written again as it was and no later shard moves.
    log: called with the reasons why shards are not reused. damaged: published files; the kept links to them
    are damaged, too.
    """
    noted = read_json(directory / _KEPT)
    if not isinstance(noted, dict) or not {"made_so", "shards"} <= noted.keys():
        if any(directory.iterdir()):
            log(f"{directory / _KEPT}: missing or damaged, no shard is reused")
        return []
    differ = [
        name
        for name in {**reuse_key, **noted["made_so"]}
        if noted["made_so"].get(name) != reuse_key.get(name)
    ]
    if differ:
        log(f"{directory}: made with other settings ({', '.join(differ)}), no shard of it is reused")
        return []
    row_of = _Rows(listing)
    broken = {path.stat().st_ino for path in damaged if path.exists()}
    found: list[ReusedShard] = []
    lost = gone = altered = 0
    for about in noted["shards"]:
        tar, record = directory / f"{about['key']}.tar", _record(directory, about)
        rows = row_of.take(record["rows"]) if record is not None else None
        if record is None or rows is None:
            lost += record is None
            gone += record is not None
            continue
        whole = _is_whole(tar, about, record["sidecar"]["sha256"], broken)
        altered += not whole
        number = sum(one.task.split == about["split"] for one in found)
        task = ShardTask(about["split"], number, rows, record["first_key"])
        found.append(ReusedShard(task, replace(Sidecar(**record["sidecar"]), name=task.name), tar, whole))
        row_of.used[rows] = True
    if lost:
        log(f"{directory}: the records of {lost} kept shards are damaged: their images are sharded again")
    if gone:
        log(f"{gone} earlier shards hold removed or changed images: their other images are sharded again")
    if altered:
        log(f"{directory}: {altered} kept shards are missing or altered: written again in their places")
    write_json(directory / _KEPT, noted)  # with the new inodes and times
    return found


def keep(
    directory: Path,
    reuse_key: dict[str, Any],
    listing: Listing,
    parts: Sequence[tuple[ShardTask, Sidecar]],
    index: dict[str, Any],
    out: Path,
) -> str | None:
    """Keep the published shards for the next run, and no others.

    parts: all tasks with their sidecars; index: the index published in `out`. Returns None, or the reason why
    no shard can be kept (a file system without hard links, or another one than that of `out`).
    """
    directory.mkdir(parents=True, exist_ok=True)
    identities = listing.identities()
    shards = []
    for split, about in index["splits"].items():
        here = [(task, side) for task, side in parts if task.split == split and side.samples]
        for (task, side), published in zip(here, about["shards"], strict=True):
            rows = identities[task.rows].astype("<u8").tobytes().hex()
            key = hashlib.sha256(f"{side.sha256} {rows}".encode()).hexdigest()[:32]
            tar = directory / f"{key}.tar"
            try:
                _link(out / TARS / published["name"], tar)
            except OSError as error:
                forget(directory)
                return error.strerror or str(error)
            if not (record := tar.with_suffix(".json")).is_file():
                with atomic_write(record) as file:
                    about_it = {"rows": rows, "first_key": task.first_key, "sidecar": vars(side)}
                    file.write(json.dumps(about_it).encode("ascii"))
            shards.append({"key": key, "split": split, "stamp": _stamp(tar), "record": sha256_of(record)})
    write_json(directory / _KEPT, {"made_so": reuse_key, "shards": shards})
    _remove_others(directory, {one["key"] for one in shards})
    return None


def forget(directory: Path) -> None:
    """Remove all kept shards: the next run writes every shard again."""
    (directory / _KEPT).unlink(missing_ok=True)
    _remove_others(directory, set())


class _Rows:
    """Rows of the current listing by the identity of their images."""

    def __init__(self, listing: Listing) -> None:
        identities = listing.identities()
        self._order = np.argsort(identities, kind="stable")
        self._sorted = identities[self._order]
        self.used = np.zeros(len(identities), dtype=bool)
        # Rows with equal identities (one chance in 10^7 at a million images) count as in no earlier shard.
        same = self._order[1:][self._sorted[1:] == self._sorted[:-1]]
        self.used[np.isin(identities, identities[same])] = True

    def take(self, identities: str) -> np.ndarray | None:
        """Find the rows (n,) of these identities; None where one is not listed or belongs to another
        shard."""
        wanted = np.frombuffer(bytes.fromhex(identities), dtype="<u8")
        places = np.searchsorted(self._sorted, wanted)
        places[places == len(self._sorted)] = 0
        if len(self._sorted) == 0 or (self._sorted[places] != wanted).any():
            return None
        rows = self._order[places]
        return None if self.used[rows].any() else rows


def _record(directory: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """Read the record of a kept shard; None where it is missing or damaged."""
    try:
        data = (directory / f"{about['key']}.json").read_bytes()
    except FileNotFoundError:
        return None
    # Lists of earlier releases hold no digest of the record.
    if hashlib.sha256(data).hexdigest() != about.get("record", hashlib.sha256(data).hexdigest()):
        return None
    try:
        record: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return record


def _is_whole(tar: Path, about: dict[str, Any], sha256: str, broken: set[int]) -> bool:
    try:
        stamp = _stamp(tar)
        if stamp[2] in broken:
            return False
        if stamp == about["stamp"]:
            return True
        if stamp[0] != about["stamp"][0] or sha256_of(tar) != sha256:
            return False
    except OSError:
        return False
    about["stamp"] = stamp
    return True


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, replacing any other file of that name."""
    if target.exists() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    os.link(source, target)


def _remove_others(directory: Path, keys: set[str]) -> None:
    for path in directory.iterdir():
        if path.name != _KEPT and path.stem not in keys:
            path.unlink()
