"""What is predicted for a masked patch, and the loss that fits it. A target is frozen: it learns nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.models.patches import Pair, patchify

EPSILON = 1e-6  # added to the variance, inside the square root


class Target(nn.Module):
    """Images in, what to predict for each patch out. Always in eval mode, without a trainable parameter.

    width: T, what a head predicts per patch. classes: how many there are, None where values are real.
    """

    width: int
    classes: int | None = None

    def __init__(self, patch_size: Pair, width: int) -> None:
        super().__init__()
        self.patch_size, self.width = patch_size, width
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), float32 or float64 -> values (N, L, T), or classes (N, L) or (N, L, S)."""
        raise NotImplementedError

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """(N, M, width) against (N, M, ...) -> 0-dim, in float32, or float64 where the target is."""
        return squared_error(predicted, target)

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        """Predictions (N, L, width) as pixels (N, L, P*P*C); None where they cannot be drawn.

        patches (N, L, P*P*C): the true pixels; `note` says what a picture borrows of them.
        """
        return None

    @property
    def note(self) -> str:
        """What a caption must say of `as_pixels`."""
        return "masked patches are shown as predicted"

    def train(self, mode: bool = True) -> "Target":
        """Stays in eval mode, whatever the method around it does."""
        return super().train(False)


class Pixels(Target):
    """The pixels of each patch (N, L, P*P*C), ordered (row, column, channel)."""

    def forward(self, images: Tensor) -> Tensor:
        return patchify(images, self.patch_size)

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        return predicted


class NormalisedPixels(Pixels):
    """Pixels (N, L, P*P*C), each patch of mean 0 and unbiased variance 1 (arXiv 2111.06377, section 3)."""

    def forward(self, images: Tensor) -> Tensor:
        patches = patchify(images, self.patch_size)
        mean, std = _statistics(patches)
        return (patches - mean) / std

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        """With each patch's mean and std from the ORIGINAL, masked patches included.

        A model of normalised pixels predicts a patch's pattern, not its brightness or contrast.
        """
        mean, std = _statistics(patches)
        return predicted * std + mean

    @property
    def note(self) -> str:
        return (
            "the model predicts normalised patches, so each masked one is shown with the mean and contrast "
            "of the original patch"
        )


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + EPSILON).sqrt()


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over values, then over patches: (N, M, T) twice -> 0-dim, in `target`'s dtype."""
    return (predicted.to(target.dtype) - target).square().mean()


def _of_pixels(kind: type[Pixels]) -> Callable[..., Target]:
    def built(encoder: VisionTransformer, state: Mapping[str, Tensor] | None) -> Target:
        rows, columns = encoder.patch_embed.patch_size
        return kind((rows, columns), rows * columns * encoder.in_chans)

    return built


TARGETS: dict[str, Callable[..., Target]] = {
    "pixels": _of_pixels(Pixels),
    "normalised_pixels": _of_pixels(NormalisedPixels),
}


def build_target(name: str, encoder: VisionTransformer, state: Mapping[str, Any] | None = None) -> Target:
    """The row `name` of TARGETS for the images and patches of `encoder`.

    state: what the stage `tokenizer` fitted, for the targets that need it. Raises ValueError for an unknown
    name.
    """
    if name not in TARGETS:
        raise ValueError(f"unknown target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name](encoder, state)
