"""The contract that every pretraining method keeps; tests/methods/test_contract.py holds each to it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.models.vit import check_plain, initialise


class Method(nn.Module):
    """A pretraining method: augmented images in, a loss out. What is said here once are the defaults.

    encoder: the timm ViT that is trained and kept, from `encoder.build` with pool "token" and no head. It is
    initialised as MAE's (`encoder.initialise`) over what it holds; load weights afterwards, or pass
    fresh=False to go on from the weights that it has.
    """

    masked: ClassVar[bool] = False  # built with `masking`: it draws a mask (methods/masked.py)
    predicts: ClassVar[bool] = False  # built with `target`: it predicts patches, as pixels or classes
    causal: ClassVar[bool] = False  # its encoder attends only to what comes before, row by row
    views: ClassVar[int] = 1  # augmented images per sample that `forward` takes, each (N, C, H, W)
    labels: ClassVar[bool] = False  # `forward` takes class labels (N,) int64 as well, after the views
    # Of what the loader draws uniformly from [0, 1) per sample and `forward` takes last, so that masks do not
    # depend on ranks or workers; () where a method draws nothing.
    noise_shape: tuple[int, ...] = ()
    encoder: VisionTransformer

    def __init__(self, encoder: VisionTransformer, *, fresh: bool = True) -> None:
        super().__init__()
        check_plain(encoder)
        if not isinstance(encoder.head, nn.Identity) or isinstance(encoder.norm, nn.Identity):
            name = type(self).__name__
            raise ValueError(f'{name} needs an encoder built with num_classes=0 and pool="token"')
        if fresh:
            initialise(encoder)
        self.encoder = encoder

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Tensor]:
        """(*views[, labels][, noise][, cached]) -> {"loss": 0-dim, parts ...}, changing no state.

        noise (N, *noise_shape), or None to draw it here, fixes all that is random but dropped paths. The loss
        is float32, under autocast and for half-precision images too, and float64 for float64 images.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Move teachers: called after every optimizer step with the share of training done (0 to 1)."""

    def describe(self) -> dict[str, int | str]:
        """Describe for metrics.json what the encoder sees of an image."""
        return {"attention": "causal" if self.causal else "full"}

    @property
    def picture_note(self) -> str:
        """Caption of the pictures (methods/pictures.py): what they show truly, and what they borrow."""
        return "this method hides nothing and predicts no pixels"


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which what is computed of `tensor` keeps its precision, whatever autocast says."""
    device = tensor.device.type
    # `is_autocast_available` would say the same, but parts a compiled graph in two (torch 2.11).
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
