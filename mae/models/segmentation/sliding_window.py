"""Label maps of images of any size: a sliding window gives the logits, then the most likely classes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.models.patches import Pair
from mae.models.segmentation.upernet import resized

WINDOWS_AT_ONCE = 4
RESIZED_AT_ONCE = 2**26  # logits held at the final size: 256 MiB of float32


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """List the first pixels of the windows along a side: every `stride`; the last window ends with the side.

    One window at 0 where the side is no longer than the window.
    """
    count = max(0, -(-(length - window) // stride)) + 1
    return [min(number * stride, max(0, length - window)) for number in range(count)]


def slide(
    logits_of: Callable[[Tensor], Tensor], image: Tensor, *, window: Pair, stride: Pair, classes: int
) -> Tensor:
    """Compute float32 logits (classes, h, w) of one image (1, C, h, w): each pixel's mean over its windows.

    logits_of: (N, C, *window) -> (N, classes, *window). An image smaller than the window is padded with zeros
    at the bottom and right; the logits there are cut off.
    """
    (height, width), (rows, columns) = image.shape[-2:], window
    padded = F.pad(image, (0, max(0, columns - width), 0, max(0, rows - height)))
    places = [
        (slice(top, top + rows), slice(left, left + columns))
        for top in window_starts(padded.shape[-2], rows, stride[0])
        for left in window_starts(padded.shape[-1], columns, stride[1])
    ]
    total = padded.new_zeros((classes, *padded.shape[-2:]), dtype=torch.float32)
    count = total.new_zeros(padded.shape[-2:])
    for start in range(0, len(places), WINDOWS_AT_ONCE):
        some = places[start : start + WINDOWS_AT_ONCE]
        windows = torch.cat([padded[..., down, across] for down, across in some])
        for (down, across), logits in zip(some, logits_of(windows), strict=True):
            total[:, down, across] += logits
            count[down, across] += 1
    return total.div_(count)[:, :height, :width]


def most_likely(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Choose the class of the largest logit (classes, h, w), resized to `size` (H, W): (H, W) int64.

    Equal to an argmax over all resized logits, but only some exist at a time: 150 classes of a 24-megapixel
    photograph would take 14 GB. Ties go to the lower class.
    """
    height, width = size
    step = max(1, RESIZED_AT_ONCE // (height * width))
    best = logits.new_full((height, width), -torch.inf)
    classes = torch.zeros((height, width), dtype=torch.int64, device=logits.device)
    for first in range(0, len(logits), step):
        values, indices = resized(logits[None, first : first + step], size)[0].max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        classes = torch.where(better, indices + first, classes)
    return classes
