"""A sharding job: its settings, the shards that it reuses, and a task for each shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae.data.listing.listing_file import Listing
from mae.data.listing.manifest import manifest_digest
from mae.data.shards.index import FORMAT
from mae.data.shards.shard_plan import ShardTask, plan_shards
from mae.data.shards.shard_reuse import ReusedShard, reusable
from mae.data.sources.base import SPLITS


@dataclass(frozen=True)
class ShardSettings:
    """The settings of sharding.

    max_count, max_bytes: bounds on a shard's images and their listed bytes (a larger image gets a shard of
    its own). max_side, quality: see `ShardWriter`; images with annotations are never resized. max_rejected:
    more rejected images and annotations than this are an error (a number, or a share of the listed images).
    section: of params.yaml, named in messages. bits: see `ShardWriter`. seed: of the shuffle.

    Raises: ValueError naming the setting.
    """

    max_count: int = 1250
    max_bytes: int = 1 << 30
    max_side: int | None = None
    quality: int = 90
    max_rejected: int | float = 0
    section: str = "shard"
    bits: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_count", "max_bytes", "max_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}: JPEG quality runs from 1 to 100")


class ShardJob:
    """The shards of one listing (`manifest.write_listing`), written in `work` and published in `out`.

    reuse_dir: a directory that keeps published shards for the next run (see `shard_reuse`); None writes
    all of them each time. stamps: a record of files that were compared with the index (`Index.verify`);
    without one every byte is read before a run says that there is nothing to do. about: the job as JSON.
    damaged: published files that are not whole, with the sha256 that they should have. After `plan`: tasks,
    every shard in the order of the index, and reused, those that an earlier run wrote. The plan depends on
    the listing, the settings and the reused shards alone.

    Raises: SourceError without a listing; ValueError for settings that its images cannot have.
    """

    def __init__(
        self,
        listing_dir: str | os.PathLike,
        out_dir: str | os.PathLike,
        work_dir: str | os.PathLike,
        reuse_dir: str | os.PathLike | None = None,
        settings: ShardSettings | None = None,
        stamps: str | os.PathLike | None = None,
    ) -> None:
        self.listing, self.settings = Listing(listing_dir), settings or ShardSettings()
        self.out, self.work = Path(out_dir), Path(work_dir)
        self.reuse_dir = None if reuse_dir is None else Path(reuse_dir)
        self.stamps = stamps
        given, manifest = self.settings, self.listing.manifest
        if given.max_side is not None and "task" in manifest:
            raise ValueError(
                f"max_side is {given.max_side}: images with annotations keep their size, or boxes and label "
                "maps would not fit them; set max_side to null"
            )
        made = {
            "format": FORMAT,
            "seed": given.seed,
            "max_count": given.max_count,
            "max_bytes": given.max_bytes,
            "max_side": given.max_side,
            "quality": given.quality if given.max_side else None,
        }
        if given.bits is not None:  # left out otherwise: jobs of earlier releases stay the same
            made["bits"] = given.bits
        self.about: dict[str, Any] = {**made, "source": manifest_digest(manifest)}
        # Labels are positions in the classes, and annotations are checked against the categories.
        tables = {name: manifest.get(name) for name in ("classes", "task", "categories", "ignore")}
        self.reuse_key: dict[str, Any] = {**made, **tables}
        self.tasks: list[ShardTask] = []
        self.reused: list[ReusedShard] = []
        self.damaged: Mapping[Path, str] = {}

    def plan(self, log: Callable[[str], None] = lambda line: None) -> None:
        """Find reusable shards of earlier runs, and cut the remaining images into shards that follow them."""
        self.reused, self.tasks = [], []
        had = self.reuse_dir is not None and self.reuse_dir.is_dir()
        if self.reuse_dir is not None and had:
            self.reused = reusable(self.reuse_dir, self.reuse_key, self.listing, log, self.damaged)
        given = self.settings
        for split in SPLITS:
            old = [one.task for one in self.reused if one.task.split == split]
            self.tasks += old
            self.tasks += plan_shards(self.listing, split, given.seed, given.max_count, given.max_bytes, old)
        if had:
            whole = [one for one in self.reused if one.whole]
            images = sum(len(one.sidecar.samples) for one in whole)
            log(f"reuse {len(whole)} shards ({images} images), write {len(self.tasks) - len(whole)} new")

    @property
    def identity(self) -> dict[str, Any]:
        """`about` with the reused shards: equal while a planned task means the same shard."""
        return {**self.about, "kept": [one.tar.stem for one in self.reused]} if self.reused else self.about
