"""Masks of patches. A mask is a ranking: score every patch, hide the highest."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mae.models.patches import Pair
from mae.suggestions import not_one_of


@dataclass(frozen=True)
class Mask:
    """The hidden patches of each image; the class token is never counted. Every row hides equally many.

    masked (N, L) bool; visible_ids (N, V) and masked_ids (N, M) ascending.
    """

    masked: Tensor
    visible_ids: Tensor
    masked_ids: Tensor


def num_masked_of(length: int, mask_ratio: float) -> int:
    """Count the patches to hide out of `length`: a whole mask_ratio is their number, one below 1 a share.

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
    """Hide the `num_masked` patches of each row with the largest scores (N, L); of equals the later ones.

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
    """Check `noise` for images (N, ...), or draw it where it is None; ValueError unless (N, *noise_shape)."""
    shape = (len(images), *noise_shape)
    if noise is None:
        return torch.rand(shape, device=images.device)
    if noise.shape != shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, these images need {shape}")
    return noise


class Masking:
    """A kind of mask: it turns noise into a `Mask`. This one hides random patches (MAE).

    grid: patches in a column and in a row. mask_ratio: as `num_masked_of` takes it. num_masked: the number
    that each image hides, whatever the noise. blocks: of block_size patches each, that are predicted apart.
    noise_shape: of the uniform draws from [0, 1) per image; they fix the mask.
    """

    def __init__(self, grid: Pair, mask_ratio: float) -> None:
        self.grid = grid
        self.num_masked = self.number(mask_ratio)
        self.blocks, self.block_size = 1, self.num_masked
        self.noise_shape: tuple[int, ...] = (grid[0] * grid[1],)

    def __call__(self, noise: Tensor) -> Mask:
        """Turn noise (N, *noise_shape) into the mask."""
        return mask_highest(self.scores(noise), self.num_masked)

    def sample(self, images: Tensor, noise: Tensor | None = None) -> Mask:
        """Sample the mask for images (N, C, H, W); without noise it is drawn here.

        Raises ValueError for noise of another shape than (N, *noise_shape).
        """
        return self(noise_for(images, self.noise_shape, noise))

    def number(self, mask_ratio: float) -> int:
        """Count the patches to hide; raises ValueError where that is none or all of them."""
        return num_masked_of(self.grid[0] * self.grid[1], mask_ratio)

    def scores(self, noise: Tensor) -> Tensor:
        """Score the patches: noise (N, *noise_shape) -> (N, L)."""
        return noise


class BlockMasking(Masking):
    """Blocks of neighbouring patches, one after the other until enough are hidden (BEiT, arXiv 2106.08254).

    Each block's area is uniform between 16 patches (a quarter of all that are hidden, where that is less) and
    the number still to be hidden, its aspect log-uniform in .3 to 1/.3, as far as it fits into the image; its
    place is uniform. Exactly `num_masked` are hidden: the last block loses its surplus, rows or columns
    from one of its four sides. Where BLOCKS blocks do not suffice (of 14x14 patches at 75 %, in 6 % of the
    images), random patches follow.
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
        ramp = _ramp(self.grid, rest[:, 0])
        scores = rest
        for number in range(self.BLOCKS):
            hidden = (scores >= 1).sum(dim=1)  # noise is below 1, earlier blocks score higher
            block = self._block(draws[:, number], (self.num_masked - hidden).clamp(min=0))
            scores = torch.where(block & (scores < 1), self.BLOCKS + 1 - number + ramp, scores)
        return scores

    def _block(self, draws: Tensor, remaining: Tensor) -> Tensor:
        """Place a block by draws (N, 4) of area, aspect, row, column, `remaining` (N,) at most: (N, L)."""
        high, wide = (max(1, side - 1) for side in self.grid)
        area, aspect, row, column = draws.unbind(dim=1)
        least = min(self.AREA, self.num_masked / 4)
        area = least + area * (remaining - least).clamp(min=0)
        low = (area / wide**2).clamp(min=self.ASPECT).log()
        top = (high**2 / area).clamp(max=1 / self.ASPECT).log()
        aspect = (low + aspect * (top - low)).exp()
        rows = _span(self.grid[0], (area * aspect).sqrt().round().clamp(1, high), row)
        columns = _span(self.grid[1], (area / aspect).sqrt().round().clamp(1, wide), column)
        return (rows[:, :, None] & columns[:, None, :]).flatten(1)


@dataclass(frozen=True)
class TargetBlocks(Mask):
    """A mask with blocks of masked patches, block_ids (N, B, S) ascending; blocks may overlap (I-JEPA)."""

    block_ids: Tensor

    @property
    def targets(self) -> Tensor:
        """The patches (N, L) bool that are in any block."""
        return torch.zeros_like(self.masked).scatter(1, self.block_ids.flatten(1), True)


