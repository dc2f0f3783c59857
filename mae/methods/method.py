"""The contract of every pretraining method; tests/methods/test_contract.py tests each."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.models.vit import check_plain, initialise


class Method(nn.Module):
    """A pretraining method: a loss of augmented images. Class attributes are its needs and abilities.

    encoder: the timm ViT that is trained and exported, from `vit.build` with pool "token" and no head. Its
    weights are replaced by MAE's initialisation (`vit.initialise`); load weights afterwards, or pass
    fresh=False to continue from its own.
    """

    masked: ClassVar[bool] = False  # built with `masking`: it draws a mask (methods/masked.py)
    predicts: ClassVar[bool] = False  # built with `target`: it predicts patches, as pixels or classes
    causal: ClassVar[bool] = False  # a patch attends only to those before it, row by row
    views: ClassVar[int] = 1  # augmented images per sample that `forward` takes, each (N, C, H, W)
    labels: ClassVar[bool] = False  # `forward` takes class labels (N,) int64 as well, after the views
    # Shape of the uniform draws from [0, 1) that the loader makes per sample and `forward` takes last: masks
    # do not depend on ranks or workers. () where a method draws nothing.
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
        """(*views[, labels][, noise][, cached]) -> {"loss": 0-dim, parts ...}; changes no state.

        noise (N, *noise_shape), or None to draw it here, fixes all randomness except dropped paths. The loss
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
        """Caption of the pictures (methods/pictures.py), with everything that they take from the original."""
        return "this method hides nothing and predicts no pixels"


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make a context in which computations on `tensor` keep its precision, whatever autocast does."""
    device = tensor.device.type
    # Not `is_autocast_available`: it breaks a compiled graph in two (torch 2.11).
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
