"""The base of all sources: each streams its images as entries, in an order that depends on names alone.

A source lists, and opens no image. A listing holds names, sizes and times only, so listing ImageNet takes
seconds; it is streamed, with one directory sorted at a time.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

SPLITS = ("train", "val")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# Formats that shards mostly cannot hold: listed too, so that sharding (by content) rejects each by name.
_OTHER = (
    ".avif .bmp .cr2 .dng .gif .heic .heif .ico .j2k .jfif .jp2 .jxl .nef .pgm .ppm .psd .svg .tga .tif .tiff"
)
OTHER_IMAGES = frozenset(_OTHER.split())
BROKEN_LINK = -1


class SourceError(ValueError):
    """A source without the layout of its kind; the message names the path and the expected layout."""


class Faults:
    """The faults of one file or folder, collected so that one error names all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, list[str]] = {}

    def add(self, what: str, example: str) -> None:
        """Add a fault. what: plural, such as 'images without a label map'; example: the faulty one."""
        self._found.setdefault(what, []).append(example)

    def raise_if_any(self) -> None:
        """Raise SourceError with the number of each fault and up to three examples, if there are any."""
        if self._found:
            said = (
                f"{len(all_of)} {what}: {', '.join(all_of[:3])}{', ...' if len(all_of) > 3 else ''}"
                for what, all_of in self._found.items()
            )
            raise SourceError(f"{self._path}: has {'; '.join(said)}")


class Entry(NamedTuple):
    """One listed image.

    size: bytes, or BROKEN_LINK. offset: start of its bytes in the file `container` (a path below the root),
    or -1 and "" where the image is a file of its own at `path` (below the root). annotation: JSON of the
    image's annotations as its source gives them: "" where the source has classes or no labels; {"image_id",
    "width", "height", "annotations"} (see `coco`); {"map", "size", "mtime_ns"} (see `label_maps`).
    """

    split: str
    path: str
    class_name: str | None
    size: int
    mtime_ns: int
    container: str = ""
    offset: int = -1
    annotation: str = ""


class Source(Protocol):
    """The interface of a source. `ignored` counts other files, completely once `entries` is exhausted."""

    kind: str
    root: Path
    ignored: int

    def entries(self) -> Iterator[Entry]:
        """Stream every image, in an order that depends on names alone. Raises SourceError."""

    def unchanged_key(self) -> dict[str, list[int]]:
        """Return name -> numbers, such as a file's [size, mtime_ns], of all that decides the listing: while
        they stay equal, the source is not read again. {} where they are unknown before `entries`."""

    def class_info(self) -> dict[str, dict]:
        """Return class name -> details from the source (id, words); {} where there are none."""

    def annotation_info(self) -> dict[str, Any]:
        """Describe the annotations, once `entries` is exhausted; {} for a source of classes.

        task: "detect" or "segment"; categories: [{"id", "name"}] by ascending id, the official id or the
        value in label maps; for "segment" ignore: the values that mean "not labelled".
        """


class FoundFile(NamedTuple):
    """A file of a walk: its path below the root, with size and time."""

    path: str
    size: int
    mtime_ns: int


def is_image(name: str) -> bool:
    """Tell whether the file name is that of an image, of a format that shards hold or of another."""
    extension = os.path.splitext(name)[1].lower()
    return extension in EXTENSIONS or extension in OTHER_IMAGES


def held_out(path: str, fraction: float) -> bool:
    """Tell whether this path belongs to val: by hash, so that it stays there when files are added."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def directories(path: Path) -> list[str]:
    """List the names of visible directories in a directory (links followed), sorted."""
    with os.scandir(path) as scan:
        return sorted(entry.name for entry in scan if entry.is_dir() and not entry.name.startswith("."))


def walk(root: Path, top: str) -> Iterator[FoundFile]:
    """Stream every visible file below root/top, names sorted within each directory; links are followed.

    A directory that contains itself by a link is entered once. Hidden names (leading dot) are skipped.
    """
    yield from _walk(root, top, ())


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[FoundFile]:
    place = root / below if below else root
    status = os.stat(place)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(place) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        try:
            if entry.is_dir():
                yield from _walk(root, path, (*above, identity))
                continue
            status = entry.stat()
        except OSError:
            if not entry.is_symlink():  # a directory without read permission is an error, not a gap
                raise
            yield FoundFile(path, BROKEN_LINK, 0)
            continue
        yield FoundFile(path, status.st_size, status.st_mtime_ns)


def stat_digest(files: Iterable[FoundFile]) -> list[int]:
    """Digest names, sizes and times into [a number] that differs for any other files."""
    digest = hashlib.sha256()
    for found in files:
        digest.update(os.fsencode(f"{found.path}\0{found.size}\0{found.mtime_ns}\0"))
    return [int.from_bytes(digest.digest()[:8], "big")]


def file_at(root: Path, path: str) -> FoundFile | None:
    """Find the file that a list names by its path below the root; None where there is none."""
    path = posixpath.normpath(path)
    if path.startswith(("/", "../")):
        return None
    try:
        status = os.stat(root / path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FoundFile(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def require_directory(path: Path, expected: str) -> None:
    """Raise SourceError unless `path` is a directory."""
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise SourceError(f"{path}: {what}; expected {expected}")


def refuse_val_fraction(kind: str, val_fraction: float) -> None:
    """Raise SourceError for a `val_fraction` of a set that has an official val split."""
    if val_fraction:
        raise SourceError(f"{kind} has an official val split: val_fraction must be 0")


def checked_fraction(value: float) -> float:
    """Return the value if it is a fraction. Raises SourceError."""
    if not 0.0 <= value < 1.0:
        raise SourceError(f"val_fraction is {value}: it must be at least 0 and below 1")
    return value
