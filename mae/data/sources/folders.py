"""Folders of images: a folder for each class, or images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae.data.sources.base import (
    Entry,
    FoundFile,
    SourceError,
    checked_fraction,
    directories,
    held_out,
    is_image,
    require_directory,
    walk,
)


class _Folder:
    """The common part of both kinds: a root, and a fraction held out by name."""

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        self.root = Path(root)
        self.val_fraction = checked_fraction(val_fraction)
        self.ignored = 0

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return {}

    def annotation_info(self) -> dict[str, Any]:
        return {}


class FolderSource(_Folder):
    """ImageNet-style class folders: `train/<class>/...` and `val/<class>/...`.

    The class is the first folder; files may be deeper. Tiny-ImageNet's `val/images` with
    `val/val_annotations.txt` is supported. Without `val`, or without both (the root's folders are then the
    classes), a fraction `val_fraction` of the files is held out by a hash of their names.
    """

    kind = "folder"

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, "class folders, or train/<class>/ and val/<class>/")
        names = directories(self.root)
        if "train" not in names and "val" in names:
            raise SourceError(f"{self.root}: has val/ but no train/; expected train/<class>/ next to it")
        if "train" not in names:
            yield from self._labelled("", held_out_too=True)
            return
        self.ignored += sum(1 for _ in self._other_files(("train", "val")))
        yield from self._labelled("train", held_out_too="val" not in names)
        if "val" not in names:
            return
        annotations = self.root / "val" / "val_annotations.txt"
        if annotations.is_file():
            yield from self._annotated(annotations)
        else:
            yield from self._labelled("val", held_out_too=False)

    def _other_files(self, taken: tuple[str, ...]) -> Iterator[FoundFile]:
        with os.scandir(self.root) as scan:
            names = sorted(entry.name for entry in scan if entry.name not in taken)
        for name in names:
            if (self.root / name).is_dir():
                yield from walk(self.root, name)
            else:
                yield FoundFile(name, 0, 0)

    def _labelled(self, top: str, held_out_too: bool) -> Iterator[Entry]:
        depth = 1 if top else 0
        for found in walk(self.root, top):
            if not self._counts(found):
                continue
            parts = found.path.split("/")
            if len(parts) < depth + 2:
                raise SourceError(
                    f"{self.root / found.path}: is in no class folder; expected "
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

    def _counts(self, found: FoundFile) -> bool:
        if is_image(found.path):
            return True
        self.ignored += 1
        return False


class FlatSource(_Folder):
    """A folder of images without labels, of any depth; a fraction `val_fraction` is held out by name."""

    kind = "flat"

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, "a folder of images")
        for found in walk(self.root, ""):
            if is_image(found.path):
                split = "val" if held_out(found.path, self.val_fraction) else "train"
                yield Entry(split, found.path, None, found.size, found.mtime_ns)
            else:
                self.ignored += 1


def _read_annotations(path: Path) -> dict[str, str]:
    classes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or not fields[1]:
            raise SourceError(f"{path}, line {number}: expected '<file name><tab><class>...', got {line!r}")
        classes[fields[0]] = fields[1]
    return classes
