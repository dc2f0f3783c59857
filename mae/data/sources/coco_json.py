"""Instances jsons in COCO's form: their tables, checked for consistency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mae.data.sources.base import Faults, SourceError

_MISSHAPEN = "that are not of the COCO form"
_FIELDS = ("id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def read_tables(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the three tables of an instances json. Raises SourceError where one is missing."""
    try:
        about = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{file}: cannot be read as JSON ({error}); fetch or write it again") from error
    for name in ("images", "annotations", "categories"):
        table = about.get(name) if isinstance(about, dict) else None
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise SourceError(f"{file}: has no list {name!r} of objects; expected the COCO instances form")
        if not table and name != "annotations":
            raise SourceError(f"{file}: its list {name!r} is empty")
    return about


def category_names(file: Path, table: list[dict[str, Any]]) -> dict[int, str]:
    """Read the table of categories: official id -> name."""
    faults = Faults(file)
    names: dict[int, str] = {}
    for row in table:
        number, name = row.get("id"), row.get("name")
        if not _whole(number) or not isinstance(name, str):
            faults.add(f"categories {_MISSHAPEN} (id: a number, name: a text)", repr(row))
        elif number in names:
            faults.add("category ids given twice", repr(number))
        elif name in names.values():
            faults.add("category names given twice, whose figures would be mixed", repr(name))
        else:
            names[int(row["id"])] = name
    faults.raise_if_any()
    return names


def annotations_by_image(file: Path, about: dict[str, Any], categories: set[int]) -> dict[Any, list[dict]]:
    """Group the annotations by image id, reduced to the fields in use."""
    faults = Faults(file)
    ids: set[int | str] = set()
    for image in about["images"]:
        fault = _image_fault(image)
        if fault:
            faults.add(f"images {_MISSHAPEN}", f"image {image.get('id')!r}: {fault}")
        elif image["id"] in ids:
            faults.add("image ids given twice", repr(image["id"]))
        else:
            ids.add(image["id"])
    rows: dict[Any, list[dict]] = {}
    for place, row in enumerate(about["annotations"], 1):
        row = {name: row.get(name) for name in (*_FIELDS, "image_id")}
        row["id"] = place if row["id"] is None else row["id"]
        named, image_id = f"annotation {row['id']!r}", row.pop("image_id")
        fault = _annotation_fault(row)
        if fault:
            faults.add(f"annotations {_MISSHAPEN}", f"{named}: {fault}")
        elif not _identifies(image_id) or image_id not in ids:
            faults.add("annotations of images that it does not list", f"{named}: image_id {image_id!r}")
        elif row["category_id"] not in categories:
            faults.add(
                "annotations of categories that it does not list",
                f"{named}: category_id {row['category_id']!r}",
            )
        else:
            row |= {"category_id": int(row["category_id"]), "iscrowd": int(row["iscrowd"] or 0)}
            rows.setdefault(image_id, []).append(row)
    faults.raise_if_any()
    _check_pixels(file, [row["bbox"] for found in rows.values() for row in found])
    return rows


def _check_pixels(file: Path, boxes: list[list[float]]) -> None:
    """Raise SourceError where all boxes are shares of their image: each would be a box within one pixel."""
    sides = [side for box in boxes for side in box]
    if any(0 < side < 1 for side in sides) and not any(side < -0.01 or side > 1.01 for side in sides):
        raise SourceError(
            f"{file}: all {len(boxes)} boxes lie within 0..1: boxes are shares of the image, COCO wants "
            "pixels; multiply x and width by the image's width, y and height by its height (polygons, too)"
        )


def _image_fault(image: dict[str, Any]) -> str | None:
    if not _identifies(image.get("id")):
        return "id is no number and no text"
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        return f"file_name is {image.get('file_name')!r}"
    for name in ("width", "height"):
        if not _whole(image.get(name)) or image[name] < 1:
            return f"{name} is {image.get(name)!r}: expected pixels"
    return None


def _annotation_fault(row: dict[str, Any]) -> str | None:
    """Name the fault in the form of an annotation, if any; sharding checks that it fits its image."""
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(_number(side) for side in box):
        return f"bbox is {box!r}: expected [x, y, width, height]"
    if not _whole(row["category_id"]):
        return f"category_id is {row['category_id']!r}"
    if row["iscrowd"] not in (None, 0, 1):
        return f"iscrowd is {row['iscrowd']!r}: expected 0 or 1"
    return None


def _identifies(value: Any) -> bool:
    return _whole(value) or isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return _number(value) and value == value // 1
