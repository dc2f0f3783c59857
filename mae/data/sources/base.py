"""Where raw images lie: each source streams what it holds as entries, in one stated order.

A source lists; it opens no image. Listings hold names, sizes and times only, so listing ImageNet takes
seconds, and they are streamed: one directory is sorted at a time.
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
# Images that a shard mostly cannot hold: listed too, so that sharding (by content) reports each by name.
_OTHER = (
    ".avif .bmp .cr2 .dng .gif .heic .heif .ico .j2k .jfif .jp2 .jxl .nef .pgm .ppm .psd .svg .tga .tif .tiff"
)
OTHER_IMAGES = frozenset(_OTHER.split())
BROKEN_LINK = -1


class SourceError(ValueError):
    """The source does not look as its kind must; the message names the path and what was expected."""


class Faults:
    """What is wrong with one file or folder, gathered so that one error tells of all of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, list[str]] = {}

    def add(self, what: str, example: str) -> None:
        """what: plural, as of 'images without a label map'; example: which one it is."""
        self._found.setdefault(what, []).append(example)

    def raise_if_any(self) -> None:
        """Raises SourceError with the number of each fault and up to three examples, where there are any."""
        if self._found:
            said = (
                f"{len(all_of)} {what}: {', '.join(all_of[:3])}{', ...' if len(all_of) > 3 else ''}"
                for what, all_of in self._found.items()
            )
            raise SourceError(f"{self._path}: has {'; '.join(said)}")


class Entry(NamedTuple):
    """One listed image.

    size: bytes, or BROKEN_LINK. offset: where its bytes begin in the file `container` (a path below the
    root), or -1 and "" where the image is a file of its own at `path` (below the root). annotation: JSON of
    what belongs to the image, as its source states it: "" where the source has classes or nothing;
    {"image_id", "width", "height", "annotations"} (see `coco`); {"map", "size", "mtime_ns"} (see
    `label_maps`).
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
    """What every kind of source offers. `ignored` is complete once `entries` has been exhausted."""

    kind: str
    root: Path
    ignored: int

    def entries(self) -> Iterator[Entry]:
        """Every image, in an order that depends on names alone. Raises SourceError."""

    def unchanged_key(self) -> dict[str, list[int]]:
        """Name -> numbers of all that decides the listing, such as a file's [size, mtime_ns]: while they
        stay, it is not read again. {} of a source that knows none before `entries`."""

    def class_info(self) -> dict[str, dict]:
        """Class name -> whatever the source knows of it (id, words); {} where it knows nothing."""

    def annotation_info(self) -> dict[str, Any]:
        """{} of a source of classes. Else, complete once `entries` has been exhausted:

        task: "detect" or "segment"; categories: [{"id", "name"}] by ascending id, which is the official id or
        the value in label maps; for "segment" ignore: the values that mean "not labelled".
        """


class FoundFile(NamedTuple):
    """A file met on a walk: its path below the root, with size and time."""

    path: str
    size: int
    mtime_ns: int


def is_image(name: str) -> bool:
    """Whether the file name is an image's, of a kind that shards hold or of another."""
    extension = os.path.splitext(name)[1].lower()
    return extension in EXTENSIONS or extension in OTHER_IMAGES


def held_out(path: str, fraction: float) -> bool:
    """Whether this path belongs to the validation part: by hash, so it does not move when files are added."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def directories(path: Path) -> list[str]:
    """Names of the visible directories in a directory (links followed), sorted."""
    with os.scandir(path) as scan:
        return sorted(entry.name for entry in scan if entry.is_dir() and not entry.name.startswith("."))


def walk(root: Path, top: str) -> Iterator[FoundFile]:
    """Every visible file below root/top, names sorted within each directory; links are followed.

    A directory that contains itself by a link is entered once. Hidden names (leading dot) are passed over.
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
            if not entry.is_symlink():  # a directory that may not be read is an error, not a gap
                raise
            yield FoundFile(path, BROKEN_LINK, 0)
            continue
        yield FoundFile(path, status.st_size, status.st_mtime_ns)


def stat_digest(files: Iterable[FoundFile]) -> list[int]:
    """[A number made of names, sizes and times]: another one for any other files."""
    digest = hashlib.sha256()
    for found in files:
        digest.update(os.fsencode(f"{found.path}\0{found.size}\0{found.mtime_ns}\0"))
    return [int.from_bytes(digest.digest()[:8], "big")]


def file_at(root: Path, path: str) -> FoundFile | None:
    """The file that a list names by its path below the root; None where there is none below it."""
    path = posixpath.normpath(path)
    if path.startswith(("/", "../")):
        return None
    try:
        status = os.stat(root / path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FoundFile(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def require_directory(path: Path, expected: str) -> None:
    """Raises SourceError unless `path` is a directory."""
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise SourceError(f"{path}: {what}; expected {expected}")


def refuse_val_fraction(kind: str, val_fraction: float) -> None:
    """Raises SourceError where a share of a set that has a val split of its own is to be held out."""
    if val_fraction:
        raise SourceError(f"{kind} has an official val split: val_fraction must be 0")


def checked_fraction(value: float) -> float:
    """The value, once it is known to be a fraction. Raises SourceError."""
    if not 0.0 <= value < 1.0:
        raise SourceError(f"val_fraction is {value}: it must be at least 0 and below 1")
    return value
