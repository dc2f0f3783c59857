"""Where raw images lie: each source streams what it holds as entries, in one stated order.

A source lists; it opens no image. Listings hold names, sizes and times only, so listing ImageNet takes
seconds, and they are streamed: one directory is sorted at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

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


class Entry(NamedTuple):
    """One listed image.

    size: bytes, or BROKEN_LINK. offset: where its bytes begin in the file `container` (a path below the
    root), or -1 and "" where the image is a file of its own at `path` (below the root).
    """

    split: str
    path: str
    class_name: str | None
    size: int
    mtime_ns: int
    container: str = ""
    offset: int = -1


class Source(Protocol):
    """What every kind of source offers. `ignored` is complete once `entries` has been exhausted."""

    kind: str
    root: Path
    ignored: int

    def entries(self) -> Iterator[Entry]:
        """Every image, in an order that depends on names alone. Raises SourceError."""

    def unchanged_key(self) -> dict[str, list[int]]:
        """Name -> [size, mtime_ns] of the files that alone decide the listing; {} where only a walk tells."""

    def class_info(self) -> dict[str, dict]:
        """Class name -> whatever the source knows of it (id, words); {} where it knows nothing."""


class Found(NamedTuple):
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


class FolderSource:
    """ImageNet-style class folders: `train/<class>/...` and `val/<class>/...`.

    The class is the first folder; files may lie deeper. Tiny-ImageNet's `val/images` with
    `val/val_annotations.txt` is read too. With no `val`, or with neither (the root's folders are then the
    classes), a fraction `val_fraction` of the files is held out by a hash of their names.
    """

    kind = "folder"

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        self.root = Path(root)
        self.val_fraction = _fraction(val_fraction)
        self.ignored = 0

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, "class folders, or train/<class>/ and val/<class>/")
        names = directories(self.root)
        if "train" not in names and "val" in names:
            raise SourceError(f"{self.root}: has val/ but no train/; expected train/<class>/ beside it")
        if "train" not in names:
            yield from self._labelled("", held_out_too=True)
            return
        self.ignored += sum(1 for _ in self._beside(("train", "val")))
        yield from self._labelled("train", held_out_too="val" not in names)
        if "val" not in names:
            return
        annotations = self.root / "val" / "val_annotations.txt"
        if annotations.is_file():
            yield from self._annotated(annotations)
        else:
            yield from self._labelled("val", held_out_too=False)

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return {}

    def _beside(self, taken: tuple[str, ...]) -> Iterator[Found]:
        with os.scandir(self.root) as scan:
            names = sorted(entry.name for entry in scan if entry.name not in taken)
        for name in names:
            if (self.root / name).is_dir():
                yield from walk(self.root, name)
            else:
                yield Found(name, 0, 0)

    def _labelled(self, top: str, held_out_too: bool) -> Iterator[Entry]:
        depth = 1 if top else 0
        for found in walk(self.root, top):
            if not self._counts(found):
                continue
            parts = found.path.split("/")
            if len(parts) < depth + 2:
                raise SourceError(
                    f"{self.root / found.path}: lies in no class folder; expected "
                    f"{self.root / top}/<class>/{parts[-1]} (for images without labels use the kind 'flat')"
                )
            in_val = held_out_too and held_out("/".join(parts[depth:]), self.val_fraction)
            split = "val" if in_val else (top or "train")
            yield Entry(split, found.path, parts[depth], found.size, found.mtime_ns)

    def _annotated(self, annotations: Path) -> Iterator[Entry]:
        classes = _read_annotations(annotations)
        for found in walk(self.root, "val"):
            if not self._counts(found):
                continue
            name = found.path.rsplit("/", 1)[-1]
            if name not in classes:
                raise SourceError(f"{annotations}: has no line for {found.path}")
            yield Entry("val", found.path, classes[name], found.size, found.mtime_ns)

    def _counts(self, found: Found) -> bool:
        if is_image(found.path):
            return True
        self.ignored += 1
        return False


class FlatSource:
    """A folder of images without labels, searched to any depth; `val_fraction` held out by name."""

    kind = "flat"

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        self.root = Path(root)
        self.val_fraction = _fraction(val_fraction)
        self.ignored = 0

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, "a folder of images")
        for found in walk(self.root, ""):
            if is_image(found.path):
                split = "val" if held_out(found.path, self.val_fraction) else "train"
                yield Entry(split, found.path, None, found.size, found.mtime_ns)
            else:
                self.ignored += 1

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return {}


def walk(root: Path, top: str) -> Iterator[Found]:
    """Every visible file below root/top, names sorted within each directory; links are followed.

    A directory that contains itself by a link is entered once. Hidden names (leading dot) are passed over.
    """
    yield from _walk(root, top, ())


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
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
            yield Found(path, BROKEN_LINK, 0)
            continue
        yield Found(path, status.st_size, status.st_mtime_ns)


def require_directory(path: Path, expected: str) -> None:
    """Raises SourceError unless `path` is a directory."""
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise SourceError(f"{path}: {what}; expected {expected}")


def _fraction(value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise SourceError(f"val_fraction is {value}: it must be at least 0 and below 1")
    return value


def _read_annotations(path: Path) -> dict[str, str]:
    classes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or not fields[1]:
            raise SourceError(f"{path}, line {number}: expected '<file name><tab><class>...', got {line!r}")
        classes[fields[0]] = fields[1]
    return classes
