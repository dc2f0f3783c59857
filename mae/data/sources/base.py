"""The base of all sources: each streams its images as entries, in an order that depends on names alone.

A source lists, and opens no image. A listing holds names, sizes and times only, so listing ImageNet takes
seconds; it is streamed, with one directory sorted at a time.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

SPLITS = ("train", "val")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# Formats that shards do not hold: listed, too: sharding makes PNG of them, or rejects each by name.
_OTHER = (
    ".apng .avif .bmp .cr2 .dib .dng .gif .heic .heif .ico .j2k .jfif .jif .jp2 .jpe .jxl .nef .pgm .ppm "
    ".psd .svg .tga .tif .tiff"
)
OTHER_IMAGES = frozenset(_OTHER.split())
# Folders of storage systems and archives, in any case: thumbnails, deleted files, snapshots. Not walked.
STORAGE_FOLDERS = frozenset(
    {
        "@eadir", "@recycle", "#recycle", "#snapshot", "@recently-snapshot", "@__thumb", "$recycle.bin",
        "recycler", "system volume information", "lost+found", "__macosx",
    }
)  # fmt: skip
_LENGTHENED = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)[^a-z0-9~]", re.IGNORECASE)
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


class Findings:
    """Remarks on a source for a person: warnings, and what was left out, with examples for each reason."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.left_out: dict[str, dict[str, Any]] = {}

    def leave_out(self, reason: str, path: str) -> None:
        """Count a file or folder that is not listed. reason: plural, such as 'pipes, sockets or devices'."""
        about = self.left_out.setdefault(reason, {"count": 0, "examples": []})
        about["count"] += 1
        if len(about["examples"]) < self.EXAMPLES:
            about["examples"].append(path)

    @property
    def ignored(self) -> int:
        """The number of files and folders that were left out."""
        return sum(about["count"] for about in self.left_out.values())


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
    """The interface of a source. `findings` is complete once `entries` is exhausted."""

    kind: str
    root: Path
    findings: Findings

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
    return _drawn(path) < fraction * 2**64


def held_out_of_class(paths: Sequence[str], fraction: float) -> list[bool]:
    """Tell which paths of one class belong to val: those `held_out`, but at least one and never all.

    A class of one image stays in train. Paths keep their side when others come, but for two: the only image
    of a class, and one that stands in where all or none are `held_out`, may change it once.
    """
    held = [held_out(path, fraction) for path in paths]
    if len(paths) == 1:
        return [False]
    if fraction and len(set(held)) == 1:
        drawn = [_drawn(path) for path in paths]
        moved = drawn.index(max(drawn) if held[0] else min(drawn))
        held[moved] = not held[moved]
    return held


def _drawn(path: str) -> int:
    """Hash a path to a number below 2^64."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big")


def is_storage_folder(name: str) -> bool:
    """Tell whether a folder of this name belongs to a storage system or an archive, and not to the data."""
    return name.lower() in STORAGE_FOLDERS


def scanned(path: Path) -> list[os.DirEntry[str]]:
    """List the visible entries of a directory by name. Raises SourceError where it cannot be read."""
    try:
        with os.scandir(path) as scan:
            return sorted((one for one in scan if not one.name.startswith(".")), key=lambda one: one.name)
    except OSError as error:
        raise _unreadable(path, error) from error


def directories(path: Path) -> list[str]:
    """List the names of the directories in a directory that a walk enters (links followed), sorted."""
    return [one.name for one in scanned(path) if is_folder(one) and not is_storage_folder(one.name)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one; False for a link that cannot be followed."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk(root: Path, top: str, findings: Findings | None = None) -> Iterator[FoundFile]:
    """Stream every visible file below root/top, names sorted within each directory; links are followed.

    A directory that contains itself by a link is entered once. Hidden names (leading dot) are skipped.
    Storage folders, and what is neither a file nor a folder, are left out and noted in `findings`: opening a
    pipe would wait for ever. Raises: SourceError naming what cannot be read.
    """
    yield from _walk(root, top, (), findings or Findings())


def _walk(
    root: Path, below: str, above: tuple[tuple[int, int], ...], findings: Findings
) -> Iterator[FoundFile]:
    place = root / below if below else root
    try:
        status = os.stat(place)
    except OSError as error:
        raise _unreadable(place, error) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in scanned(place):
        path = f"{below}/{entry.name}" if below else entry.name
        try:
            if entry.is_dir():
                if is_storage_folder(entry.name):
                    findings.leave_out("folders of storage systems and archives", f"{path}/")
                else:
                    yield from _walk(root, path, (*above, identity), findings)
                continue
            status = entry.stat()
        except OSError as error:
            if not entry.is_symlink():  # a file that cannot be looked at is an error, not a gap
                raise _unreadable(root / path, error) from error
            yield FoundFile(path, BROKEN_LINK, 0)
            continue
        if stat.S_ISREG(status.st_mode):
            yield FoundFile(path, status.st_size, status.st_mtime_ns)
        else:
            findings.leave_out("pipes, sockets or devices", path)


def walk_images(root: Path, top: str, findings: Findings | None = None) -> Iterator[FoundFile]:
    """Stream the images of `walk`: files with an image's ending, and those without any that hold an image.

    Other files are noted in `findings`. A file is opened, for its first bytes, only where it has no ending or
    one that some servers lengthen (".jpg_large"): a listing must stay cheap.
    """
    findings = findings or Findings()
    for found in walk(root, top, findings):
        ending = os.path.splitext(found.path)[1]
        if is_image(found.path):
            yield found
        elif ending and not _LENGTHENED.match(ending):
            findings.leave_out("files without an image's ending", found.path)
        elif _begins_as_image(root / found.path):
            yield found
        else:
            findings.leave_out("files without any usual ending that hold no image", found.path)


def _begins_as_image(path: Path) -> bool:
    from mae.data.image_formats import LONGEST_SIGNATURE, is_image_content

    try:
        with path.open("rb", buffering=0) as file:
            return is_image_content(file.read(LONGEST_SIGNATURE))
    except FileNotFoundError:  # a link that leads nowhere
        return False
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{path}: cannot be read ({error.strerror}); allow this user to read it, or move it out of the source"
    )


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
