"""Predictions of detectors and segmenters next to the ground truth, as PNG pages.

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

from mae.data.run_lengths import mask_crop
from mae.models.segmentation import IGNORE
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
    """Draw ground truth next to predictions, one pair per sample: boxes, masks, names and scores.

    samples: (image (3 or 1, H, W) uint8, target, predicted). target: {"annotations": official entries, each
    with "category", its index in `names`}; predicted: {"boxes" (n, 4) xyxy px, "labels" (n,), "scores" (n,)
    and optionally "masks", n RLE dicts}. Predictions below `threshold`, and all but the best `most`, are
    counted and not drawn. side: the longer side of a picture on the page, px. Raises ValueError for no
    samples.
    """
    rows: list[list[Image.Image]] = []
    for image, target, predicted in samples:
        pixels = rows_of_pixels(image)
        objects = _target_overlays(target["annotations"], pixels.shape[:2], names)
        shown = _predicted_overlays(predicted, names, threshold, most)
        count = sum(not each.get("iscrowd", 0) for each in target["annotations"])
        heading = f"predicted: {len(shown)} of {len(predicted['boxes'])} shown, score from {threshold:g}"
        rows.append(
            [
                cell(_draw(pixels, objects, side), f"ground truth: {count} object{'s' * (count != 1)}", side),
                cell(_draw(pixels, shown, side), heading, side),
            ]
        )
    save(page(rows, across=2 if len(rows) > 3 else 1), path)


def segmentation_panel(
    path: Path, samples: Sequence[tuple[Any, Any, Any]], names: Sequence[str], *, side: int = 320
) -> None:
    """Draw image, true map and predicted map, one row per sample, and the colours of the classes that occur.

    samples: (image (3 or 1, H, W) uint8, target (H, W) integers or None, predicted (H, W) integers); values
    are indices in `names`, or 255: ignored. side: as in `detection_panel`. Raises ValueError for no samples
    or a map of another size than its image.
    """
    colours = np.array([colour_of(label) for label in range(IGNORE)] + [GREY], dtype=np.uint8)
    seen = np.zeros(len(colours), dtype=np.int64)
    rows: list[list[Image.Image]] = []
    for image, target, predicted in samples:
        pixels = rows_of_pixels(image)
        rows.append([cell(fitted(pixels, side), "image", side)])
        for title, labels in (("ground truth", target), ("predicted", predicted)):
            if labels is None:
                continue
            values = torch.as_tensor(labels).cpu().numpy()
            if values.shape != pixels.shape[:2]:
                raise ValueError(
                    f"{title}: a map of {values.shape}, but its image is {pixels.shape[:2]} (H, W)"
                )
            seen += np.bincount(values.ravel(), minlength=len(seen))
            rows[-1].append(cell(fitted(colours[values], side, blocks=True), title, side))
    order = [int(label) for label in np.argsort(-seen, kind="stable") if seen[label] and label != IGNORE]
    entries: list[tuple[str, Colour]] = [("ignored", GREY)] if seen[IGNORE] else []
    save(with_legend(page(rows), entries + [(names[label], colour_of(label)) for label in order]), path)


@dataclass(frozen=True)
class _Overlay:
    """A box (xyxy px) drawn over an image, with its name and optionally a mask (RLE until it is drawn)."""

    box: Sequence[float]
    text: str
    colour: Colour
    mask: Mapping[str, Any] | None
    line: int = 2


def _target_overlays(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, ...], names: Sequence[str]
) -> list[_Overlay]:
    overlays: list[_Overlay] = []
    for each in sorted(annotations, key=lambda each: not each.get("iscrowd", 0)):  # objects over crowds
        x, y, w, h = each["bbox"]
        shape, label = each.get("segmentation"), int(each["category"])
        mask = rle.segmToRle(shape, size[1], size[0]) if shape else None
        box = (x, y, x + w, y + h)
        if each.get("iscrowd", 0):
            overlays.append(_Overlay(box, f"{names[label]}, crowd", GREY, mask, line=1))
        else:
            overlays.append(_Overlay(box, names[label], colour_of(label), mask))
    return overlays


def _predicted_overlays(
    found: Mapping[str, Any], names: Sequence[str], threshold: float, most: int
) -> list[_Overlay]:
    """List the shown predictions, the best last and so on top."""
    boxes, labels, scores = (torch.as_tensor(found[key]).tolist() for key in ("boxes", "labels", "scores"))
    order = sorted(range(len(boxes)), key=lambda number: -scores[number])
    shown = [number for number in order if scores[number] >= threshold][:most]
    return [
        _Overlay(
            boxes[number],
            f"{names[labels[number]]} {scores[number]:.2f}",
            colour_of(labels[number]),
            found["masks"][number] if "masks" in found else None,
        )
        for number in reversed(shown)
    ]


def _draw(pixels: Pixels, overlays: Sequence[_Overlay], side: int) -> Image.Image:
    """Draw masks, boxes over them and names on top; a later overlay covers an earlier one."""
    picture = fitted(pixels, side)
    scale = picture.width / pixels.shape[1], picture.height / pixels.shape[0]
    canvas = np.asarray(picture).copy()
    rows, columns = map(_nearest, pixels.shape[:2], canvas.shape[:2])
    for overlay in overlays:
        if overlay.mask is not None:
            part, top, left = mask_crop(overlay.mask)
            down = slice(*np.searchsorted(rows, (top, top + len(part))))
            across = slice(*np.searchsorted(columns, (left, left + part.shape[1])))
            inside = part[rows[down, None] - top, columns[None, across] - left] > 0
            here = canvas[down, across]
            mixed = here[inside] * (1 - MASK_SHARE) + np.array(overlay.colour) * MASK_SHARE
            here[inside] = mixed.round().astype(np.uint8)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    boxes = [[edge * scale[index % 2] for index, edge in enumerate(overlay.box)] for overlay in overlays]
    for overlay, (left, top, right, bottom) in zip(overlays, boxes, strict=True):
        inner = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(inner, outline=overlay.colour, width=overlay.line)
    for overlay, box in zip(overlays, boxes, strict=True):
        _draw_name(draw, picture.size, box, overlay)
    return picture


def _nearest(old: int, new: int) -> Pixels:
    """Find the index (new,) of the old pixel that each new one shows, as PIL resizes to the nearest."""
    places = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(places.resize((new, 1), Image.Resampling.NEAREST))[0]


def _draw_name(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], box: Sequence[float], overlay: _Overlay
) -> None:
    """Draw the name above the upper left corner of the box, moved to lie inside the picture."""
    font = ImageFont.load_default(TEXT - 1)
    width = draw.textlength(overlay.text, font=font) + 4
    left = max(0.0, min(box[0], size[0] - width))
    top = max(0.0, min(box[1] - TEXT - 2, size[1] - TEXT - 2))
    draw.rectangle((left, top, left + width, top + TEXT + 1), fill=overlay.colour)
    draw.text((left + 2, top), overlay.text, font=font, fill=readable_on(overlay.colour))
