"""The summary of a listing for a person: images, classes, what was left out, and warnings."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median_low
from typing import Any

from mae.data.sources.base import SPLITS, Entry, Source, SourceError
from mae.data.sources.split_folders import find_split

_FOLDERS_AT_MOST = 1000  # of a class that are compared with those of others
_HOLD_OUT = "`mae recipe --set ingest.val_fraction=0.1`"


class Census:
    """Counts per split and class, collected while a listing is written."""

    def __init__(self) -> None:
        self.splits: dict[str, dict[str, int]] = {}
        self.classes: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self._folders: dict[str, set[str]] = {split: set() for split in SPLITS}  # of images of one class
        self._below: dict[
            str, set[str]
        ] = {}  # class of train -> the folders in it, "" for images next to them

    def add(self, entry: Entry) -> None:
        split = self.splits.setdefault(entry.split, {"count": 0, "bytes": 0})
        split["count"] += 1
        split["bytes"] += max(0, entry.size)
        if entry.class_name is not None:
            self.classes[entry.split][entry.class_name] += 1
            if len(self.classes["train"]) <= 1:
                self._folders[entry.split].add(posixpath.dirname(entry.path))
            if entry.split == "train":
                self._note_folder(entry.class_name, entry.path)

    def _note_folder(self, name: str, path: str) -> None:
        _, found, inside = f"/{path}".partition(f"/{name}/")
        below = self._below.setdefault(name, set())
        if found and len(below) < _FOLDERS_AT_MOST:
            below.add(inside.rpartition("/")[0].partition("/")[0])

    def check(self, source: Source) -> None:
        """Raise SourceError for an empty split, or a class of val that train does not have."""
        fraction = getattr(source, "val_fraction", 0.0)
        if not self.splits:
            expected = "expected files that end in .jpg, .jpeg, .png, .webp, .tif, .tiff, .bmp or .gif"
            raise SourceError(f"{source.root}: no images found ({expected}){_found(source)}")
        if "train" not in self.splits:
            raise SourceError(f"{source.root}: the split 'train' has no images")
        if "val" not in self.splits and source.kind == "folder" and (val := find_split(source.root, "val")):
            raise SourceError(f"{source.root / val}: the split 'val' has no images; add some or remove it")
        if "val" not in self.splits and fraction > 0:
            raise SourceError(
                f"{source.root}: val_fraction {fraction} of {self.splits['train']['count']} images held none "
                "out; raise it, or set it to 0 for no val split"
            )
        if source.kind == "folder" and len(self.classes["train"]) == 1:
            held_out = fraction and find_split(source.root, "val") is None
            folders = self._folders["train"] | (self._folders["val"] if held_out else set())
            _refuse_folders_in_one_class(source.root, folders)
        strange = sorted(self.classes["val"].keys() - self.classes["train"].keys())
        if strange:
            raise SourceError(
                f"{source.root}: val has classes that train lacks: {_few(strange)}; add images "
                "of them to train, or remove them from val"
            )

    def summary(self, source: Source) -> dict[str, Any]:
        """Return counts of images, classes and images per class of train; what was left out; warnings."""
        train = self.classes["train"]
        found: dict[str, Any] = {
            "images": {name: split["count"] for name, split in self.splits.items()},
            "classes": len(train),
        }
        if train:
            # The first by name of several, so that equal sources have equal summaries.
            least, most = (pick(sorted(train), key=train.__getitem__) for pick in (min, max))
            found["images_per_class"] = {
                "least": {"class": least, "images": train[least]},
                "median": median_low(train.values()),
                "most": {"class": most, "images": train[most]},
            }
        warnings = [*source.findings.warnings, *self._warnings(source)]
        return found | {"left_out": source.findings.left_out, "warnings": warnings}

    def _warnings(self, source: Source) -> Iterable[str]:
        train, val = self.classes["train"], self.classes["val"]
        if len(train) == 1:
            yield (
                f"one class alone, {next(iter(train))!r}: every classifier is right about it; for images "
                "without labels set ingest.source to flat"
            )
        if few := sorted(name for name, count in train.items() if count < 2):
            yield f"classes with a single image in train, {len(few)}: {_few(few)}"
        alike = Counter(map(_alike, train))
        if same := sorted(name for name in train if alike[_alike(name)] > 1):
            yield f"classes that look alike (case, blanks or Unicode's form), {len(same)}: {_few(same)}"
        shared = set.intersection(*self._below.values()) if len(train) > 1 else set()
        if len(shared) > 1 and not any("" in folders for folders in self._below.values()):
            yield (
                f"each of the {len(train)} classes ({_few(sorted(train))}) holds the folders "
                f"{_few(sorted(shared))}: if these are the classes, put the images into folders of these "
                "names, or set ingest.root to one of the outer folders"
            )
        if "val" not in self.splits:
            if source.kind in ("folder", "flat"):
                yield f"no split val: evaluations on held-out images are skipped; hold some out: {_HOLD_OUT}"
        elif never := sorted(train.keys() - val.keys()):
            yield f"classes of train without an image in val, {len(never)}: {_few(never)}"
        images = sum(split["count"] for split in self.splits.values())
        if source.findings.ignored > images:
            yield f"more files are left out ({source.findings.ignored:,}) than images are listed ({images:,})"


def _refuse_folders_in_one_class(root: Path, folders: set[str]) -> None:
    """Raise SourceError where the one class, with images in these folders, is around those of the classes."""
    below = posixpath.commonpath(folders)
    if below not in folders:
        names = sorted({folder.removeprefix(f"{below}/").split("/")[0] for folder in folders})
        raise SourceError(
            f"{root}: all images of train are in {below}/, which would be the only class; if its folders are "
            f"the classes ({_few(names)}), set ingest.root to {root / below} or move them up; images without "
            "labels have the source 'flat'"
        )


def lines(summary: dict[str, Any]) -> list[str]:
    """Spell a summary for a log, without its warnings."""
    said = []
    if "images_per_class" in summary:
        least, median, most = (summary["images_per_class"][name] for name in ("least", "median", "most"))
        noun = "class" if summary["classes"] == 1 else "classes"
        said.append(
            f"{summary['classes']:,} {noun}; images of train in a class: least {least['images']:,} "
            f"({least['class']}), median {median:,}, most {most['images']:,} ({most['class']})"
        )
    return said + left_out_lines(summary["left_out"])


def left_out_lines(left_out: dict[str, dict[str, Any]]) -> list[str]:
    """Spell what was left out, a line for each reason."""
    return [
        f"left out, {reason}: {about['count']:,} ({', '.join(about['examples'])}"
        + (", ...)" if about["count"] > len(about["examples"]) else ")")
        for reason, about in left_out.items()
    ]


def _alike(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _found(source: Source) -> str:
    left_out = left_out_lines(source.findings.left_out)
    return f"; {'; '.join(left_out)}" if left_out else ""
