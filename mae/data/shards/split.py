"""The samples of one split of finished shards, read by row number from the tars in place."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
_MAX_OPEN = 32
_BLOCK = 512


class ShardError(RuntimeError):
    """Shards that are missing, cut short, altered, or of another version; the message names the file.

    damaged: files whose bytes are known to be others than the index says, with the sha256 there.
    """

    def __init__(self, message: str, damaged: Mapping[Path, str] | None = None) -> None:
        super().__init__(message)
        self.damaged = damaged or {}


def samples_name(split: str) -> str:
    """Name the file of a split's sample table."""
    return f"{split}.samples.npy"


class Split:
    """The samples of one split, by row number: encoded bytes, label, description.

    Cheap to send to another process: that process maps the sample table itself. labels: (n,) int64, -1 where
    unlabelled. shard_of: (n,) int64, the number of the shard that holds each row.
    """

    def __init__(self, directory: Path, name: str, shards: list[str], count: int) -> None:
        self.directory, self.name, self.shards = directory, name, shards
        path = directory / samples_name(name)
        try:
            self._table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ShardError(f"{path}: cannot be read ({error}); restore it or shard again") from error
        if self._table.dtype != SAMPLE or len(self._table) != count:
            raise ShardError(f"{path}: is not this index's sample table; restore it or shard again")
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Split, (self.directory, self.name, self.shards, len(self))

    def __len__(self) -> int:
        return len(self._table)

    @property
    def labels(self) -> np.ndarray:
        return self._table["label"].astype(np.int64)

    @property
    def shard_of(self) -> np.ndarray:
        return self._table["shard"].astype(np.int64)

    def label(self, row: int) -> int:
        """Return the label of one row, -1 where unlabelled."""
        return int(self._table["label"][row])

    def read(self, row: int) -> bytes:
        """Read the encoded image of a row. Raises: ShardError naming a shard that is missing or cut short."""
        sample = self._table[row]
        return self._read(int(sample["shard"]), int(sample["offset"]), int(sample["size"]))

    def meta(self, row: int) -> dict[str, Any]:
        """Read the row's json member: path, width, height (pixels), class and label if any, image_id and
        annotations for detection; and add key and shard. Raises: ShardError."""
        key, data = self._found(row, "json")
        return {**json.loads(data), "key": key, "shard": self.shards[int(self._table["shard"][row])]}

    def place(self, row: int) -> str:
        """Name the sample, path and shard of a row, for a person to find it."""
        try:
            about = self.meta(row)
            return f"sample {about['key']} ({about['path']}) of {self.directory / about['shard']}"
        except (ShardError, ValueError, KeyError):  # its description is damaged as well
            return f"row {row} of split {self.name} in {self.directory}"

    def member(self, row: int, name: str) -> bytes:
        """Read the row's member of that name, given without its key: "json", "labels.png" ...

        Raises: ShardError naming the shard where the row has no such member.
        """
        return self._found(row, name)[1]

    def _found(self, row: int, name: str) -> tuple[str, bytes]:
        """Find the key of the row's sample, and the bytes of its member of that name."""
        sample = self._table[row]
        shard, offset, size = (int(sample[name]) for name in ("shard", "offset", "size"))
        key = self._header(shard, offset - _BLOCK).name.split(".")[0]
        at = offset + size + -size % _BLOCK
        while True:
            member = self._header(shard, at)
            if member.name == f"{key}.{name}":
                return key, self._read(shard, at + _BLOCK, member.size)
            if not member.name.startswith(f"{key}."):
                raise ShardError(f"{self.directory / self.shards[shard]}: sample {key} has no {name} member")
            at += _BLOCK + member.size + -member.size % _BLOCK

    def subset(self, per_class: int, seed: int) -> np.ndarray:
        """Draw a class-balanced subset of rows, ascending: `per_class` of each label, all of a smaller class.

        Raises: ValueError where there are no labels.
        """
        if per_class < 1:
            raise ValueError(f"per_class is {per_class}: it must be at least 1")
        labels = self.labels
        if len(labels) == 0 or labels.min() < 0:
            raise ValueError(f"{self.directory / samples_name(self.name)}: unlabelled, no subset per class")
        shuffled = np.random.default_rng(seed).permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        ends = np.cumsum(np.bincount(labels))
        place = np.arange(len(labels)) - np.concatenate([[0], ends])[labels[by_class]]
        return np.sort(by_class[place < per_class])

    def _header(self, shard: int, at: int) -> tarfile.TarInfo:
        block = self._read(shard, at, _BLOCK)
        if not any(block):  # the zeros that end a tar: a member of no name
            return tarfile.TarInfo("")
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except tarfile.HeaderError as error:
            raise ShardError(f"{self.directory / self.shards[shard]}: altered at byte {at}") from error

    def _read(self, shard: int, at: int, size: int) -> bytes:
        path = self.directory / self.shards[shard]
        try:
            with self._lock:  # else another thread may close the file between the look-up and the read
                data = os.pread(self._opened(shard, path), size, at)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise ShardError(
                f"{path}: ends at byte {at + len(data)} of {at + size}: cut short since it was opened"
            )
        return data

    def _opened(self, shard: int, path: Path) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= _MAX_OPEN:
            os.close(self._files.popitem(last=False)[1])
        self._files[shard] = os.open(path, os.O_RDONLY)
        return self._files[shard]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)
