"""Which patches are hidden. A mask is a ranking: score every patch, hide the highest."""

from typing import NamedTuple

import torch
from torch import Tensor

from mae.models.patches import Pair


class Mask(NamedTuple):
    """Which patches are hidden; the class token is never counted. Every row hides equally many.

    masked (N, L) bool; visible_ids (N, V) and masked_ids (N, M) ascending.
    """

    masked: Tensor
    visible_ids: Tensor
    masked_ids: Tensor


def num_masked_of(length: int, mask_ratio: float) -> int:
    """Patches to hide out of `length`: a whole mask_ratio says how many, one below 1 which share.

    Of a share all but int(length * (1 - mask_ratio)) are hidden, as the MAE release rounds. Raises ValueError
    where nothing would be hidden or nothing stay visible.
    """
    counted = isinstance(mask_ratio, int)
    visible = length - int(mask_ratio) if counted else int(length * (1 - mask_ratio))
    if not (counted or 0 < mask_ratio < 1) or not 0 < visible < length:
        raise ValueError(
            f"mask_ratio {mask_ratio} leaves {visible} of {length} patches visible: "
            "at least one must be visible and one masked"
        )
    return length - visible


def mask_highest(scores: Tensor, num_masked: int) -> Mask:
    """Hide the `num_masked` patches of each row with the largest scores (N, L); of equals, the later ones.

    Random scores give MAE's random masking. The number is fixed, so shapes do not depend on data.
    """
    num_visible = scores.shape[1] - num_masked
    # Sorting, not a threshold: float32 noise has ties, and every row must hide the same number.
    order = scores.argsort(dim=1, stable=True)
    visible_ids = order[:, :num_visible].sort(dim=1).values
    masked_ids = order[:, num_visible:].sort(dim=1).values
    masked = torch.zeros_like(order, dtype=torch.bool).scatter(1, masked_ids, True)
    return Mask(masked, visible_ids, masked_ids)


def noise_for(images: Tensor, noise_shape: tuple[int, ...], noise: Tensor | None = None) -> Tensor:
    """`noise` for images (N, ...), or uniform draws where it is None; ValueError unless (N, *noise_shape)."""
    shape = (len(images), *noise_shape)
    if noise is None:
        return torch.rand(shape, device=images.device)
    if noise.shape != shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, these images need {shape}")
    return noise


class Masking:
    """How the patches of an image are hidden: noise in, `Mask` out. This one hides them at random (MAE).

    grid: patches in a column and in a row. mask_ratio: as `num_masked_of` takes it. num_masked: how many each
    image hides, whatever the noise. noise_shape: of what is drawn uniformly from [0, 1) per image; it fixes
    the mask.
    """

    def __init__(self, grid: Pair, mask_ratio: float) -> None:
        self.grid = grid
        self.num_masked = self.number(mask_ratio)
        self.noise_shape: tuple[int, ...] = (grid[0] * grid[1],)

    def __call__(self, noise: Tensor) -> Mask:
        """The mask that noise (N, *noise_shape) stands for."""
        return mask_highest(self.scores(noise), self.num_masked)

    def drawn(self, images: Tensor, noise: Tensor | None = None) -> Mask:
        """The mask for images (N, C, H, W), whose noise is drawn here where None is given.

        Raises ValueError for noise of another shape than (N, *noise_shape).
        """
        return self(noise_for(images, self.noise_shape, noise))

    def number(self, mask_ratio: float) -> int:
        """Patches to hide; raises ValueError where that is none or all of them."""
        return num_masked_of(self.grid[0] * self.grid[1], mask_ratio)

    def scores(self, noise: Tensor) -> Tensor:
        """Noise (N, *noise_shape) -> scores (N, L)."""
        return noise


