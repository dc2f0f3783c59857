"""Augmentation of images with objects: one geometry for pixels, polygons and masks; boxes follow the masks.

Images are uint8 (3, H, W) of any size, targets those of `annotations.Objects`. The result is a square of
`size` pixels: the image in its top left corner, the rest in one colour, by default ImageNet's mean, which is
about zero after normalization. Randomness comes from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mae.data.transforms.mask_resize import visible_mask

Target = Mapping[str, Any]
Pair = tuple[torch.Tensor, dict[str, Any]]

_MEAN_COLOUR = (124, 116, 104)  # 255 times ImageNet's mean, rounded


def large_scale_jitter(
    size: int,
    *,
    scale: tuple[float, float] = (0.1, 2.0),
    flip: bool = True,
    fill: Sequence[int] = _MEAN_COLOUR,
    max_objects: int = 500,
) -> Callable[[torch.Tensor, Target], Pair]:
    """Build ViTDet's training augmentation (arXiv 2203.16527, after Copy-Paste's arXiv 2012.07177).

    The image is resized (bilinear) so that its longer side is `size` times a factor drawn from `scale`; a
    random part is cut where it is larger than the square; half of all images are mirrored (`flip`).

    Gives (image uint8 (3, size, size), target): image_id; boxes (n, 4) float32, [left, top, right, bottom] in
    pixels, tight around the visible masks; labels (n,) int64, 0-based; masks (n, size, size) uint8, 0
    or 1. Crowds and invisible objects are left out. The largest `max_objects` remain: masks take size x size
    bytes each.

    Raises: ValueError for an impossible size, scale or colour.
    """
    if not 0 < scale[0] <= scale[1] or max_objects < 1:
        raise ValueError(f"scale {scale}: expected 0 < low <= high; max_objects {max_objects}: at least 1")
    return _LargeScaleJitter(_checked(size, fill), tuple(fill), tuple(scale), flip, max_objects)


def detection_evaluation(size: int, *, fill: Sequence[int] = _MEAN_COLOUR) -> Callable[..., Pair]:
    """Build the evaluation transform: the longer side resized (bilinear) to `size`, in the corner of a
    square.

    A callable (image, target or None) -> (image uint8 (3, size, size), target): size, the original (H, W);
    inner, the (h, w) of the image in the square, in pixels; image_id, if given.
    """
    return _DetectionEvaluation(_checked(size, fill), tuple(fill))


def _checked(size: int, fill: Sequence[int]) -> int:
    if size < 1 or len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
        raise ValueError(f"size {size}: at least 1; fill {tuple(fill)}: three values from 0 to 255")
    return size


@dataclass(frozen=True)
class _DetectionEvaluation:
    size: int
    fill: tuple[int, ...]

    def __call__(self, image: torch.Tensor, target: Target | None = None) -> Pair:
        height, width = image.shape[-2:]
        inner = _sides(height, width, self.size)
        about = {"image_id": target["image_id"]} if target is not None and "image_id" in target else {}
        made = _in_square(_resized(image, inner), self.size, self.fill)
        return made, {**about, "size": (height, width), "inner": inner}


@dataclass(frozen=True)
class _LargeScaleJitter:
    size: int
    fill: tuple[int, ...]
    scale: tuple[float, ...]
    flip: bool
    max_objects: int

    def __call__(self, image: torch.Tensor, target: Target) -> Pair:
        factor, down, right, side = torch.rand(4, dtype=torch.float64).tolist()
        low, high = self.scale
        longest = self.size * (low + factor * (high - low))
        original = image.shape[-2], image.shape[-1]
        rows, columns = _sides(*original, longest)
        height, width = min(rows, self.size), min(columns, self.size)
        view = _View(
            original=original,
            resized=(rows, columns),
            top=int(down * (rows - height + 1)),
            left=int(right * (columns - width + 1)),
            height=height,
            width=width,
            mirrored=self.flip and side < 0.5,
        )
        made = _in_square(view.of(_resized(image, view.resized)), self.size, self.fill)
        return made, {"image_id": target["image_id"], **self._objects(target["annotations"], view)}

    def _objects(self, annotations: Sequence[Mapping[str, Any]], view: _View) -> dict[str, torch.Tensor]:
        seen = [(_seen(one, view), one["category"]) for one in annotations if not one["iscrowd"]]
        objects = [(patch, category) for patch, category in seen if patch is not None]
        if len(objects) > self.max_objects:
            areas = np.array([patch.mask.sum() for patch, _ in objects])
            largest = np.argsort(-areas, kind="stable")[: self.max_objects]
            objects = [objects[number] for number in np.sort(largest)]
        masks = np.zeros((len(objects), self.size, self.size), dtype=np.uint8)
        boxes = np.zeros((len(objects), 4), dtype=np.float32)
        for place, (patch, _) in enumerate(objects):
            left, top, right, bottom = patch.box
            boxes[place] = patch.box
            masks[place, top:bottom, left:right] = patch.mask
        return {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor([category for _, category in objects], dtype=torch.int64),
            "masks": torch.from_numpy(masks),
        }


@dataclass(frozen=True)
class _View:
    """The visible part of the resized image, perhaps mirrored; all in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    def of(self, resized: torch.Tensor) -> torch.Tensor:
        """Cut the part from a resized image or mask (C, rows, columns)."""
        part = resized[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return part.flip(-1) if self.mirrored else part

    def moved(self, polygon: Sequence[float]) -> np.ndarray:
        """Map corners [x, y, x, y ...] of the original image to (n, 2) of the part."""
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        down, across = (new / old for new, old in zip(self.resized, self.original, strict=True))
        points = points * (across, down) - (self.left, self.top)
        if self.mirrored:
            points[:, 0] = self.width - points[:, 0]
        return points


@dataclass(frozen=True)
class _Patch:
    """The visible part of an object: a mask (h, w) uint8 and its box (left, top, right, bottom)."""

    mask: np.ndarray
    box: tuple[int, int, int, int]


def _seen(annotation: Mapping[str, Any], view: _View) -> _Patch | None:
    """Find the visible part of an object, None for nothing."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, Mapping):
        return _seen_runs(segmentation, view)
    polygons = [view.moved(polygon) for polygon in segmentation]
    # Rasterized in a box around it, an object costs its own size, not the image's.
    low = np.floor(np.min([points.min(0) for points in polygons], axis=0)).astype(int).clip(0)
    high = np.ceil(np.max([points.max(0) for points in polygons], axis=0)).astype(int) + 1
    width, height = (np.minimum(high, (view.width, view.height)) - low).tolist()
    if width < 1 or height < 1:
        return None
    # COCO rounds corners to fifths of a pixel: done before the shift, the pixels equal those of the whole
    # image.
    corners = [(np.trunc(5 * points + 0.5) / 5 - low).ravel().tolist() for points in polygons]
    mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(corners, height, width)))
    return _tight(mask, int(low[1]), int(low[0]))


def _seen_runs(segmentation: Mapping[str, Any], view: _View) -> _Patch | None:
    part = (view.top, view.height), (view.left, view.width)
    found = visible_mask(segmentation, view.resized, part)
    if found is None:
        return None
    mask, top, left = found
    if view.mirrored:
        mask, left = mask[:, ::-1], view.width - left - mask.shape[1]
    return _tight(mask.astype(np.uint8), top, left)


def _tight(mask: np.ndarray, top: int, left: int) -> _Patch | None:
    """Cut a mask with its corner at (top, left) to its set pixels; None where there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
    return _Patch(part, (int(box[0]), int(box[1]), int(box[2]), int(box[3])))


def _sides(height: int, width: int, longest: float) -> tuple[int, int]:
    """Scale (height, width) to a longer side of `longest`, in whole pixels."""
    factor = longest / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(image: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    return functional.resize(image, list(sides), InterpolationMode.BILINEAR, antialias=True)


def _in_square(image: torch.Tensor, size: int, fill: Sequence[int]) -> torch.Tensor:
    square = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)
    square[:, : image.shape[1], : image.shape[2]] = image
    return square
