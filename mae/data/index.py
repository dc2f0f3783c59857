"""Reading finished shards: an index over ordinary tars, samples by number, and proof that nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mae.data.files import write_json

FORMAT = 1
INDEX, REJECTED, TARS = "index.json", "rejected.json", "tars"
SAMPLE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
_MAX_OPEN = 32
_BLOCK = 512


class ShardError(RuntimeError):
    """Shards are missing, cut short, altered, or of another version; the message names the file."""


def samples_name(split: str) -> str:
    """File name of a split's sample table."""
    return f"{split}.samples.npy"


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Index:
    """A finished shard directory. Make one with `Index.open`.

    about: index.json as a dict. classes: sorted names, the label being the place (empty if unlabelled).
    digest: sha256 of index.json, which names every file's sha256: the identity of the data.
    """

    def __init__(self, directory: Path, about: dict[str, Any], digest: str) -> None:
        self.directory, self.about, self.digest = directory, about, digest
        self.classes: list[str] = about["classes"]

    @classmethod
    def open(cls, directory: str | os.PathLike) -> Index:
        """Read the index and check that every file it names is there, with its size.

        Raises: ShardError naming the first file that is not.
        """
        directory = Path(directory)
        path = directory / INDEX
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror}); run the shard stage") from error
        try:
            about = json.loads(data)
            version = about["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: is no shard index; run the shard stage again") from error
        if version != FORMAT:
            raise ShardError(f"{path}: has format {version}, this program reads {FORMAT}; shard again")
        index = cls(directory, about, hashlib.sha256(data).hexdigest())
        for file, size, _ in index._files():
            if not file.is_file():
                raise ShardError(f"{file}: missing, though {path} names it; restore it or shard again")
            if file.stat().st_size != size:
                raise ShardError(
                    f"{file}: has {file.stat().st_size} bytes, {path} says {size}; restore it or shard again"
                )
        return index

    def verify(self, stamp_file: str | os.PathLike | None = None, threads: int = 4) -> None:
        """Compare every file's sha256 with the index; threads hash at once.

        stamp_file: remembers what was found whole, by size and modification time, so that the next call
        reads only what changed since. Raises: ShardError naming the files that differ.
        """
        stamps = _read_stamps(stamp_file)
        found: dict[str, list] = {}
        to_do = []
        for file, _, sha256 in self._files():
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns, sha256]
            found[os.path.realpath(file)] = stamp
            if stamps.get(os.path.realpath(file)) != stamp:
                to_do.append((file, sha256))
        with ThreadPoolExecutor(threads) as pool:
            digests = pool.map(sha256_of, [file for file, _ in to_do])
            bad = [file for (file, sha256), digest in zip(to_do, digests, strict=True) if digest != sha256]
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            names = ", ".join(str(file) for file in bad[:3])
            raise ShardError(f"{names}{more}: altered since the shards were written; restore or shard again")
        if stamp_file is not None and to_do:
            write_json(Path(stamp_file), {**stamps, **found})

    def split(self, name: str) -> Split:
        """The samples of a split. Raises: ShardError for one that there is not."""
        if name not in self.about["splits"]:
            there = ", ".join(self.about["splits"])
            raise ShardError(f"{self.directory / INDEX}: has no split {name!r}, only {there}")
        split = self.about["splits"][name]
        return Split(
            self.directory / TARS, name, [shard["name"] for shard in split["shards"]], split["count"]
        )

    def _files(self) -> list[tuple[Path, int, str]]:
        tars = self.directory / TARS
        files = [(self.directory / REJECTED, self.about["rejected"])]
        for split in self.about["splits"].values():
            files += [(tars / one["name"], one) for one in [split["samples"], *split["shards"]]]
        return [(path, one["bytes"], one["sha256"]) for path, one in files]


def _read_stamps(stamp_file: str | os.PathLike | None) -> dict[str, list]:
    if stamp_file is None:
        return {}
    try:
        return json.loads(Path(stamp_file).read_bytes())
    except (OSError, ValueError):  # without stamps everything is hashed again, which is always right
        return {}


class Split:
    """The samples of one split, by row number: encoded bytes, label, description.

    Cheap to send to another process: the sample table is mapped there anew. labels: (n,) int64, -1 where
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
        """Label of one row, -1 where unlabelled."""
        return int(self._table["label"][row])

    def read(self, row: int) -> bytes:
        """The encoded image of a row. Raises: ShardError naming a shard that is gone or cut short."""
        sample = self._table[row]
        return self._read(int(sample["shard"]), int(sample["offset"]), int(sample["size"]))

    def meta(self, row: int) -> dict[str, Any]:
        """The row's json member: path, width, height (pixels), class and label if any; and key, shard."""
        sample = self._table[row]
        shard, offset, size = (int(sample[name]) for name in ("shard", "offset", "size"))
        image = self._header(shard, offset - _BLOCK)
        key = image.name.split(".")[0]
        at = offset + size + -size % _BLOCK
        while True:
            member = self._header(shard, at)
            if member.name == f"{key}.json":
                about = json.loads(self._read(shard, at + _BLOCK, member.size))
                return {**about, "key": key, "shard": self.shards[shard]}
            if not member.name.startswith(f"{key}."):
                raise ShardError(f"{self.directory / self.shards[shard]}: sample {key} has no json member")
            at += _BLOCK + member.size + -member.size % _BLOCK

    def subset(self, per_class: int, seed: int) -> np.ndarray:
        """Rows of a class-balanced choice, ascending: `per_class` of each label, all of a smaller class.

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
        try:
            return tarfile.TarInfo.frombuf(self._read(shard, at, _BLOCK), "utf-8", "strict")
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
