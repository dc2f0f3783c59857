"""The folders of a set's splits: found by their usual names, and never mistaken for classes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mae.data.sources.base import (
    SPLITS,
    Findings,
    SourceError,
    directories,
    is_folder,
    is_image,
    is_storage_folder,
    scanned,
)

NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}  # in any case
TEST = ("test", "testing")
_FEW = 16  # folders: a root with more of them has classes, and is not searched for splits further down
_DEPTH, _MOST = 4, 200  # of that search: levels, folders
_SPLITS_AT_MOST = 4  # folders of a set that has a folder for each split


def find_split(root: Path, split: str) -> str | None:
    """Find the folder of a split in `root`; its own name wins over the others.

    Raises: SourceError where several folders have names of the split.
    """
    found = _named(directories(root), NAMES[split])
    if split in found or not found:
        return split if found else None
    if len(found) > 1:
        raise SourceError(
            f"{root}: {_list(found)} are both names of the split {split!r}: rename the right one to {split}/"
        )
    return found[0]


def find_splits(root: Path, val_fraction: float, findings: Findings) -> dict[str, str]:
    """Find the folders of train and val in a root of class folders; {} where its folders are the classes.

    Without a folder of val, one of test serves as val, unless `val_fraction` holds some of train out.
    Raises: SourceError where folders of splits would become classes, and where the root is too high.
    """
    names = directories(root)
    found = {split: name for split in SPLITS if (name := find_split(root, split)) is not None}
    tests = _named(names, TEST)
    if list(found) == ["train"] and not tests and len(names) > 1 and not directories(root / found["train"]):
        _refuse_bare_train(root, names, found["train"])
        findings.warnings.append(
            f"{root}: {found['train']}/ holds no folder, so it is read as a class, not as a split"
        )
        found = {}
    elif "train" not in found:
        _refuse_splits_as_classes(root, names, found.get("val"), tests)
    if "train" not in found:
        _refuse_high_root(root, names)
        _warn_of_low_root(root, findings)
        return {}
    if "val" in found and val_fraction:
        findings.warnings.append(
            f"{root / found['val']}: is the split val, so val_fraction {val_fraction} holds nothing out"
        )
    if "val" not in found and not val_fraction and (test := _labelled_test(root, tests, found["train"])):
        found["val"] = test
        findings.warnings.append(
            f"{root / test}: serves as the split val, because there is no val/; to keep it for a test, hold "
            "some of train out: `mae recipe --set ingest.val_fraction=0.1`"
        )
    _note_others(root, found, findings)
    return found


def warn_of_splits(root: Path, findings: Findings) -> None:
    """Say that folders called like splits are none to a source without splits."""
    names = directories(root)
    trains, others = _named(names, NAMES["train"]), _named(names, (*NAMES["val"], *TEST))
    if trains and others:
        findings.warnings.append(
            f"{root}: {_list([*trains, *others])} are no splits for this source, their images are listed "
            f"together; set ingest.root to {root / trains[0]} to leave the others out"
        )


def _named(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower() in wanted]


def _list(names: list[str]) -> str:
    shown = [f"{name}/" for name in names[:3]]
    return " and ".join(shown) if len(names) <= 3 else f"{', '.join(shown)} and {len(names) - 3} more"


def _refuse_splits_as_classes(root: Path, names: list[str], val: str | None, tests: list[str]) -> None:
    """Raise SourceError where there is no train, and other folders are called like splits."""
    trains = [name for name in names if _is_like(name, NAMES["train"])]
    if val is not None:
        rename = f"; is it {_list(trains)}? rename or link it to train/" if trains else ""
        raise SourceError(f"{root}: has {val}/ but no train/; expected train/<class>/ next to it{rename}")
    others = [name for name in names if _is_like(name, (*NAMES["val"], *TEST))]
    alike = [name for name in tests if directories(root / name)]
    if trains and others and len(names) <= _SPLITS_AT_MOST:
        alike = list(dict.fromkeys([*trains, *others]))
    if alike:
        raise SourceError(
            f"{root}: {_list(alike)}: called like splits, where folders are classes: rename or link them to "
            "train/ and val/, with a folder for each class in them"
        )


def _refuse_bare_train(root: Path, names: list[str], train: str) -> None:
    """Raise SourceError where train holds no class folder, and next to it is a test1/ or val2017/."""
    if others := [name for name in names if _is_like(name, (*NAMES["val"], *TEST))]:
        raise SourceError(
            f"{root / train}: holds no folder of a class, and {_list(others)} next to it is called like a "
            f"split: put its images into {train}/<class>/; for images without labels set ingest.source to "
            f"flat and ingest.root to {root / train}"
        )


def _is_like(name: str, splits: tuple[str, ...]) -> bool:
    """Tell whether a folder's name has one of these words: "seg_train", "trainset", "val2017"."""
    words = "|".join(splits)
    return re.search(rf"(^|[^a-z])({words})(set|data|images)?([^a-z]|$)", name.lower()) is not None


