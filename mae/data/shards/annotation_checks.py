"""Checks that annotations fit their image; those that do not are named and left out, never guessed at."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from mae.data.label_png import MAX_VALUE, label_values
from mae.data.run_lengths import BadRunLengths, run_lengths

TOLERANCE = 1.0  # pixels that boxes and polygons may reach beyond their image, by rounding
MIN_OVERLAP = 0.1  # least IoU of a mask's extent and its box; all of COCO's own pass
_NO_MASK: tuple[Any, ...] = (None, [], [[]])  # tools write one of these for an object with a box alone


class InvalidAnnotation(ValueError):
    """An annotation that does not fit its image; the message is the reason."""


class ValidObjects(NamedTuple):
    """An image's valid annotations, each with a segmentation; a reason for each of the others; a line for
    each part of a polygon that a valid one has lost; and the number of valid ones that have a box alone,
    which then is their mask."""

    objects: list[dict[str, Any]]
    faults: list[str]
    strays: list[str]
    boxes_only: int


class _Mask(NamedTuple):
    """A mask's usable segmentation, its area in pixels, its extent [left, top, right, bottom], and a line for
    each part that is left out."""

    segmentation: Any
    area: float
    extent: list[float]
    strays: list[str]


def valid_objects(stated: dict[str, Any], width: int, height: int) -> ValidObjects:
    """Select the annotations that fit their image.

    stated: an entry's annotation (see `coco`). width, height: the image's own, upright, in pixels.
    Raises: InvalidAnnotation where the image has another size than the json says: then none can be trusted.
    """
    if (stated["width"], stated["height"]) != (width, height):
        raise InvalidAnnotation(
            f"image is {width}x{height} pixels, its annotations are for {stated['width']}x{stated['height']}"
        )
    sound: list[dict[str, Any]] = []
    faults: list[str] = []
    strays: list[str] = []
    boxes_only = 0
    for one in stated["annotations"]:
        without = one["segmentation"] in _NO_MASK
        try:
            box = _box(one["bbox"], width, height)
            mask = _mask(_filled(box, one["iscrowd"]) if without else one["segmentation"], width, height)
            _check_together(mask.extent, box)
        except (InvalidAnnotation, BadRunLengths) as error:
            faults.append(f"annotation {one['id']}: {error}")
            continue
        stated_area = one["area"]
        usable = _finite(stated_area) and stated_area > 0
        area = stated_area if usable else mask.area
        sound.append({**one, "bbox": box, "area": area, "segmentation": mask.segmentation})
        strays += [f"annotation {one['id']} without {stray}" for stray in mask.strays]
        boxes_only += without
    return ValidObjects(sound, faults, strays, boxes_only)


def check_upright(orientation: int) -> None:
    """Refuse an image that its EXIF `orientation` turns: its annotations are not turned with it.

    Annotation tools show the turned image or the stored one, and the sizes may agree either way.
    Raises: InvalidAnnotation.
    """
    if orientation != 1:
        raise InvalidAnnotation(
            f"image is turned by its EXIF orientation {orientation}, its annotations are not: save it "
            "upright if they were drawn upright, else remove the tag (exiftool -Orientation= FILE)"
        )


def known_values(categories: list[dict[str, Any]], ignore: list[int]) -> np.ndarray:
    """List the values that a label map may hold: (65536,) bool."""
    known = np.zeros(MAX_VALUE + 1, dtype=bool)
    known[[one["id"] for one in categories]] = True
    known[ignore] = True
    return known


def check_label_map(data: bytes, width: int, height: int, known: np.ndarray) -> dict[str, int]:
    """Check that the PNG `data` is a label map of that size with values of `known_values` only.

    Returns the number of pixels of each value; the keys are texts, as in JSON.
    Raises: InvalidAnnotation or UnreadableMap, with the reason.
    """
    values = label_values(data)
    if values.shape != (height, width):
        raise InvalidAnnotation(
            f"label map is {values.shape[1]}x{values.shape[0]} pixels, its image is {width}x{height}: "
            "resize the map to its image's size, without mixing values (nearest neighbour)"
        )
    wrong = values[~known[values]]
    if len(wrong):
        strange = np.unique(wrong)
        allowed = np.flatnonzero(known)
        raise InvalidAnnotation(
            f"label map holds {_few(strange)} in {len(wrong)} pixels; "
            f"the known values are {_shown(allowed)}: correct "
            "the map, or name the values of its classes (ingest_segment.values, of source label_maps)"
        )
    counts = np.bincount(values.ravel())
    return {str(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _shown(values: np.ndarray) -> str:
    """List a few values; of many, first and last."""
    if len(values) <= 4:
        return ", ".join(map(str, values))
    return f"{values[0]} to {values[-1]} ({len(values)} of them)"


def _few(values: np.ndarray) -> str:
    said = ", ".join(str(value) for value in values[:3])
    return (
        f"the unknown value {said}"
        if len(values) == 1
        else (f"the unknown values {said}" + (f" and {len(values) - 3} more" if len(values) > 3 else ""))
    )


def _box(box: list[float], width: int, height: int) -> list[float]:
    """Cut the box at the image's border, if it reaches beyond by no more than the tolerance."""
    x, y, w, h = box
    if not all(_finite(side) for side in box):
        raise InvalidAnnotation(f"box {box} is not finite")
    if w <= 0 or h <= 0:
        raise InvalidAnnotation(f"box {box} has no area")
    # The last digits of a sum of decimal fractions are noise: change a box only where it is really outside.
    over = max(-x, -y, x + w - width, y + h - height)
    if over > TOLERANCE:
        fits = 0 <= x < w <= width + TOLERANCE and 0 <= y < h <= height + TOLERANCE
        raise InvalidAnnotation(
            f"box {box} (x, y, width, height) reaches outside its {width}x{height} image"
            + ("; read as two corners it would fit: COCO wants the width and height" if fits else "")
        )
    if over <= 1e-6:
        return box
    left, top = max(x, 0.0), max(y, 0.0)
    cut = [left, top, min(x + w, width) - left, min(y + h, height) - top]
    if cut[2] <= 0 or cut[3] <= 0:
        raise InvalidAnnotation(f"box {box} has no area within its {width}x{height} image")
    return cut