class BlockMasking(Masking):
    """Blocks of neighbouring patches, one after the other until enough are hidden (BEiT, arXiv 2106.08254).

    Each block's area is uniform between 16 patches (a quarter of all that are hidden, where that is less) and
    what is still to be hidden, its aspect log-uniform in .3 to 1/.3, as far as it fits into the image; its
    place is uniform. Exactly `num_masked` are hidden: the last block loses what is too much of it, rows or
    columns from one of its four sides, and should BLOCKS blocks not suffice (of 14x14 patches at 75 %, in 6 %
    of the images), random patches follow.
    """

    BLOCKS = 20
    AREA = 16
    ASPECT = 0.3

    def __init__(self, grid: Pair, mask_ratio: float) -> None:
        super().__init__(grid, mask_ratio)
        self.noise_shape = (4 * self.BLOCKS + grid[0] * grid[1],)

    def scores(self, noise: Tensor) -> Tensor:
        draws, rest = noise[:, : 4 * self.BLOCKS].unflatten(1, (-1, 4)), noise[:, 4 * self.BLOCKS :]
        # No image needs that number of `rest` twice: where blocks do not suffice none of them loses patches.
        ramp = self._ramp(rest[:, 0])
        scores = rest
        for number in range(self.BLOCKS):
            hidden = (scores >= 1).sum(dim=1)  # noise is below 1, earlier blocks score higher
            block = self._block(draws[:, number], (self.num_masked - hidden).clamp(min=0))
            scores = torch.where(block & (scores < 1), self.BLOCKS + 1 - number + ramp, scores)
        return scores

    def _ramp(self, draws: Tensor) -> Tensor:
        """Draws (N,) -> in which order a block keeps its patches, (N, L) from 0 to below 1.

        It rises patch by patch along rows or along columns, from one of the four corners, all alike likely:
        an order that was always the same would spare one side of the image.
        """
        turn = (8 * draws).long()[:, None, None]
        row, column = (torch.arange(side, device=draws.device) for side in self.grid)
        row = torch.where(turn % 2 == 0, row[:, None], row.flip(0)[:, None])
        column = torch.where(turn // 2 % 2 == 0, column, column.flip(0))
        by_rows, by_columns = row * self.grid[1] + column, column * self.grid[0] + row
        return (torch.where(turn < 4, by_rows, by_columns) / by_rows[0].numel()).flatten(1)

    def _block(self, draws: Tensor, remaining: Tensor) -> Tensor:
        """Draws (N, 4) of area, aspect, row, column; patches left to hide (N,) -> one block (N, L) bool."""
        high, wide = (max(1, side - 1) for side in self.grid)
        area, aspect, row, column = draws.unbind(dim=1)
        least = min(self.AREA, self.num_masked / 4)
        area = least + area * (remaining - least).clamp(min=0)
        low = (area / wide**2).clamp(min=self.ASPECT).log()
        top = (high**2 / area).clamp(max=1 / self.ASPECT).log()
        aspect = (low + aspect * (top - low)).exp()
        rows = self._side(self.grid[0], (area * aspect).sqrt().round().clamp(1, high), row)
        columns = self._side(self.grid[1], (area / aspect).sqrt().round().clamp(1, wide), column)
        return (rows[:, :, None] & columns[:, None, :]).flatten(1)

    @staticmethod
    def _side(length: int, extent: Tensor, place: Tensor) -> Tensor:
        """Which of `length` rows a block of `extent` (N,) rows covers, (N, length) bool."""
        first = (place * (length - extent + 1)).floor()[:, None]
        at = torch.arange(length, device=place.device)
        return (at >= first) & (at < first + extent[:, None])


class GridMasking(Masking):
    """A regular pattern, the same for every image: at 75 % one patch of every 2x2 stays (MAE, section 4.1).

    At other ratios the corners of the 2x2 cells are hidden in turn, at 50 % as on a chess board, and within
    a corner the same pattern again at twice the distance; noise decides where that leaves equals.
    """

    def scores(self, noise: Tensor) -> Tensor:
        row, column = (torch.arange(side, device=noise.device) for side in self.grid)
        turn = 4 * self._corner(row, column) + self._corner(row // 2, column // 2)
        return turn.flatten() + noise

    @staticmethod
    def _corner(row: Tensor, column: Tensor) -> Tensor:
        """0 to 3 for each patch (rows, columns): the later, the earlier hidden. Opposite corners follow."""
        row, column = row[:, None] % 2, column[None] % 2
        return 2 * (row ^ column) + row


class CellMasking(Masking):
    """Random cells of 2x2 patches (SimMIM, arXiv 2111.09886: 32 pixels at patches of 16).

    A share counts cells, a whole mask_ratio patches. Where a side is odd the cells at its end are cut, and to
    hide the same number in every image one cell is hidden in part.
    """

    SIDE = 2

    def __init__(self, grid: Pair, mask_ratio: float) -> None:
        self.cells = (-(-grid[0] // self.SIDE), -(-grid[1] // self.SIDE))
        super().__init__(grid, mask_ratio)
        self.noise_shape = (self.cells[0] * self.cells[1],)

    def number(self, mask_ratio: float) -> int:
        if isinstance(mask_ratio, int):
            return super().number(mask_ratio)
        cells, patches = self.cells[0] * self.cells[1], self.grid[0] * self.grid[1]
        return round(num_masked_of(cells, mask_ratio) / cells * patches)

    def scores(self, noise: Tensor) -> Tensor:
        cells = noise.unflatten(1, self.cells)
        patches = cells.repeat_interleave(self.SIDE, 1).repeat_interleave(self.SIDE, 2)
        return patches[:, : self.grid[0], : self.grid[1]].flatten(1)


MASKINGS: dict[str, type[Masking]] = {
    "random": Masking,
    "block": BlockMasking,
    "grid": GridMasking,
    "cells": CellMasking,
}


def masking(name: str, grid: Pair, mask_ratio: float) -> Masking:
    """The row `name` of MASKINGS for a grid of patches (rows, columns); ValueError for an unknown one."""
    if name not in MASKINGS:
        raise ValueError(f"unknown mask {name!r}; known: {', '.join(MASKINGS)}")
    return MASKINGS[name](grid, mask_ratio)
