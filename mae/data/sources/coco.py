"""COCO-style detection sets: an instances json and a folder of images for each split."""

from __future__ import annotations

import json
import os
import posixpath
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
    checked_fraction,
    directories,
    held_out,
    require_directory,
    stat_digest,
    walk,
)
from mae.data.sources.coco_json import annotations_by_image, category_names, read_tables

_EXPECTED = (
    "annotations/instances_train2017.json with train2017/ (or annotations/instances_train.json, train.json "
    "or train/_annotations.coco.json with train/ or images/), and the same for val; or one json over all: "
    "annotations/instances_default.json with images/default/ (CVAT), result.json with images/ (Label Studio) "
    "or labels.json with data/ (FiftyOne)"
)
_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
# One json over everything -> its folder of images.
_WHOLE = {
    "annotations/instances_default.json": "default",
    "annotations/instances.json": "images",
    "instances.json": "images",
    "annotations.json": "images",
    "result.json": "images",
    "labels.json": "data",
}


class CocoSource:
    """The COCO 2017 set, or any set in its form.

    The json lists the images. An entry's annotation is JSON: image_id (int or str), width,
    height (pixels), annotations [{"id", "category_id", "bbox" [x, y, w, h] in pixels, "area", "iscrowd",
    "segmentation": polygons, run lengths or nothing}] in the file's order. The json is checked here;
    sharding checks that annotations fit their image. Without a json for val, a fraction `val_fraction` of
    train's images is held out by a hash of their names.
    """

    kind = "coco"

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        self.root = Path(root)
        self.val_fraction = checked_fraction(val_fraction)
        self.findings = Findings()
        self._categories: dict[int, str] = {}
        self._unlisted: dict[str, set[str]] = {}

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, _EXPECTED)
        self._unlisted, self.findings = {}, Findings()
        train, val = (_places(self.root, split) for split in SPLITS)
        if train is None:
            raise SourceError(
                f"{self.root}: has no annotations for train{_there(self.root)}; expected {_EXPECTED}"
            )
        self._categories = {}
        yield from self._split("train", *train, fraction=0.0 if val else self.val_fraction)
        if val is not None:
            yield from self._split("val", *val, fraction=0.0)
        for path in sorted({path for paths in self._unlisted.values() for path in paths}):
            self.findings.leave_out("files that no json lists", path)

    def unchanged_key(self) -> dict[str, list[int]]:
        """Read sizes and times alone: parsing the jsons of all of COCO takes a minute and 4 GB."""
        require_directory(self.root, _EXPECTED)
        key: dict[str, list[int]] = {f"val_fraction {self.val_fraction}": []}
        for file, folder in filter(None, (_places(self.root, split) for split in SPLITS)):
            status = file.stat()
            key[str(file.relative_to(self.root))] = [status.st_size, status.st_mtime_ns]
            key[folder] = stat_digest(walk(self.root, folder))
        return key

    def class_info(self) -> dict[str, dict]:
        return {}

    def annotation_info(self) -> dict[str, Any]:
        categories = [{"id": number, "name": name} for number, name in sorted(self._categories.items())]
        return {"task": "detect", "categories": categories}

    def _split(self, split: str, file: Path, folder: str, fraction: float) -> Iterator[Entry]:
        about = read_tables(file)
        categories = category_names(file, about["categories"])
        self._agree(file, categories)
        rows = annotations_by_image(file, about, set(categories))
        files = {found.path: found for found in walk(self.root, folder, self.findings)}
        placed = _placed(file, about["images"], files, folder)
        unlisted = set(files) - set(placed) - {file.relative_to(self.root).as_posix()}
        self._unlisted[folder] = self._unlisted.get(folder, unlisted) & unlisted  # splits may share a folder
        for path, image in sorted(placed.items(), key=lambda one: one[0]):
            in_val = fraction > 0 and held_out(path.removeprefix(f"{folder}/"), fraction)
            stated = {
                "image_id": image["id"] if isinstance(image["id"], str) else int(image["id"]),
                "width": int(image["width"]),
                "height": int(image["height"]),
                "annotations": rows.pop(image["id"], []),
            }
            found = files[path]
            annotation = json.dumps(stated, separators=(",", ":"))
            target = "val" if in_val else split
            yield Entry(target, path, None, found.size, found.mtime_ns, annotation=annotation)

    def _agree(self, file: Path, categories: dict[int, str]) -> None:
        """Take train's table; raise SourceError where val's differs."""
        if not self._categories:
            self._categories = categories
        for number, name in categories.items():
            if self._categories.get(number) != name:
                raise SourceError(
                    f"{file}: category {number} is {name!r}, for train {self._categories.get(number)!r}; "
                    "both splits need one table of categories"
                )


def _places(root: Path, split: str) -> tuple[Path, str] | None:
    """Find the split's json and its folder of images (below the root), in any case; None without either."""
    wanted = [
        (f"annotations/instances_{name}{year}.json", f"{name}{year}")
        for name in _NAMES[split]
        for year in ("2017", "2014", "")
    ]
    for name in _NAMES[split]:
        wanted += [(f"annotations/{name}.json", name), (f"{name}.json", name)]
        wanted += [(f"{name}/_annotations.coco.json", name), (f"{name}/labels.json", f"{name}/data")]
    if split == "train":
        wanted += _WHOLE.items()
    jsons = {path.lower(): path for path in _jsons(root)}
    tops = _folders(root)
    above = [top for top in tops if top.lower() in ("images", *_NAMES[split])]
    folders = {path.lower(): path for path in (*tops, *(one for top in above for one in _folders(root, top)))}
    for file, folder in wanted:
        if file not in jsons:
            continue
        for place in (folder, f"images/{folder}", "images"):
            if place in folders:
                return root / jsons[file], folders[place]
        raise SourceError(f"{root / jsons[file]}: its images are missing; expected them in {root / folder}")
    for _, folder in wanted:
        if folder in folders and folder not in _WHOLE.values():
            raise SourceError(
                f"{root / folders[folder]}: has no annotations{_there(root)}; expected {_EXPECTED}"
            )
    return None


def _jsons(root: Path) -> list[str]:
    """List the json files in the root and in its folders, by their path below it."""
    found = [*root.glob("*.json"), *root.glob("*/*.json")]
    return sorted(path.relative_to(root).as_posix() for path in found if path.is_file())


def _folders(root: Path, top: str = "") -> list[str]:
    """List the folders in root/top, by their path below the root; [] where there is no such folder."""
    if not (root / top).is_dir():
        return []
    return [posixpath.join(top, name) for name in directories(root / top)]


def _there(root: Path) -> str:
    """Name the json files that are there, for a message."""
    found = _jsons(root)
    more = ", ..." if len(found) > 5 else ""
    return f"; the json files there are {', '.join(found[:5])}{more}" if found else ""


def _placed(
    file: Path, images: list[dict[str, Any]], files: dict[str, FoundFile], folder: str
) -> dict[str, dict[str, Any]]:
    """Match files to the json: path below the root -> row. Raises SourceError for missing files."""
    faults = Faults(file)
    placed: dict[str, dict[str, Any]] = {}
    for image in images:
        # Some writers put the folder into file_name, others leave it out.
        names = (image["file_name"], image["file_name"].replace("\\", "/"))  # of writers on Windows
        paths = [posixpath.normpath(one) for name in names for one in (f"{folder}/{name}", name)]
        path = next((one for one in paths if one in files), None)
        if path is None:
            faults.add(f"images whose file is not in {folder}/", image["file_name"])
        elif path in placed:
            faults.add("files that several images name", path)
        else:
            placed[path] = image
    faults.raise_if_any()
    return placed
