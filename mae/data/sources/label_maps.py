"""Segmentation sets: images with a label map each, a PNG with class numbers as pixel values."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mae.data.sources.base import (
    SPLITS,
    Entry,
    Faults,
    Findings,
    FoundFile,
    SourceError,
    checked_fraction,
    held_out,
    require_directory,
    walk,
    walk_images,
)
from mae.data.sources.split_folders import find_split
from mae.models.segmentation import IGNORE

MAX_CLASSES = IGNORE  # category indices are stored in 8 bits
# In the order of their values 0..10; 11 is void (SegNet's release of CamVid).
CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip


class LabelMapSource:
    """A user's own data: images/{train,val}/, labels/{train,val}/ with a map <same stem>.png for each image,
    and classes.txt, whose line k (from 0) names value k; 255 means "not labelled".

    Lines of classes.txt that begin with # are comments. values: the value of each class in the maps, where
    it is not the number of its line; 255 is a class where they name it. Both may have the same subfolders,
    and splits other usual names (see `split_folders`). Without images/val, or with images/ and labels/ alone,
    a fraction `val_fraction` is held out by a hash of the names. An entry's annotation is JSON: map (path
    below the root), size (bytes), mtime_ns. Sharding reads the maps.
    """

    kind = "label_maps"
    expected = (
        "images/{train,val}/, labels/{train,val}/ with a .png of the same stem for each image, classes.txt"
    )
    ignore = (255,)
    tops: ClassVar[tuple[str, str]] = ("images", "labels")  # of images and maps, with a folder for each split

    def __init__(
        self, root: str | os.PathLike, val_fraction: float = 0.0, values: Sequence[int] | None = None
    ):
        self.root = Path(root)
        self.val_fraction = checked_fraction(val_fraction)
        self.values = values
        self.findings = Findings()

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, self.expected)
        self.findings = Findings()
        self.categories()
        places = {split: pair for split in SPLITS if (pair := self.places(split)) is not None}
        if "train" not in places and "val" not in places:
            places = {"train": self.unsplit()}
        if "train" not in places:
            raise SourceError(f"{self.root}: has images for val but none for train; expected {self.expected}")
        for split, (images, labels) in places.items():
            for folder in (images, labels):
                require_directory(self.root / folder, self.expected)
            fraction = 0.0 if "val" in places else self.val_fraction
            yield from self._split(split, images, labels, fraction)

    def places(self, split: str) -> tuple[str, str] | None:
        """Name the folders of images and maps of a split; None where neither exists."""
        found = [
            find_split(self.root / top, split) if (self.root / top).is_dir() else None for top in self.tops
        ]
        if not any(found):
            return None
        images, labels = (f"{top}/{name or split}" for top, name in zip(self.tops, found, strict=True))
        return images, labels

    def unsplit(self) -> tuple[str, str]:
        """Name the folders of images and maps of a set without splits."""
        return self.tops

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return {}

    def annotation_info(self) -> dict[str, Any]:
        ignore = [value for value in self.ignore if value not in (self.values or ())]
        return {"task": "segment", "categories": self.categories(), "ignore": ignore}

    def categories(self) -> list[dict[str, Any]]:
        """Read [{"id": value in the maps, "name"}]. Raises SourceError where the names cannot be read."""
        file = self.root / "classes.txt"
        names = [line.strip() for line in _lines(file) if not line.lstrip().startswith("#")]
        values = list(range(len(names)) if self.values is None else self.values)
        if len(values) != len(names):
            raise SourceError(
                f"{file}: names {len(names)} classes, but ingest_segment.values has {len(values)}: give a "
                "value for each line"
            )
        _check_numbers(file, names, values)
        return _numbered(file, dict(sorted(zip(values, names, strict=True))))

    def _split(self, split: str, images: str, labels: str, fraction: float) -> Iterator[Entry]:
        maps: dict[str, FoundFile] = {}
        faults = Faults(self.root)
        for found in walk(self.root, labels, self.findings):
            stem, extension = posixpath.splitext(found.path.removeprefix(f"{labels}/"))
            if extension.lower() == ".png":
                if stem in maps:
                    faults.add("label maps of one name", f"{maps[stem].path} and {found.path}")
                maps[stem] = found
            else:
                self.findings.leave_out("files among the label maps that are no PNG", found.path)
        pairs: list[tuple[str, FoundFile, FoundFile]] = []
        used: dict[str, str] = {}
        for found in walk_images(self.root, images, self.findings):
            name = found.path.removeprefix(f"{images}/")
            stem = posixpath.splitext(name)[0]
            if stem not in maps:
                faults.add(f"images without their map in {labels}/", f"{found.path} ({labels}/{stem}.png)")
            elif stem in used:
                faults.add("images that share a map with another", f"{used[stem]} and {found.path}")
            else:
                used[stem] = found.path
                pairs.append((name, found, maps[stem]))
        for stem in maps:
            if stem not in used:
                faults.add(f"label maps without their image in {images}/", maps[stem].path)
        faults.raise_if_any()
        if not pairs:
            raise SourceError(f"{self.root / images}: no images found; expected {self.expected}")
        for name, found, label_map in pairs:
            target = "val" if fraction > 0 and held_out(name, fraction) else split
            stated = {"map": label_map.path, "size": label_map.size, "mtime_ns": label_map.mtime_ns}
            annotation = json.dumps(stated, separators=(",", ":"))
            yield Entry(target, found.path, None, found.size, found.mtime_ns, annotation=annotation)


class Ade20kSource(LabelMapSource):
    """ADE20K scene parsing in its official layout: ADEChallengeData2016 (the root or a folder in it) with
    images/ and annotations/ {training, validation}. Value 0 means "other"; objectInfo150.txt names the
    classes 1..150."""

    kind = "ade20k"
    expected = "ADEChallengeData2016 with {images,annotations}/{training,validation}/ and objectInfo150.txt"
    ignore = (0,)
    tops = ("images", "annotations")

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        super().__init__(_inside(Path(root), "ADEChallengeData2016"), val_fraction)

    def unsplit(self) -> tuple[str, str]:
        return "images/training", "annotations/training"

    def categories(self) -> list[dict[str, Any]]:
        file = self.root / "objectInfo150.txt"
        names: dict[int, str] = {}
        for number, line in enumerate(_lines(file)[1:], 1):  # under a line of headings
            fields = line.split("\t")
            if len(fields) < 5 or fields[0].strip() != str(number):
                raise SourceError(
                    f"{file}, line {number + 1}: expected '{number}<tab>ratio<tab>train<tab>val<tab>name', "
                    f"got {line!r}"
                )
            names[number] = fields[4].strip()
        return _numbered(file, names)


class CamVidSource(LabelMapSource):
    """CamVid in SegNet's layout: CamVid (the root or a folder in it) with train/, trainannot/, val/,
    valannot/; 11 classes, and value 11 means void."""

    kind = "camvid"
    expected = "CamVid with train/, trainannot/, val/, valannot/"
    ignore = (11,)
    folders: ClassVar[dict[str, tuple[str, str]]] = {
        "train": ("train", "trainannot"),
        "val": ("val", "valannot"),
    }

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        super().__init__(_inside(Path(root), "CamVid"), val_fraction)

    def places(self, split: str) -> tuple[str, str] | None:
        pair = self.folders[split]
        return pair if any((self.root / one).is_dir() for one in pair) else None

    def unsplit(self) -> tuple[str, str]:
        return self.folders["train"]

    def categories(self) -> list[dict[str, Any]]:
        return [{"id": value, "name": name} for value, name in enumerate(CAMVID)]


def _inside(root: Path, name: str) -> Path:
    """Enter the folder of that name in `root`, if it exists."""
    return root / name if (root / name).is_dir() else root


def _lines(file: Path) -> list[str]:
    """Read a text file's lines, without empty ones at the end."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: cannot be read ({error}); it must name the classes") from error
    return text.rstrip().splitlines()


def _check_numbers(file: Path, names: list[str], values: list[int]) -> None:
    """Refuse lines that all begin with a number ("1 road", "1: road") where it is not the class's value."""
    numbers = [re.match(r"(\d+)[\s:,;=]", name) for name in names]
    stated = [int(one[1]) for one in numbers if one]
    if len(stated) == len(names) and stated != values:
        raise SourceError(
            f"{file}: numbers its classes {stated[0]} to {stated[-1]}, but line k stands for value k, from "
            f"{values[0]}: set ingest_segment.values to the numbers if the maps hold them"
        )


def _numbered(file: Path, names: dict[int, str]) -> list[dict[str, Any]]:
    """Make the category table from value -> name. Raises SourceError for no, too many, empty or equal
    names."""
    if not names or len(names) > MAX_CLASSES:
        raise SourceError(f"{file}: names {len(names)} classes; expected 1 to {MAX_CLASSES}")
    faults = Faults(file)
    for value, name in names.items():
        if not name:
            faults.add("classes without a name", f"value {value}")
        elif list(names.values()).index(name) != list(names).index(value):
            faults.add("names given twice", repr(name))
    faults.raise_if_any()
    return [{"id": value, "name": name} for value, name in names.items()]
