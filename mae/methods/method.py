"""The contract that every pretraining method keeps; tests/methods/test_contract.py holds each to it."""

from typing import Protocol, runtime_checkable

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


@runtime_checkable
class Method(Protocol):
    """A pretraining method: an nn.Module from augmented images to a loss.

    encoder: the timm ViT that is trained and kept.
    views: augmented images per sample that `forward` takes, each (N, C, H, W).
    noise_shape: shape of what the loader draws uniformly from [0, 1) per sample and passes as `noise`, so
    that masks do not depend on ranks or workers; () where a method draws nothing.
    """

    encoder: VisionTransformer
    views: int
    noise_shape: tuple[int, ...]

    def forward(self, *views: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """{"loss": 0-dim, parts ...}, changing no state; noise (N, *noise_shape) fixes the mask."""
        ...

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step with the share of training done (0 to 1); teachers move here."""
        ...
