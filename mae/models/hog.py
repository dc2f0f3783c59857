"""Histograms of oriented gradients of patches, the target of MaskFeat (Wei et al., arXiv 2112.09133)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.models.patches import Pair, pair, patchify

BINS = 9  # of orientations in [0, pi): a gradient and its opposite are one
CELL = 8  # pixels


def cell_of(patch_size: int | Pair) -> Pair:
    """Return rows and columns of pixels in a cell: 8, or the largest number below that divides the patch."""
    rows, columns = (max(d for d in range(1, CELL + 1) if side % d == 0) for side in pair(patch_size))
    return rows, columns


def hog_width(patch_size: int | Pair, channels: int) -> int:
    """Count the values per patch; 108 of 16x16 pixels in three colours."""
    (rows, columns), (cell_rows, cell_columns) = pair(patch_size), cell_of(patch_size)
    return channels * BINS * (rows // cell_rows) * (columns // cell_columns)


def hog(images: Tensor, patch_size: int | Pair) -> Tensor:
    """Compute HOG (N, L, T) of images (N, C, H, W), ordered (cell row, cell column, channel, bin).

    Gradients are differences of a pixel's two neighbours, 0 across the image's edge, each channel by itself.
    Every pixel votes with its gradient's magnitude for the bin of its orientation; each cell's histogram is
    scaled to length 1 (contrast normalisation), a flat cell's is 0. So neither a channel's brightness nor its
    scale matters.
    """
    down = F.pad(images, (0, 0, 1, 1), mode="reflect").diff(dim=2)
    right = F.pad(images, (1, 1, 0, 0), mode="reflect").diff(dim=3)
    rows, columns = down[:, :, 1:] + down[:, :, :-1], right[..., 1:] + right[..., :-1]
    magnitude = torch.hypot(rows, columns)
    bins = (torch.atan2(rows, columns) * (BINS / math.pi)).floor() % BINS
    votes = [F.avg_pool2d(magnitude * (bins == number), cell_of(patch_size)) for number in range(BINS)]
    histograms = F.normalize(torch.stack(votes, dim=2), dim=2)  # (N, C, BINS, H/cell, W/cell)
    cells = tuple(side // cell for side, cell in zip(pair(patch_size), cell_of(patch_size), strict=True))
    return patchify(histograms.flatten(1, 2), (cells[0], cells[1]))
