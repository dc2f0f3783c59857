"""MIT's Places205 and Places365-Standard: a list of paths and class numbers for each split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae.data.sources.base import (
    SPLITS,
    Entry,
    Faults,
    Findings,
    FoundFile,
    SourceError,
    file_at,
    refuse_val_fraction,
    require_directory,
)

_LINE = re.compile(r"(.+?)[ ,\t]+(\d+)")


class _Places:
    """Lists and images in the layouts of places.csail.mit.edu and places2.csail.mit.edu.

    A line of a list is a path and a number. A class is its official number and scene ("149 field/wild"), so
    that labels sort as the official ones do; scenes come from the table of categories or, without it, from
    the folders of training images.
    """

    kind: str
    lists: tuple[str, str]  # of train and val
    table: str
    list_folders: tuple[str, ...]
    image_folders: tuple[tuple[str, str], ...]  # of train and val; the first existing pair counts

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        refuse_val_fraction(self.kind, val_fraction)
        self.root = Path(root)
        self.findings = Findings()
        self._scenes: dict[int, str] = {}
        self._complete = False  # whether a table lists all scenes

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, f"the official {' and '.join(self.lists)} and the images they list")
        files = [self._list(name) for name in self.lists]
        folders = self._folders()
        table = self._find(self.table)
        self._scenes = {} if table is None else _read_table(table)
        self._complete = table is not None
        for split, file, folder in zip(SPLITS, files, folders, strict=True):
            yield from self._images(split, file, folder)

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return {_name(number, scene): {"id": number, "name": scene} for number, scene in self._scenes.items()}

    def annotation_info(self) -> dict[str, Any]:
        return {}

    def _list(self, name: str) -> Path:
        file = self._find(name)
        if file is None:
            raise SourceError(f"{self.root / name}: missing; expected the official list there")
        return file

    def _find(self, name: str) -> Path | None:
        places = (self.root / folder / name for folder in self.list_folders)
        return next((place for place in places if place.is_file()), None)

    def _folders(self) -> tuple[str, str]:
        for pair in self.image_folders:
            if all((self.root / folder).is_dir() for folder in pair):
                return pair
        wanted = " or ".join(
            " and ".join(f"{one}/" for one in dict.fromkeys(pair)) for pair in self.image_folders
        )
        raise SourceError(f"{self.root}: its images are missing; expected {wanted}")

    def _images(self, split: str, file: Path, folder: str) -> Iterator[Entry]:
        faults = Faults(file)
        last = ""
        with file.open(encoding="utf-8") as opened:
            lines = sorted(line.strip() for line in opened if line.strip())
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                faults.add("lines that are no path and number", repr(line))
                continue
            path, number = match[1].lstrip("/"), int(match[2])
            scene = _scene(os.path.dirname(path))
            if split == "train" and not self._complete:
                self._scenes.setdefault(number, scene)
            found = file_at(self.root, f"{folder}/{path}")
            fault = self._fault(number, scene, found)
            if fault:
                faults.add(fault, line)
            elif path == last:
                faults.add("images listed twice", path)
            elif found is not None:
                last = path
                yield Entry(
                    split, found.path, _name(number, self._scenes[number]), found.size, found.mtime_ns
                )
        faults.raise_if_any()

    def _fault(self, number: int, scene: str, found: FoundFile | None) -> str | None:
        if number not in self._scenes:
            return "images of an unknown class"
        if scene and scene != self._scenes[number]:
            return "images in a folder of another class"
        return None if found else "images whose file is missing"


class Places205Source(_Places):
    """Places205."""

    kind = "places205"
    lists = ("train_places205.csv", "val_places205.csv")
    table = "categoryIndex_places205.csv"
    list_folders = ("", "trainvalsplit_places205")
    image_folders = tuple(
        (folder, folder) for folder in ("data/vision/torralba/deeplearning/images256", "images256")
    )


class Places365Source(_Places):
    """Places365-Standard."""

    kind = "places365"
    lists = ("places365_train_standard.txt", "places365_val.txt")
    table = "categories_places365.txt"
    list_folders = ("", "filelist_places365-standard")
    image_folders = (
        ("data_256_standard", "val_256"),
        ("data_256", "val_256"),
        ("data_large_standard", "val_large"),
        ("data_large", "val_large"),
    )


def _read_table(file: Path) -> dict[int, str]:
    """Read number -> scene from lines such as "/f/field/wild 149"."""
    faults = Faults(file)
    scenes: dict[int, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            if line.strip():
                faults.add("lines that are no category and number", repr(line))
        elif int(match[2]) in scenes:
            faults.add("numbers given twice", match[2])
        else:
            scenes[int(match[2])] = _scene(match[1])
    faults.raise_if_any()
    return scenes


def _scene(folder: str) -> str:
    """Shorten "/f/field/wild" to "field/wild": the folder of the first letter is not part of the name."""
    return folder.strip("/").partition("/")[2]


def _name(number: int, scene: str) -> str:
    return f"{number:03d} {scene}"
