"""What is predicted for a masked patch: a function images -> (N, L, T), and the loss that fits it."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mae.models.patches import Pair, patchify

EPSILON = 1e-6  # added to the variance, inside the square root


def pixels(images: Tensor, patch_size: int | Pair) -> Tensor:
    """(N, C, H, W) -> the pixels of each patch (N, L, P*P*C), ordered (row, column, channel)."""
    return patchify(images, patch_size)


def normalised_pixels(images: Tensor, patch_size: int | Pair) -> Tensor:
    """(N, C, H, W) -> pixels (N, L, P*P*C), each patch of mean 0 and unbiased variance 1 (2111.06377, 3)."""
    patches = patchify(images, patch_size)
    mean, std = _statistics(patches)
    return (patches - mean) / std


def unnormalise(predicted: Tensor, patches: Tensor) -> Tensor:
    """Predictions of normalised pixels (N, L, T) as pixels, with each patch's mean and std from the ORIGINAL.

    A model of normalised pixels predicts a patch's pattern, not its brightness or contrast. `patches`
    (N, L, T) are the true pixels, masked patches included: pictures made so borrow those two numbers a patch.
    """
    mean, std = _statistics(patches)
    return predicted * std + mean


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + EPSILON).sqrt()


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over values, then over patches: (N, M, T) twice -> 0-dim, in `target`'s dtype."""
    return (predicted.to(target.dtype) - target).square().mean()


class Target(NamedTuple):
    """`of(images, patch_size)` gives (N, L, T); `loss(predicted, target)` of (N, M, T) gives a scalar."""

    of: Callable[[Tensor, int | Pair], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


TARGETS = {
    "pixels": Target(pixels, squared_error),
    "normalised_pixels": Target(normalised_pixels, squared_error),
}
