"""Colours of patches as classes: 3 bits a channel, 512 in all (ViT's self-supervision, 2010.11929, B.1.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.models.patches import Pair, pair, patchify

LEVELS = 8  # of each channel
COLOURS = LEVELS**3


def tile_colours(images: Tensor, patch_size: int | Pair, tiles: int) -> Tensor:
    """Average the tiles x tiles parts of each patch, row by row: colours (N, L, tiles*tiles, C)."""
    rows, columns = pair(patch_size)
    patches = patchify(images, patch_size).unflatten(2, (rows, columns, -1))
    means = F.adaptive_avg_pool2d(patches.flatten(0, 1).permute(0, 3, 1, 2), tiles)
    return means.flatten(2).transpose(1, 2).unflatten(0, patches.shape[:2])


def spread_tiles(colours: Tensor, patch_size: int | Pair) -> Tensor:
    """Spread colours of tiles (N, L, tiles*tiles, C) over the pixels of patches (N, L, P*P*C)."""
    n, length = colours.shape[:2]
    side = round(colours.shape[2] ** 0.5)
    tiles = colours.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
    spread = F.interpolate(tiles, pair(patch_size), mode="nearest-exact")
    return spread.permute(0, 2, 3, 1).reshape(n, length, -1)


class ColourBins:
    """Normalised RGB colours (..., 3) as classes red * 64 + green * 8 + blue of 8 equal steps each, and back.

    mean, std: of the normalisation, of colours in [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)

    def classes(self, colours: Tensor) -> Tensor:
        """Classify colours (..., 3) -> (...) int64; values outside [0, 1] get the nearest class."""
        # Numbers, not tensors: tensors would be copied to the device in every step, which waits for it.
        red, green, blue = (
            ((channel * std + mean) * LEVELS).floor().clamp(0, LEVELS - 1).long()
            for channel, mean, std in zip(colours.unbind(-1), self.mean, self.std, strict=True)
        )
        return (red * LEVELS + green) * LEVELS + blue

    def colours(self, classes: Tensor) -> Tensor:
        """Return the middle colour (..., 3) of classes (...), normalised, float32."""
        steps = torch.tensor([LEVELS**2, LEVELS, 1], device=classes.device)
        levels = classes[..., None] // steps % LEVELS
        mean, std = (torch.tensor(values, device=classes.device) for values in (self.mean, self.std))
        return ((levels + 0.5) / LEVELS - mean) / std
