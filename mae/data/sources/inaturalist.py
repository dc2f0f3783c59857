"""iNaturalist's sets of 2017, 2018 and 2019 for classification: a json of COCO's form for each split."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae.data.sources.base import (
    SPLITS,
    Entry,
    Faults,
    Findings,
    SourceError,
    file_at,
    refuse_val_fraction,
    require_directory,
)
from mae.data.sources.coco_json import category_names, read_tables

_NAMES = "categories.json"


class _INaturalist:
    """One year's set in the layout of the competition (github.com/visipedia/inat_comp).

    `train<year>.json` and `val<year>.json` are in the root, in `annotations/` or in `train_val<year>/`; their
    `file_name` is the path of an image below the root. A class is its official number and name
    ("0042 Danaus plexippus"), so that labels sort as the official ones do; names come from `categories.json`,
    if it exists, since the jsons of some years hold numbers alone. Images that no json lists (the test set)
    are ignored.
    """

    kind: str

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        refuse_val_fraction(self.kind, val_fraction)
        self.root = Path(root)
        self.year = self.kind.removeprefix("inat")
        self.findings = Findings()
        self._classes: dict[str, dict[str, Any]] = {}

    def entries(self) -> Iterator[Entry]:
        require_directory(self.root, f"train{self.year}.json, val{self.year}.json and the images they list")
        files = [self._json(split) for split in SPLITS]
        self._classes = {}
        for split, file in zip(SPLITS, files, strict=True):
            about = read_tables(file)
            names = self._class_names(file, about["categories"])
            yield from self._images(split, file, about, names)

    def unchanged_key(self) -> dict[str, list[int]]:
        return {}

    def class_info(self) -> dict[str, dict]:
        return self._classes

    def annotation_info(self) -> dict[str, Any]:
        return {}

    def _json(self, split: str) -> Path:
        name = f"{split}{self.year}.json"
        places = [self.root / folder / name for folder in ("", "annotations", f"train_val{self.year}")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise SourceError(f"{places[0]}: missing; expected the official {name} there or in annotations/")
        return found

    def _class_names(self, file: Path, table: list[dict[str, Any]]) -> dict[int, str]:
        """Map official numbers to classes. Raises SourceError where val has another table than train."""
        names = category_names(file, table)
        names |= {number: name for number, name in self._better_names().items() if number in names}
        groups = {int(row["id"]): row.get("supercategory") for row in table}
        title = {number: f"{number:04d} {name}" for number, name in names.items()}
        classes = {
            title[number]: {"id": number, "name": name, "supercategory": groups[number]}
            for number, name in names.items()
        }
        self._classes = self._classes or classes
        other = sorted(
            name for name in {**classes, **self._classes} if classes.get(name) != self._classes.get(name)
        )
        if other:
            raise SourceError(
                f"{file}: its categories are not train's: {', '.join(other[:3])}; both splits need one table"
            )
        return title

    def _better_names(self) -> dict[int, str]:
        file = self.root / _NAMES
        if not file.is_file():
            return {}
        try:
            rows = json.loads(file.read_bytes())
        except ValueError as error:
            raise SourceError(f"{file}: cannot be read as JSON ({error}); fetch it again") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SourceError(f"{file}: is no list of objects with id and name; fetch it again")
        return category_names(file, rows)

    def _images(
        self, split: str, file: Path, about: dict[str, Any], names: dict[int, str]
    ) -> Iterator[Entry]:
        faults = Faults(file)
        numbers = _category_of_image(about["annotations"], faults)
        last = None
        for image in sorted(about["images"], key=lambda image: str(image.get("file_name"))):
            path, image_id = str(image.get("file_name")), image.get("id")
            number = numbers.pop(image_id, None) if isinstance(image_id, int | str) else None
            found = file_at(self.root, path)
            if number not in names:
                faults.add("images without one of its categories", path)
            elif found is None:
                faults.add(f"images whose file is not below {self.root}", path)
            elif found.path == last:
                faults.add("files listed twice", path)
            else:
                last = found.path
                yield Entry(split, found.path, names[number], found.size, found.mtime_ns)
        for image_id in numbers:
            faults.add("annotations of images that it does not list", f"image_id {image_id!r}")
        faults.raise_if_any()


class INat2017Source(_INaturalist):
    """iNaturalist 2017."""

    kind = "inat2017"


class INat2018Source(_INaturalist):
    """iNaturalist 2018."""

    kind = "inat2018"


class INat2019Source(_INaturalist):
    """iNaturalist 2019."""

    kind = "inat2019"


def _category_of_image(annotations: list[dict[str, Any]], faults: Faults) -> dict[Any, Any]:
    """Map image ids to the numbers of their categories."""
    numbers: dict[Any, Any] = {}
    for row in annotations:
        image_id, number = row.get("image_id"), row.get("category_id")
        if not isinstance(image_id, int | str) or not isinstance(number, int):
            faults.add("annotations without image_id and category_id", repr(row)[:80])
        elif numbers.setdefault(image_id, number) != number:
            faults.add("images of two categories", f"image_id {image_id!r}")
    return numbers