def _labelled_test(root: Path, tests: list[str], train: str) -> str | None:
    """Return the folder of test whose folders are classes of train, if any: a test set may have no labels."""
    known = set(directories(root / train))
    classes = {name: set(directories(root / name)) for name in tests}
    return next((name for name, held in classes.items() if held and held <= known), None)


def _refuse_high_root(root: Path, names: list[str]) -> None:
    """Raise SourceError where the splits are further down, in one folder or in several."""
    holders = list(_holders(root, names)) if len(names) <= _FEW else []
    if len(holders) == 1:
        raise SourceError(f"{root}: the splits are further down: set ingest.root to {root / holders[0]}")
    if holders:
        raise SourceError(
            f"{root}: {_list(holders)} hold splits of their own, so these folders are no classes: set "
            "ingest.root to one of them, or move the images to train/<class>/ and val/<class>/"
        )


def _warn_of_low_root(root: Path, findings: Findings) -> None:
    """Say that the root is the folder of train, where folders of other splits are next to it."""
    if root.name.lower() not in NAMES["train"] or not os.access(root.parent, os.R_OK | os.X_OK):
        return
    others = _named(directories(root.parent), (*NAMES["val"], *TEST))
    if others:
        findings.warnings.append(
            f"{root}: is called like the split train, and next to it is {_list(others)}: set ingest.root to "
            f"{root.parent} to use both"
        )


def _holders(root: Path, names: list[str]) -> Iterator[str]:
    """Find the uppermost folders below `root` that hold splits with images, breadth first."""
    places = [(name, 1) for name in names]
    for place, depth in places:
        inside = directories(root / place)
        train = next((root / place / name for name in _named(inside, NAMES["train"])), None)
        # Without a second split, train may be a class: then only the sole folder of the root counts.
        several = _named(inside, (*NAMES["val"], *TEST)) or (len(names) == 1 and train and directories(train))
        if train and several and _holds_images(train):
            yield place
        elif depth < _DEPTH and len(places) < _MOST:
            places += [(f"{place}/{name}", depth + 1) for name in inside[:_FEW]]


def _holds_images(place: Path, depth: int = 3) -> bool:
    """Look for images in a folder and in the first of its folders: annotations have splits, too."""
    if _has_images(place):
        return True
    folders = directories(place)
    return bool(folders) and depth > 0 and _holds_images(place / folders[0], depth - 1)


def _has_images(place: Path) -> bool:
    return any(is_image(one.name) for one in scanned(place) if not is_folder(one))


def _note_others(root: Path, taken: dict[str, str], findings: Findings) -> None:
    """Note by name what is next to the splits: it is not walked, and may be unreadable."""
    for entry in scanned(root):
        if entry.name not in taken.values():
            folder = is_folder(entry)
            if not (folder and is_storage_folder(entry.name)):
                findings.leave_out("entries next to the splits", f"{entry.name}/" if folder else entry.name)
