"""The index of finished shards: its tars, their samples, and proof that nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mae.data.shards.split import ShardError, Split
from mae.files import read_json, sha256_of, write_json
from mae.progress import Progress

FORMAT = 1
INDEX, REJECTED, SUMMARY, TARS = "index.json", "rejected.json", "summary.json", "tars"
REBUILD = "run `mae shard` (or shard_detect, shard_segment): it writes the file again, with the same bytes"


class Index:
    """A finished shard directory. Open one with `Index.open`.

    about: index.json as a dict; for detection, "boxes_only" counts the objects without a mask of their own.
    classes: sorted names; a label is a position in this list (empty if unlabelled). task: "classify",
    "detect" or "segment", the kind of annotation. categories: [{"id", "name"}]; a category index is a
    position in this list (empty for "classify"). ignore: label-map values that mean "not labelled". digest:
    sha256 of index.json, which names every file's sha256: the identity of the data.
    """

    def __init__(self, directory: Path, about: dict[str, Any], digest: str) -> None:
        self.directory, self.about, self.digest = directory, about, digest
        self.classes: list[str] = about["classes"]
        self.task: str = about.get("task", "classify")
        self.categories: list[dict[str, Any]] = about.get("categories", [])
        self.ignore: list[int] = about.get("ignore", [])

    @classmethod
    def open(cls, directory: str | os.PathLike, *, here: bool = True) -> Index:
        """Read the index, and check that every file it names is there with its size.

        here: False to read the index alone, without looking at the files.

        Raises: ShardError naming the first file that is missing or has another size.
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
            if version != FORMAT:
                raise ShardError(f"{path}: has format {version}, this program reads {FORMAT}; shard again")
            index = cls(directory, about, hashlib.sha256(data).hexdigest())
            files = index._files()
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: is no shard index; run the shard stage again") from error
        for file, size, sha256 in files if here else ():
            if not file.is_file():
                raise ShardError(f"{file}: missing, though {path} names it; {REBUILD}")
            if (found := file.stat().st_size) != size:
                raise ShardError(f"{file}: has {found} bytes, {path} says {size}; {REBUILD}", {file: sha256})
        return index

    def verify(
        self,
        stamp_file: str | os.PathLike | None = None,
        threads: int = 4,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Compare every file's sha256 with the index, in several threads; log the progress.

        stamp_file: a record of verified files by size and modification time; the next call reads only files
        that changed since. Raises: ShardError naming the files that differ.
        """
        # Without stamps every file is hashed again, which is always right.
        stamps: dict[str, list] = {} if stamp_file is None else read_json(Path(stamp_file)) or {}
        found: dict[str, list] = {}
        to_do = []
        for file, _, sha256 in self._files():
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns, sha256]
            found[os.path.realpath(file)] = stamp
            if stamps.get(os.path.realpath(file)) != stamp:
                to_do.append((file, sha256))
        bad: dict[Path, str] = {}
        progress = Progress(sum(file.stat().st_size >> 20 for file, _ in to_do), log, verb="read", unit="MB")
        with ThreadPoolExecutor(threads) as pool:
            digests = pool.map(sha256_of, [file for file, _ in to_do])
            for (file, sha256), digest in zip(to_do, digests, strict=True):
                progress.add(file.stat().st_size >> 20)
                if digest != sha256:
                    bad[file] = sha256
                    del found[os.path.realpath(file)]
        if stamp_file is not None and len(to_do) > len(bad):
            write_json(Path(stamp_file), {**stamps, **found})
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            names = ", ".join(str(file) for file in list(bad)[:3])
            raise ShardError(f"{names}{more}: altered since the shards were written; {REBUILD}", bad)

    def split(self, name: str) -> Split:
        """Open the samples of a split. Raises: ShardError for an unknown split."""
        if name not in self.about["splits"]:
            there = ", ".join(self.about["splits"])
            raise ShardError(f"{self.directory / INDEX}: has no split {name!r}, only {there}")
        split = self.about["splits"][name]
        return Split(
            self.directory / TARS, name, [shard["name"] for shard in split["shards"]], split["count"]
        )

    @property
    def viewed(self) -> Split:
        """The split for pictures, and for figures without labels: val, or train where there is no val."""
        return self.split("val" if "val" in self.about["splits"] else "train")

    def _files(self) -> list[tuple[Path, int, str]]:
        tars = self.directory / TARS
        files = [(self.directory / REJECTED, self.about["rejected"])]
        for split in self.about["splits"].values():
            files += [(tars / one["name"], one) for one in [split["samples"], *split["shards"]]]
        return [(path, one["bytes"], one["sha256"]) for path, one in files]