class MultiBlockMasking(Masking):
    """Four target blocks, hidden, and a context block, alone visible (I-JEPA, arXiv 2301.08243, section 3).

    The aspect of a target is uniform in .75 to 1.5, the area of the context in .85 to 1 of the image; places
    are uniform. Targets are taken out of the context. A mask is rectangular, so, other than in the paper:
    a target has .175 of the patches, the middle of the paper's .15 to .2, or a fourth of all that are hidden
    where that is less; the context is cut to the number that mask_ratio leaves visible. Cut are rows or
    columns of one of the four sides. Where the context has too few, patches around it are visible, too.
    (The release draws the targets' size once for a batch, and cuts to a batch's smallest, at the bottom.)

    The paper's context has a quarter of the patches on average (table 6): mask_ratio .75.
    """

    BLOCKS = 4
    AREA = 0.175
    ASPECT = (0.75, 1.5)
    CONTEXT = (0.85, 1.0)

    def __init__(self, grid: Pair, mask_ratio: float) -> None:
        super().__init__(grid, mask_ratio)
        self.blocks = min(self.BLOCKS, self.num_masked)
        # No more than a fourth: all blocks are hidden, also where none overlaps another.
        most = self.num_masked // self.blocks
        self.block_size = min(max(1, round(self.AREA * grid[0] * grid[1])), most)
        self.noise_shape = (4 * self.BLOCKS + 4,)

    def __call__(self, noise: Tensor) -> TargetBlocks:
        block_ids = self.block_ids(noise)
        mask = mask_highest(self._rank(noise, block_ids), self.num_masked)
        return TargetBlocks(mask.masked, mask.visible_ids, mask.masked_ids, block_ids)

    def block_ids(self, noise: Tensor) -> Tensor:
        """noise (N, *noise_shape) -> the patches of each target block (N, B, S), ascending."""
        draws = noise[:, : 4 * self.blocks].unflatten(1, (self.blocks, 4)).flatten(0, 1)
        aspect, row, column, side = draws.unbind(dim=1)
        low, high = self.ASPECT
        length, width = self.grid
        fewest = math.ceil(self.block_size / width)
        rows = (self.block_size * (low + aspect * (high - low))).sqrt().round()
        rows = rows.clamp(fewest, max(fewest, length - 1))
        block = self._block(rows, (self.block_size / rows).ceil(), row, column)
        order = torch.where(block, 1 - _ramp(self.grid, side), 0).argsort(dim=1, descending=True, stable=True)
        return order[:, : self.block_size].sort(dim=1).values.unflatten(0, (-1, self.blocks))

    def scores(self, noise: Tensor) -> Tensor:
        return self._rank(noise, self.block_ids(noise))

    def _rank(self, noise: Tensor, block_ids: Tensor) -> Tensor:
        scale, row, column, side = noise[:, 4 * self.BLOCKS :].unbind(dim=1)
        low, high = self.CONTEXT
        share = (low + scale * (high - low)).sqrt()
        rows, columns = ((share * length).round() for length in self.grid)
        context = self._block(rows, columns, row, column)
        targets = torch.zeros_like(context).scatter(1, block_ids.flatten(1), True)
        return _ramp(self.grid, side) + 2 * targets + ~context

    def _block(self, rows: Tensor, columns: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Place blocks of rows x columns (N,) at row, column (N,) from 0 to 1: (N, L) bool."""
        down, across = _span(self.grid[0], rows, row), _span(self.grid[1], columns, column)
        return (down[:, :, None] & across[:, None, :]).flatten(1)


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
        """Number the corners of 2x2 cells 0 to 3 (rows, columns): the highest are hidden first."""
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


def _ramp(grid: Pair, draws: Tensor) -> Tensor:
    """Order the patches of an image for draws (N,): (N, L) from 0 to below 1.

    It rises patch by patch along rows or along columns, from one of the four corners, all equally likely:
    a fixed order would spare one side of the image.
    """
    turn = (8 * draws).long()[:, None, None]
    row, column = (torch.arange(side, device=draws.device) for side in grid)
    row = torch.where(turn % 2 == 0, row[:, None], row.flip(0)[:, None])
    column = torch.where(turn // 2 % 2 == 0, column, column.flip(0))
    by_rows, by_columns = row * grid[1] + column, column * grid[0] + row
    return (torch.where(turn < 4, by_rows, by_columns) / by_rows[0].numel()).flatten(1)


def _span(length: int, extent: Tensor, place: Tensor) -> Tensor:
    """Place a block of `extent` (N,) rows, place (N,) from 0 to 1, among `length`: (N, length) bool."""
    first = (place * (length - extent + 1)).floor()[:, None]
    at = torch.arange(length, device=place.device)
    return (at >= first) & (at < first + extent[:, None])


MASKINGS: dict[str, type[Masking]] = {
    "random": Masking,
    "block": BlockMasking,
    "grid": GridMasking,
    "cells": CellMasking,
    "multiblock": MultiBlockMasking,
}


def masking(name: str, grid: Pair, mask_ratio: float) -> Masking:
    """Build the row `name` of MASKINGS for a grid of patches (rows, columns); ValueError if unknown."""
    if name not in MASKINGS:
        raise ValueError(f"mask {not_one_of(name, MASKINGS)}")
    return MASKINGS[name](grid, mask_ratio)
