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
    """Patches to hide out of `length`: all but int(length * (1 - mask_ratio)), as the MAE release rounds.

    Raises ValueError where nothing would be hidden or nothing stay visible.
    """
    visible = int(length * (1 - mask_ratio))
    if not 0 < mask_ratio < 1 or not 0 < visible < length:
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


class Masking:
    """How the patches of an image are hidden: noise in, `Mask` out. This one hides them at random (MAE).

    grid: patches in a column and in a row. num_masked: how many each image hides, whatever the noise.
    noise_shape: of what is drawn uniformly from [0, 1) per image; it fixes the mask.
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
        shape = (len(images), *self.noise_shape)
        if noise is None:
            noise = torch.rand(shape, device=images.device)
        elif noise.shape != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, these images need {shape}")
        return self(noise)

    def number(self, mask_ratio: float) -> int:
        """Patches to hide; raises ValueError where that is none or all of them."""
        return num_masked_of(self.grid[0] * self.grid[1], mask_ratio)

    def scores(self, noise: Tensor) -> Tensor:
        """Noise (N, *noise_shape) -> scores (N, L)."""
        return noise


MASKINGS: dict[str, type[Masking]] = {"random": Masking}


def masking(name: str, grid: Pair, mask_ratio: float) -> Masking:
    """The row `name` of MASKINGS for a grid of patches (rows, columns); ValueError for an unknown one."""
    if name not in MASKINGS:
        raise ValueError(f"unknown mask {name!r}; known: {', '.join(MASKINGS)}")
    return MASKINGS[name](grid, mask_ratio)
