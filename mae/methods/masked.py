"""What methods that hide patches share: the mask, what is to be predicted where, and predictions to draw."""

from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.methods.method import Method, without_autocast
from mae.models.masking import Mask, Masking, masking
from mae.models.targets import Target, build_target


class MaskedMethod(Method):
    """Hide patches, predict the target of the hidden ones. A subclass says how, in `predict`.

    masking, target: from `models.masking.masking` and `models.targets.build_target`; None: the paper's.
    """

    predicts = masked = True
    hides: ClassVar[bool] = True  # nothing of a masked patch enters the encoder
    paper: ClassVar[tuple[str, float, str]]  # its mask, mask ratio and target, the constructor's defaults

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        masking: Masking | None = None,
        target: Target | None = None,
        fresh: bool = True,
    ) -> None:
        super().__init__(encoder, fresh=fresh)
        self.masking = masking or _paper_masking(self.paper, encoder)
        self.target = target or build_target(self.paper[2], encoder)
        self.noise_shape = self.masking.noise_shape

    def drawn(self, images: Tensor, noise: Tensor | None = None) -> Mask:
        """The mask of images (N, C, H, W) that noise stands for; ValueError where it has another shape."""
        return self.masking.drawn(images, noise)

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        """Predictions (N, M, width) for the patches wanted_ids (N, M); (N, L, width) without them."""
        raise NotImplementedError

    def forward(
        self, images: Tensor, noise: Tensor | None = None, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": the target's, over masked patches}; noise fixes the mask.

        kept (N, L, ...): what the target says of the images, where that is known.
        """
        mask = self.drawn(images, noise)
        predicted = self.predict(images, mask, mask.masked_ids)
        return {"loss": self.distance(predicted, self.truth(images, mask.masked_ids, kept))}

    def distance(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """The loss of predictions (N, M, width) of the target (N, M, ...): the target's own."""
        return self.target.loss(predicted, truth)

    def truth(self, images: Tensor, ids: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """The target (N, M, ...) of the patches ids (N, M), of all without: float32 or wider, or classes."""
        target = truth_of(self.target, images) if kept is None else kept
        return target if ids is None else target[torch.arange(len(ids), device=ids.device)[:, None], ids]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Mask]:
        """Predictions (N, L, width) of all patches, in the target's space (`Target.as_pixels`); the mask."""
        mask = self.drawn(images, noise)
        return self.predict(images, mask), mask

    def autoencode(self, images: Tensor) -> Tensor | None:
        """Predictions (N, L, width) from the encoder's own latents of all patches (CAE's figure 4).

        None where the decoder is not made for that.
        """
        return None


def truth_of(target: Target, images: Tensor) -> Tensor:
    """What `target` says of images (N, C, H, W): no gradient, float32 or float64 whatever autocast says."""
    with torch.no_grad(), without_autocast(images):
        return target(images if images.dtype == torch.float64 else images.float())


def _paper_masking(paper: tuple[str, float, str], encoder: VisionTransformer) -> Masking:
    name, ratio, _ = paper
    return masking(name, encoder.patch_embed.grid_size, ratio)
