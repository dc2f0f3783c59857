"""Which patches are hidden. A mask is a ranking: score every patch, hide the highest."""

from typing import NamedTuple

import torch
from torch import Tensor


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
