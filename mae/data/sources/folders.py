"""Folders of images: a folder for each class, or images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mae.data.sources.base import (
    Entry,
    Findings,
    FoundFile,
    SourceError,
    checked_fraction,
    directories,
    held_out,
    held_out_of_class,
    require_directory,
    walk_images,
)
from mae.data.sources.split_folders import find_splits, warn_of_splits


class _Folder:
    """The common part of both kinds: a root, and a fraction held out by name."""

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        self.root = Path(root)
        self.val_fraction = checked_fraction(val_fraction)
        self.findings = Findings()

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return {}

    def annotation_info(self) -> dict[str, Any]:
        return {}


class FolderSource(_Folder):
    """ImageNet-style class folders: `train/<class>/...` and `val/<class>/...`.

    The folders of splits may have other usual names (see `split_folders`). The class is the first folder;
    files may be deeper. Tiny-ImageNet's `val/images` with `val/val_annotations.txt` is supported. Without a
    folder of val, or without both (the root's folders are then the classes), a fraction `val_fraction` of
    each class is held out by a hash of the names.
    """

    kind = "folder"

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, "class folders, or train/<class>/ and val/<class>/")
        places = find_splits(self.root, self.val_fraction, self.findings)
        yield from self._labelled(
            places.get("train", ""), "train", 0.0 if "val" in places else self.val_fraction
        )
        if "val" not in places:
            return
        annotations = self.root / places["val"] / "val_annotations.txt"
        if annotations.is_file():
            yield from self._annotated(places["val"], annotations)
        else:
            yield from self._labelled(places["val"], "val", 0.0)

    def _labelled(self, top: str, split: str, fraction: float) -> Iterator[Entry]:
        depth = 1 if top else 0

        def class_of(found: FoundFile) -> str:
            parts = found.path.split("/")
            if len(parts) < depth + 2:
                raise SourceError(
                    f"{self.root / found.path}: is in no class folder; expected "
                    f"{self.root / top}/<class>/{parts[-1]} (for images without labels use the kind 'flat')"
                )
            return parts[depth]

        empty = dict.fromkeys(directories(self.root / top))
        # The files of a class follow one another.
        for name, files in groupby(walk_images(self.root, top, self.findings), class_of):
            empty.pop(name, None)
            if not fraction:
                for found in files:
                    yield Entry(split, found.path, name, found.size, found.mtime_ns)
                continue
            of_class = list(files)
            held = held_out_of_class(
                ["/".join(found.path.split("/")[depth:]) for found in of_class], fraction
            )
            for found, in_val in zip(of_class, held, strict=True):
                yield Entry("val" if in_val else split, found.path, name, found.size, found.mtime_ns)
        for name in empty:
            self.findings.leave_out(
                "folders without an image, so that no class has their names", f"{Path(top) / name}/"
            )

    def _annotated(self, top: str, annotations: Path) -> Iterator[Entry]:
        classes = _read_annotations(annotations)
        for found in walk_images(self.root, top, self.findings):
            name = found.path.rsplit("/", 1)[-1]
            if name not in classes:
                raise SourceError(f"{annotations}: has no line for {found.path}")
            yield Entry("val", found.path, classes[name], found.size, found.mtime_ns)


class FlatSource(_Folder):
    """A folder of images without labels, of any depth; a fraction `val_fraction` is held out by name."""

    kind = "flat"

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, "a folder of images")
        warn_of_splits(self.root, self.findings)
        for found in walk_images(self.root, "", self.findings):
            split = "val" if held_out(found.path, self.val_fraction) else "train"
            yield Entry(split, found.path, None, found.size, found.mtime_ns)


def _read_annotations(path: Path) -> dict[str, str]:
    classes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or not fields[1]:
            raise SourceError(f"{path}, line {number}: expected '<file name><tab><class>...', got {line!r}")
        classes[fields[0]] = fields[1]
    return classes
