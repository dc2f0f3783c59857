"""Masked image modeling: methods that predict a target of the masked patches, such as their pixels."""

from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.methods.masked import MaskedMethod
from mae.methods.method import without_autocast
from mae.models.masking import Mask
from mae.models.targets import Target, build_target


class MaskedImageModeling(MaskedMethod):
    """A method that hides patches and predicts their target. A subclass says how, in `predict`.

    target: from `models.targets.build_target`; None: the paper's.
    """

    predicts = True
    paper_target: ClassVar[str]  # the constructor's default

    def __init__(self, encoder: VisionTransformer, *, target: Target | None = None, **masked: Any) -> None:
        super().__init__(encoder, **masked)
        self.target = target or build_target(self.paper_target, encoder)

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        """Predict (N, M, width) for the patches wanted_ids (N, M); (N, L, width) without them."""
        raise NotImplementedError

    def forward(
        self, images: Tensor, noise: Tensor | None = None, cached: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": the target's, over masked patches}; noise fixes the mask.

        cached (N, L, ...): the target of the images, where it was computed before (`tokenizer.cache`).
        """
        mask = self.sample_mask(images, noise)
        predicted = self.predict(images, mask, mask.masked_ids)
        return {"loss": self.loss(predicted, self.target_of(images, mask.masked_ids, cached))}

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Compare predictions (N, M, width) with the target (N, M, ...), by the target's own loss."""
        return self.target.loss(predicted, target)

    def target_of(self, images: Tensor, ids: Tensor | None = None, cached: Tensor | None = None) -> Tensor:
        """Get the target (N, M, ...) of patches ids (N, M), by default all: float32, float64 or classes."""
        target = compute_target(self.target, images) if cached is None else cached
        return target if ids is None else target[torch.arange(len(ids), device=ids.device)[:, None], ids]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Mask]:
        """Predict all patches (N, L, width), in the target's space (`Target.as_pixels`); with the mask."""
        mask = self.sample_mask(images, noise)
        return self.predict(images, mask), mask

    def autoencode(self, images: Tensor) -> Tensor | None:
        """Predict (N, L, width) from the encoder's own latents of all patches (CAE's figure 4).

        None where the method's decoder cannot.
        """
        return None

    @property
    def picture_note(self) -> str:
        return f"visible patches are pasted in; {self.target.note}"


def compute_target(target: Target, images: Tensor) -> Tensor:
    """Compute the target of images (N, C, H, W): no gradient, float32 or float64 whatever autocast does."""
    with torch.no_grad(), without_autocast(images):
        return target(images if images.dtype == torch.float64 else images.float())
