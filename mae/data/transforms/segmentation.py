"""Augmentation of images with label maps, by the common ADE20K recipe (mmsegmentation's).

Images are uint8 (3, H, W) of any size, label maps uint8 (H, W) of category indices, 255 where not labelled.
Images are resized with antialiased bilinear weights, maps by the nearest pixel. Randomness comes from torch's
global generator. Sizes are an int (a square side) or (height, width), in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mae.models.segmentation import IGNORE

Pair = tuple[torch.Tensor, dict[str, Any]]

_MEAN_COLOUR = (124, 116, 104)  # 255 times ImageNet's mean, rounded: about zero after normalization
_LONGEST = 4  # times the short side, from the recipe's scale (2048, 512); without it a sliver takes gigabytes
_TRIES = 10  # new crops while one class fills too much


def segmentation_training(
    crop: int | Sequence[int],
    *,
    short: int | None = None,
    ratio: tuple[float, float] = (0.5, 2.0),
    max_class_share: float = 0.75,
    flip: bool = True,
    jitter: bool = True,
    fill: Sequence[int] = _MEAN_COLOUR,
) -> Callable[[torch.Tensor, torch.Tensor], Pair]:
    """Build resize, crop, flip and distortion: (image, labels) -> (image uint8 (3, *crop), {"labels": uint8
    crop}).

    short: the length of the shorter side (default: the crop's shorter side), times a factor drawn from
    `ratio`; the longer side stays within four times that. The crop is drawn again, up to ten times, until it
    has two classes and none with more than max_class_share of its labelled pixels. Pixels outside the image
    get the colour `fill` and the label 255. jitter: see `distort`.

    Raises: ValueError for impossible settings; on call, for a map of another size than its image.
    """
    height, width = (crop, crop) if isinstance(crop, int) else crop
    short = min(height, width) if short is None else short
    if min(height, width, short) < 1 or not 0 < ratio[0] <= ratio[1] or not 0 < max_class_share <= 1:
        raise ValueError(
            f"crop {crop}, short {short}: at least 1; ratio {ratio}: 0 < low <= high; "
            f"max_class_share {max_class_share}: above 0, at most 1"
        )
    return _Training((height, width), short, tuple(ratio), max_class_share, flip, jitter, tuple(fill))


def segmentation_evaluation(short: int) -> Callable[..., Pair]:
    """Build the resize of whole images to a shorter side of `short`, or a longer side of four times that if
    less.

    A callable (image, labels or None) -> (image uint8 (3, h, w), {"labels": the unchanged map, "size": (H, W)
    of the original}).
    """
    if short < 1:
        raise ValueError(f"short is {short}: it must be at least 1")
    return _Evaluation(short)


def distort(image: torch.Tensor) -> torch.Tensor:
    """Distort the colours of uint8 (3, H, W), each part half of the time, clipped to 0-255 after each.

    Brightness moves by up to 32, contrast and saturation are multiplied by .5 to 1.5, the hue turns by up to
    36 degrees (the recipe's 18 are steps of a circle of 180). Contrast comes second or last.
    """
    draws = torch.rand(9, dtype=torch.float64).tolist()
    bright, contrast, saturation, hue, last = (draw < 0.5 for draw in draws[:5])
    by_contrast = (0.5 + draws[6], 0.0) if contrast else (1.0, 0.0)
    before = [(1.0, 64 * draws[5] - 32) if bright else (1.0, 0.0)]
    if not last:
        before.append(by_contrast)
    pixels = _mapped(image.permute(1, 2, 0).numpy(), before)
    if saturation or hue:
        pixels = _recoloured(
            pixels, 0.5 + draws[7] if saturation else 1.0, (draws[8] - 0.5) / 5 if hue else 0
        )
    if last:
        pixels = _mapped(pixels, [by_contrast])
    return torch.from_numpy(pixels).permute(2, 0, 1)


@dataclass(frozen=True)
class _Training:
    crop: tuple[int, int]
    short: int
    ratio: tuple[float, ...]
    max_class_share: float
    flip: bool
    jitter: bool
    fill: tuple[int, ...]

    def __call__(self, image: torch.Tensor, labels: torch.Tensor) -> Pair:
        if labels.shape != image.shape[-2:]:
            raise ValueError(
                f"label map of size {tuple(labels.shape)} for an image of size {tuple(image.shape[-2:])}"
            )
        low, high = self.ratio
        short = self.short * (low + torch.rand((), dtype=torch.float64).item() * (high - low))
        sides = _sides(labels.shape[0], labels.shape[1], short)
        top, left, seen = self._cropped(labels.numpy(), sides)
        height, width = seen.shape
        part = _resized(image, sides)[:, top : top + height, left : left + width]
        if self.flip and torch.rand(()).item() < 0.5:
            part, seen = part.flip(-1), seen[:, ::-1]
        if self.jitter:
            part = distort(part)
        made = torch.tensor(self.fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, *self.crop)
        made[:, :height, :width] = part
        map_ = torch.full(self.crop, IGNORE, dtype=torch.uint8)
        map_[:height, :width] = torch.from_numpy(seen.copy())
        return made, {"labels": map_}

    def _cropped(self, labels: np.ndarray, sides: tuple[int, int]) -> tuple[int, int, np.ndarray]:
        """Draw the corner of the crop in the resized image, and cut its labels, at most (h, w) of the
        crop."""
        rows, columns = (
            ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
            for new, old in zip(sides, labels.shape, strict=True)
        )
        height, width = (min(side, most) for side, most in zip(sides, self.crop, strict=True))
        for _ in range(1 + _TRIES):
            down, right = torch.rand(2, dtype=torch.float64).tolist()
            top, left = int(down * (sides[0] - height + 1)), int(right * (sides[1] - width + 1))
            seen = labels[rows[top : top + height, None], columns[None, left : left + width]]
            if self._is_mixed(seen):
                break
        return top, left, seen

    def _is_mixed(self, seen: np.ndarray) -> bool:
        if self.max_class_share == 1:
            return True
        counts = np.bincount(seen.ravel(), minlength=IGNORE + 1)[:IGNORE]
        return bool((counts > 0).sum() > 1 and counts.max() < self.max_class_share * counts.sum())


@dataclass(frozen=True)
class _Evaluation:
    short: int

    def __call__(self, image: torch.Tensor, labels: torch.Tensor | None = None) -> Pair:
        height, width = image.shape[-2:]
        resized = _resized(image, _sides(height, width, self.short))
        return resized, {"labels": labels, "size": (height, width)}


def _sides(height: int, width: int, short: float) -> tuple[int, int]:
    """Scale (height, width), aspect kept, to a shorter side `short` or a longer of four times that, if
    less."""
    factor = min(short / min(height, width), _LONGEST * short / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(image: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    return functional.resize(image, list(sides), InterpolationMode.BILINEAR, antialias=True)


def _mapped(pixels: np.ndarray, steps: Sequence[tuple[float, float]]) -> np.ndarray:
    """Multiply values by a factor and add an offset, step by step, through a table of all 256 values."""
    steps = [step for step in steps if step != (1.0, 0.0)]
    if not steps:
        return pixels
    table = np.arange(256, dtype=np.float64)
    for factor, offset in steps:
        table = np.floor(np.clip(table * factor + offset, 0, 255))
    return np.take(table.astype(np.uint8), pixels)


def _recoloured(pixels: np.ndarray, saturation: float, turn: float) -> np.ndarray:
    """Multiply the saturation of (H, W, 3) RGB and turn its hue by that part of the circle."""
    hsv = np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV"))
    hsv[..., 0] += np.uint8(round(256 * turn) % 256)
    hsv[..., 1] = _mapped(hsv[..., 1], [(saturation, 0.0)])
    return np.array(Image.frombytes("HSV", hsv.shape[1::-1], hsv.tobytes()).convert("RGB"))