def _filled(box: list[float], crowd: int) -> list[list[float]]:
    """Make a mask polygon of a box. Raises InvalidAnnotation for a crowd, which fills its box only partly."""
    if crowd:
        raise InvalidAnnotation("crowd without a segmentation: draw a mask for it, or remove it")
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    return [[left, top, right, top, right, bottom, left, bottom]]


def _mask(segmentation: Any, width: int, height: int) -> _Mask:
    """Measure a mask. A part of a polygon that encloses nothing, or has no place, loses only itself.

    Raises InvalidAnnotation or BadRunLengths for an invalid one.
    """
    if isinstance(segmentation, dict):
        runs = run_lengths(segmentation, height, width)
        area = float(sum(runs[1::2]))
        if not area:
            raise InvalidAnnotation("mask without a pixel")
        size = {"size": [height, width], "counts": runs}
        left, top, across, down = coco_mask.toBbox(coco_mask.frPyObjects(size, height, width)).tolist()
        return _Mask(segmentation, area, [left, top, left + across, top + down], [])
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise InvalidAnnotation("segmentation is neither a list of polygons nor run lengths")
    strays = {at: fault for at, part in enumerate(segmentation) if (fault := _part_fault(part))}
    kept = [part for at, part in enumerate(segmentation) if at not in strays]
    if not kept:
        raise InvalidAnnotation(strays[0])
    parts = [_corners(polygon, width, height) for polygon in kept]
    if all(_on_a_line(part) for part in parts):
        raise InvalidAnnotation(
            "polygons without area: all their points lie on one line; draw or remove them"
        )
    corners = np.concatenate(parts)
    extent = [*corners.min(0).tolist(), *corners.max(0).tolist()]
    lost = [f"part {at + 1} of {len(segmentation)}: {fault}" for at, fault in strays.items()]
    return _Mask(kept, sum(map(_enclosed, parts)), extent, lost)


def _part_fault(polygon: list[Any]) -> str | None:
    """Name the fault in the form of a polygon, if any."""
    if len(polygon) < 6 or len(polygon) % 2:
        return f"polygon of {len(polygon)} numbers: expected x, y of 3 points or more"
    if not all(_finite(one) for one in polygon):
        return "polygon with a value that is no finite number"
    return None


def _corners(polygon: list[Any], width: int, height: int) -> np.ndarray:
    """Read a polygon as (n, 2) of x and y in pixels. Raises InvalidAnnotation where it leaves the image."""
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    over = np.maximum(-corners, corners - (width, height)).max(axis=1)
    if over.max() > TOLERANCE:
        x, y = corners[over.argmax()]
        raise InvalidAnnotation(
            f"polygon with a point at ({x:g}, {y:g}), outside its {width}x{height} image: correct it, or cut "
            "the polygon at the border"
        )
    return corners


def _on_a_line(corners: np.ndarray) -> bool:
    ways = corners - corners[0]
    far = ways[np.abs(ways).sum(axis=1).argmax()]
    away = np.abs(far[0] * ways[:, 1] - far[1] * ways[:, 0])  # pixels from the line, times its length
    return bool(away.max() <= 1e-6 * np.abs(far).sum())


def _enclosed(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _check_together(extent: list[float], box: list[float]) -> None:
    """Raise InvalidAnnotation where a mask and its box are in different places."""
    low, high = np.array(extent).reshape(2, 2)
    corner, sides = np.array(box, dtype=np.float64).reshape(2, 2)
    # Half a pixel around both: a sliver's box may be rounded to a whole pixel.
    within = (np.minimum(high, corner + sides) - np.maximum(low, corner) + 1).clip(0).prod()
    if within < MIN_OVERLAP * ((high - low + 1).prod() + (sides + 1).prod() - within):
        (left, top), (right, bottom) = low, high
        raise InvalidAnnotation(
            f"mask from x {left:g} to {right:g} and y {top:g} to {bottom:g}, its box {box} (x, y, width, "
            "height) elsewhere: correct the wrong one of the two; both are in pixels of the image"
        )


def _finite(value: Any) -> bool:
    """Tell whether a float holds the value: JSON's whole numbers may have any number of digits."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max
