"""What a detector or a segmenter says, drawn beside what is true: PNG pages.

Small images are enlarged without mixing pixels, large ones reduced; boxes and names are drawn at the size of
the page, so that they stay legible on both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image, ImageDraw, ImageFont

from mae.data.run_lengths import part_with_mask
from mae.evaluation.segmentation.iou import IGNORE
from mae.report.plots.picture_page import (
    GREY,
    TEXT,
    Colour,
    Pixels,
    cell,
    colour_of,
    fitted,
    page,
    readable_on,
    rows_of_pixels,
    save,
    with_legend,
)

MASK_SHARE = 0.45


def detection_panel(
    path: Path,
    samples: Sequence[tuple[Any, Mapping[str, Any], Mapping[str, Any]]],
    names: Sequence[str],
    *,
    threshold: float = 0.5,
    most: int = 30,
    side: int = 420,
) -> None:
    """Ground truth beside predictions, one pair per sample: boxes, masks, names and scores.

    samples: (image (3 or 1, H, W) uint8, truth, predicted). truth: {"annotations": official entries, each
    with "category", its place in `names`}; predicted: {"boxes" (n, 4) xyxy px, "labels" (n,), "scores" (n,)
    and perhaps "masks", n RLE dicts}. Predictions below `threshold`, and all but the best `most`, are counted
    and not drawn. side: a picture's longer side on the page, px. Raises ValueError for no samples.
    """
    rows: list[list[Image.Image]] = []
    for image, truth, predicted in samples:
        pixels = rows_of_pixels(image)
        objects = _of_truth(truth["annotations"], pixels.shape[:2], names)
        shown = _of_predictions(predicted, names, threshold, most)
        count = sum(not each.get("iscrowd", 0) for each in truth["annotations"])
        found = f"predicted: {len(shown)} of {len(predicted['boxes'])} shown, score from {threshold:g}"
        rows.append(
            [
                cell(
                    _drawn(pixels, objects, side), f"ground truth: {count} object{'s' * (count != 1)}", side
                ),
                cell(_drawn(pixels, shown, side), found, side),
            ]
        )
    save(page(rows, across=2 if len(rows) > 3 else 1), path)


def segmentation_panel(
    path: Path, samples: Sequence[tuple[Any, Any, Any]], names: Sequence[str], *, side: int = 320
) -> None:
    """Image, true map and predicted map, one row per sample, and the colours of the classes that occur.

    samples: (image (3 or 1, H, W) uint8, truth (H, W) integers or None, predicted (H, W) integers); values
    are places in `names`, or 255: ignored. side: as in `detection_panel`. Raises ValueError for no samples or
    a map of another size than its image.
    """
    colours = np.array([colour_of(label) for label in range(IGNORE)] + [GREY], dtype=np.uint8)
    seen = np.zeros(len(colours), dtype=np.int64)
    rows: list[list[Image.Image]] = []
    for image, truth, predicted in samples:
        pixels = rows_of_pixels(image)
        rows.append([cell(fitted(pixels, side), "image", side)])
        for title, labels in (("ground truth", truth), ("predicted", predicted)):
            if labels is None:
                continue
            values = torch.as_tensor(labels).cpu().numpy()
            if values.shape != pixels.shape[:2]:
                raise ValueError(
                    f"{title}: a map of {values.shape} for an image of {pixels.shape[:2]} (H, W)"
                )
            seen += np.bincount(values.ravel(), minlength=len(seen))
            rows[-1].append(cell(fitted(colours[values], side, blocks=True), title, side))
    order = [int(label) for label in np.argsort(-seen, kind="stable") if seen[label] and label != IGNORE]
    entries: list[tuple[str, Colour]] = [("ignored", GREY)] if seen[IGNORE] else []
    save(with_legend(page(rows), entries + [(names[label], colour_of(label)) for label in order]), path)


@dataclass(frozen=True)
class _Thing:
    """What is drawn over an image: a box (xyxy px), its name, perhaps a mask (RLE, until it is drawn)."""

    box: Sequence[float]
    text: str
    colour: Colour
    mask: Mapping[str, Any] | None
    line: int = 2


def _of_truth(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, ...], names: Sequence[str]
) -> list[_Thing]:
    things: list[_Thing] = []
    for each in sorted(annotations, key=lambda each: not each.get("iscrowd", 0)):  # objects over crowds
        x, y, w, h = each["bbox"]
        shape, label = each.get("segmentation"), int(each["category"])
        mask = rle.segmToRle(shape, size[1], size[0]) if shape else None
        box = (x, y, x + w, y + h)
        if each.get("iscrowd", 0):
            things.append(_Thing(box, f"{names[label]}, crowd", GREY, mask, line=1))
        else:
            things.append(_Thing(box, names[label], colour_of(label), mask))
    return things


def _of_predictions(
    found: Mapping[str, Any], names: Sequence[str], threshold: float, most: int
) -> list[_Thing]:
    """The best last, hence on top."""
    boxes, labels, scores = (torch.as_tensor(found[key]).tolist() for key in ("boxes", "labels", "scores"))
    order = sorted(range(len(boxes)), key=lambda number: -scores[number])
    shown = [number for number in order if scores[number] >= threshold][:most]
    return [
        _Thing(
            boxes[number],
            f"{names[labels[number]]} {scores[number]:.2f}",
            colour_of(labels[number]),
            found["masks"][number] if "masks" in found else None,
        )
        for number in reversed(shown)
    ]


def _drawn(pixels: Pixels, things: Sequence[_Thing], side: int) -> Image.Image:
    """The picture with all masks below, boxes over them and names on top; a later thing covers an earlier."""
    picture = fitted(pixels, side)
    scale = picture.width / pixels.shape[1], picture.height / pixels.shape[0]
    canvas = np.asarray(picture).copy()
    rows, columns = map(_nearest, pixels.shape[:2], canvas.shape[:2])
    for thing in things:
        if thing.mask is not None:
            part, top, left = part_with_mask(thing.mask)
            down = slice(*np.searchsorted(rows, (top, top + len(part))))
            across = slice(*np.searchsorted(columns, (left, left + part.shape[1])))
            inside = part[rows[down, None] - top, columns[None, across] - left] > 0
            here = canvas[down, across]
            mixed = here[inside] * (1 - MASK_SHARE) + np.array(thing.colour) * MASK_SHARE
            here[inside] = mixed.round().astype(np.uint8)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    boxes = [[edge * scale[place % 2] for place, edge in enumerate(thing.box)] for thing in things]
    for thing, (left, top, right, bottom) in zip(things, boxes, strict=True):
        inner = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(inner, outline=thing.colour, width=thing.line)
    for thing, box in zip(things, boxes, strict=True):
        _name(draw, picture.size, box, thing)
    return picture


def _nearest(old: int, new: int) -> Pixels:
    """(new,) which of `old` pixels in a row each of as many shows, chosen as PIL does."""
    places = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(places.resize((new, 1), Image.Resampling.NEAREST))[0]


def _name(draw: ImageDraw.ImageDraw, size: tuple[int, int], box: Sequence[float], thing: _Thing) -> None:
    """The name above the box's upper left corner, moved into the picture where it would leave it."""
    font = ImageFont.load_default(TEXT - 1)
    width = draw.textlength(thing.text, font=font) + 4
    left = max(0.0, min(box[0], size[0] - width))
    top = max(0.0, min(box[1] - TEXT - 2, size[1] - TEXT - 2))
    draw.rectangle((left, top, left + width, top + TEXT + 1), fill=thing.colour)
    draw.text((left + 2, top), thing.text, font=font, fill=readable_on(thing.colour))
