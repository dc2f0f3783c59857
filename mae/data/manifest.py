"""The cheap description of a source: `listing.tsv`, one line per image, and `manifest.json` over it.

Made of names, sizes and times alone, so it can be remade at every run; equal sources give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mae.data.files import json_bytes, whole, write_json
from mae.data.imagenet_tars import ImageNetTarSource
from mae.data.sources import SPLITS, Entry, FlatSource, FolderSource, Source, SourceError

SOURCES: dict[str, type] = {one.kind: one for one in (FolderSource, ImageNetTarSource, FlatSource)}
LISTING, MANIFEST = "listing.tsv", "manifest.json"
FORMAT = 1

_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


def open_source(kind: str, root: str | os.PathLike, val_fraction: float = 0.0) -> Source:
    """The source of that kind at `root`. Raises SourceError for a kind that there is not."""
    if kind not in SOURCES:
        raise SourceError(f"source kind {kind!r} is not one of {', '.join(sorted(SOURCES))}")
    return SOURCES[kind](root, val_fraction=val_fraction)


def write_listing(source: Source, out_dir: str | os.PathLike) -> dict[str, Any]:
    """List the source into out_dir/listing.tsv and out_dir/manifest.json.

    The manifest: kind, root, splits {name: {count, bytes}}, classes (sorted; empty without labels),
    class_info, ignored (files that are no images), fingerprint (sha256 over names, sizes, times). Files are
    rewritten only where they would differ. A source that consists of a few tars is not walked again while
    those are unchanged.

    Raises: SourceError for an empty split, or a class of `val` that `train` does not have.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    key = source.unchanged_key()
    kept = _kept(out, source, key) if key else None
    if kept is not None:
        return kept
    census = _Census()
    fingerprint = hashlib.sha256()
    with whole(out / f"{LISTING}.new") as file:
        for entry in source.entries():
            line = _line(entry)
            census.add(entry)
            fingerprint.update(line)
            file.write(line)
        census.judge(source)
    _replace_if_different(out / f"{LISTING}.new", out / LISTING)
    manifest = {
        "format": FORMAT,
        "kind": source.kind,
        "root": os.fspath(source.root),
        "splits": census.splits,
        "classes": sorted(census.classes["train"] | census.classes["val"]),
        "class_info": source.class_info(),
        "ignored": source.ignored,
        "unchanged_key": key,
        "fingerprint": fingerprint.hexdigest(),
    }
    write_json(out / MANIFEST, manifest)
    return manifest


class _Census:
    """Counts per split and the classes met, gathered while the listing streams by."""

    def __init__(self) -> None:
        self.splits: dict[str, dict[str, int]] = {}
        self.classes: dict[str, set[str]] = {split: set() for split in SPLITS}

    def add(self, entry: Entry) -> None:
        split = self.splits.setdefault(entry.split, {"count": 0, "bytes": 0})
        split["count"] += 1
        split["bytes"] += max(0, entry.size)
        if entry.class_name is not None:
            self.classes[entry.split].add(entry.class_name)

    def judge(self, source: Source) -> None:
        fraction = getattr(source, "val_fraction", 0.0)
        if "train" not in self.splits and "val" not in self.splits:
            raise SourceError(f"{source.root}: no images found (expected jpg, jpeg, png or webp files)")
        if "train" not in self.splits:
            raise SourceError(f"{source.root}: the split 'train' has no images")
        if "val" not in self.splits and ((source.root / "val").is_dir() and source.kind == "folder"):
            raise SourceError(f"{source.root / 'val'}: the split 'val' has no images; add some or remove it")
        if "val" not in self.splits and fraction > 0:
            raise SourceError(
                f"{source.root}: val_fraction {fraction} of {self.splits['train']['count']} images held none "
                "out; raise it, or set it to 0 for no val split"
            )
        strange = sorted(self.classes["val"] - self.classes["train"])
        if strange and not fraction:  # files held out by name may have taken a small class along as a whole
            more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
            raise SourceError(
                f"{source.root}: val has classes that train has not: {', '.join(strange[:3])}{more}"
            )


def _kept(out: Path, source: Source, key: dict[str, list[int]]) -> dict[str, Any] | None:
    """The manifest already there, if it was made of the same unchanged files and its listing is whole."""
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    same = {"format": FORMAT, "kind": source.kind, "root": os.fspath(source.root), "unchanged_key": key}
    if any(manifest.get(name) != value for name, value in same.items()):
        return None
    try:
        with (out / LISTING).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return manifest if digest == manifest.get("fingerprint") else None


def _replace_if_different(new: Path, old: Path) -> None:
    if old.is_file() and old.stat().st_size == new.stat().st_size:
        with new.open("rb") as one, old.open("rb") as other:
            if hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest():
                new.unlink()
                return
    os.replace(new, old)


def _line(entry: Entry) -> bytes:
    texts = (entry.split, entry.class_name or "", entry.container, entry.path)
    split, name, container, path = (_escape(text) for text in texts)
    numbers = f"{entry.size}\t{entry.mtime_ns}\t{entry.offset}"
    return os.fsencode(f"{split}\t{name}\t{numbers}\t{container}\t{path}\n")


def _escape(text: str) -> str:
    if text.isprintable() and "\\" not in text:
        return text
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return text


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    plain = {escaped[1]: letter for letter, escaped in _ESCAPES}
    letters = iter(text)
    return "".join(plain[next(letters)] if letter == "\\" else letter for letter in letters)


class Listing:
    """A listing read in place: rows by number, without holding their names in memory."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        path = self.directory / LISTING
        try:
            self.manifest = json.loads((self.directory / MANIFEST).read_bytes())
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.directory}: no listing ({error}); run the ingest stage") from error
        count = sum(split["count"] for split in self.manifest["splits"].values())
        self._starts = np.zeros(count + 1, dtype=np.int64)
        self._splits = np.zeros(count, dtype=np.uint8)
        self._sizes = np.zeros(count, dtype=np.int64)
        self._index(path, count)

    def _index(self, path: Path, count: int) -> None:
        row = 0
        while line := self._map.readline():
            if row < count:
                split, _, size, _ = line.split(b"\t", 3)
                self._splits[row] = SPLITS.index(split.decode())
                self._sizes[row] = int(size)
                self._starts[row + 1] = self._map.tell()
            row += 1
        if row != count:
            raise SourceError(f"{path}: has {row} lines where its manifest says {count}; run ingest again")

    @property
    def root(self) -> Path:
        return Path(self.manifest["root"])

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, in listing order."""
        return np.flatnonzero(self._splits == SPLITS.index(split))

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Listed sizes in bytes (a broken link counts as none)."""
        return np.maximum(self._sizes[rows], 0)

    def __len__(self) -> int:
        return len(self._splits)

    def __getitem__(self, row: int) -> Entry:
        line = os.fsdecode(self._map[self._starts[row] : self._starts[row + 1] - 1])
        split, name, size, mtime, offset, container, path = line.split("\t")
        return Entry(
            split,
            _unescape(path),
            _unescape(name) or None,
            int(size),
            int(mtime),
            _unescape(container),
            int(offset),
        )

    def __iter__(self) -> Iterator[Entry]:
        return (self[row] for row in range(len(self)))


def manifest_digest(manifest: dict[str, Any]) -> str:
    """sha256 over what the manifest says of the source (where it lies excepted)."""
    return hashlib.sha256(
        json_bytes({name: value for name, value in manifest.items() if name != "root"})
    ).hexdigest()
