"""A listing on disk: `listing.tsv`, one line per image, next to its `manifest.json`."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mae.data.sources.base import SPLITS, Entry, SourceError

LISTING, MANIFEST, SUMMARY = "listing.tsv", "manifest.json", "summary.json"

_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


def line_of(entry: Entry) -> bytes:
    """Format an entry as a line of a listing, newline included."""
    texts = (entry.split, entry.class_name or "", entry.container, entry.path)
    split, name, container, path = (_escape(text) for text in texts)
    numbers = f"{entry.size}\t{entry.mtime_ns}\t{entry.offset}"
    # The last column only where it is not empty: listings of classes keep their bytes.
    annotation = f"\t{_escape(entry.annotation)}" if entry.annotation else ""
    return os.fsencode(f"{split}\t{name}\t{numbers}\t{container}\t{path}{annotation}\n")


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
    """A listing read in place: rows by number, without all names in memory."""

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
        """List the row numbers of a split, in listing order."""
        return np.flatnonzero(self._splits == SPLITS.index(split))

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Look up listed sizes in bytes (0 for a broken link)."""
        return np.maximum(self._sizes[rows], 0)

    def identities(self) -> np.ndarray:
        """Digest each row's whole line, (n,) uint64: equal while an image is listed unchanged."""
        lines = zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True)
        digests = b"".join(blake2b(self._map[start:end], digest_size=8).digest() for start, end in lines)
        return np.frombuffer(digests, dtype="<u8")

    def lines(self) -> Iterator[bytes]:
        """Read the listing's lines, newline included, one at a time."""
        self._map.seek(0)
        return iter(self._map.readline, b"")

    def __len__(self) -> int:
        return len(self._splits)

    def __getitem__(self, row: int) -> Entry:
        line = os.fsdecode(self._map[self._starts[row] : self._starts[row + 1] - 1])
        split, name, size, mtime, offset, container, path, *annotation = line.split("\t")
        return Entry(
            split,
            _unescape(path),
            _unescape(name) or None,
            int(size),
            int(mtime),
            _unescape(container),
            int(offset),
            _unescape(annotation[0]) if annotation else "",
        )

    def __iter__(self) -> Iterator[Entry]:
        return (self[row] for row in range(len(self)))
